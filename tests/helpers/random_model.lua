-- Small models of random weights in any architecture, written the same way every time.
local ffi = require "ffi"
local writer = require "moonloom.file.gguf_writer"
local small = require "helpers.small_vocabulary"

local M = {}

local LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCABULARY = 2, 64, 4, 2, 96, 259

M.vocabulary = VOCABULARY

-- What there is besides the common part: biases, and norms of heads.
local traits = {
    llama = {},
    mistral3 = {}, -- llama with more keys, to the peer
    qwen2 = { qkv_bias = true },
    qwen3 = { head_norms = true, head_dim = 32 },
}

-- Adds { name, shape, deviation | around } of all tensors to a list. `model` as for M.write().
local function list_tensors(model)
    local list, own = {}, traits[model.arch]
    local head_dim = model.head_dim or own.head_dim or WIDTH / HEADS
    local queries, keys = HEADS * head_dim, KV_HEADS * head_dim
    local function matrix(name, rows, columns, size)
        list[#list + 1] = { name .. ".weight", { rows, columns }, deviation = (size or 1) / math.sqrt(columns) }
    end
    local function norm(name, count, around)
        list[#list + 1] = { name .. ".weight", { count }, around = around or 1 }
    end
    local function bias(name, count)
        if model.missing ~= name .. ".bias" then list[#list + 1] = { name .. ".bias", { count }, deviation = 0.5 } end
    end
    matrix("token_embd", VOCABULARY, WIDTH, math.sqrt(WIDTH))
    if not model.tied then matrix("output", VOCABULARY, WIDTH, 3) end
    norm("output_norm", WIDTH)
    for layer = 0, LAYERS - 1 do
        local prefix = ("blk.%d."):format(layer)
        norm(prefix .. "attn_norm", WIDTH)
        -- Large queries and keys: attention is sharp, so that it matters how they are turned.
        matrix(prefix .. "attn_q", queries, WIDTH, 2)
        matrix(prefix .. "attn_k", keys, WIDTH, 2)
        matrix(prefix .. "attn_v", keys, WIDTH)
        matrix(prefix .. "attn_output", WIDTH, queries)
        if own.qkv_bias or model.biases then
            bias(prefix .. "attn_q", queries)
            bias(prefix .. "attn_k", keys)
            bias(prefix .. "attn_v", keys)
        end
        if own.head_norms then
            norm(prefix .. "attn_q_norm", head_dim, 2)
            norm(prefix .. "attn_k_norm", head_dim, 2)
        end
        norm(prefix .. "ffn_norm", WIDTH)
        matrix(prefix .. "ffn_gate", FFN, WIDTH)
        matrix(prefix .. "ffn_up", FFN, WIDTH)
        matrix(prefix .. "ffn_down", WIDTH, FFN)
        if model.biases then
            bias(prefix .. "attn_output", WIDTH)
            bias(prefix .. "ffn_gate", FFN)
            bias(prefix .. "ffn_up", FFN)
            bias(prefix .. "ffn_down", WIDTH)
        end
    end
    for name, values in pairs(model.tensors or {}) do list[#list + 1] = { name, { #values }, values = values } end
    return list, head_dim
end

local function put_metadata(file, model, head_dim)
    local keys = {
        { "block_count", "u32", LAYERS }, { "context_length", "u32", 128 }, { "embedding_length", "u32", WIDTH },
        { "feed_forward_length", "u32", FFN }, { "attention.head_count", "u32", HEADS },
        { "attention.head_count_kv", "u32", KV_HEADS }, { "attention.key_length", "u32", head_dim },
        { "attention.value_length", "u32", head_dim }, { "attention.layer_norm_rms_epsilon", "f32", 1e-6 },
        { "rope.freq_base", "f32", 1000 }, { "vocab_size", "u32", VOCABULARY },
    }
    for key, value in pairs(model.keys or {}) do
        small.set(keys, key, type(value) == "string" and "string"
            or (key:find "length" or key:find "count" or key:find "window") and "u32" or "f32", value)
    end
    file:meta("general.architecture", "string", model.arch)
    for _, entry in ipairs(keys) do file:meta(model.arch .. "." .. entry[1], entry[2], entry[3]) end
    local words = small.bpe({ { "t", "h" }, { "th", "e" } }, { { "<|endoftext|>", 3 } })
    small.set(words, "tokenizer.ggml.eos_token_id", "u32", VOCABULARY - 1)
    for _, entry in ipairs(words) do file:meta(entry[1], entry[2], entry[3]) end
    if model.template then file:meta("tokenizer.chat_template", "string", model.template) end
end

local function put_values(file, name, count, value)
    local floats = ffi.new("float[?]", count)
    for i = 0, count - 1 do floats[i] = value(i) end
    file:data(name, floats, count * 4)
end

--- Writes the model: `arch`; `tied` (no head of its own), `biases` (all that llama may have), `head_dim`; `missing`
-- (the name of a bias that is left out). In addition `keys` { ["rope.freq_base"] = 1000, ... }, f32 vectors `tensors`
-- { ["rope_freqs.weight"] = { 1, ... } } and a chat `template`.
function M.write(path, model)
    local list, head_dim = list_tensors(model)
    writer.save(path, { force = true }, function(file)
        put_metadata(file, model, head_dim)
        for _, tensor in ipairs(list) do file:tensor(tensor[1], "f32", tensor[2]) end
        for seed, tensor in ipairs(list) do
            local name, count = tensor[1], tensor[2][1]
            if tensor.deviation then
                file:random(name, tensor.deviation, seed)
            elseif tensor.around then
                put_values(file, name, count, function(i) return tensor.around + 0.4 * math.sin(7 * i + seed) end)
            else
                put_values(file, name, count, function(i) return tensor.values[i + 1] end)
            end
        end
    end)
    return path
end

return M
