--- A model of random weights, in any shape: for measuring speed and memory without a download.
local moonloom = require "moonloom"
local progress = require "moonloom._core.progress"
local vocabulary = require "moonloom.file.vocabulary"
local writer = require "moonloom.file.gguf_writer"

-- Every size can be changed by the parameter of its name.
local shapes = {
    ["gpt-oss-20b"] = {
        architecture = "gpt-oss", layers = 24, width = 2880, heads = 64, kv_heads = 8, head_dim = 64, ffn_width = 2880,
        experts = 32, experts_used = 4, window = 128, context = 131072, vocab_size = 201088, rope_base = 150000,
    },
    ["gpt-oss-120b"] = {
        architecture = "gpt-oss", layers = 36, width = 2880, heads = 64, kv_heads = 8, head_dim = 64, ffn_width = 2880,
        experts = 128, experts_used = 4, window = 128, context = 131072, vocab_size = 201088, rope_base = 150000,
    },
    ["tiny"] = {
        architecture = "gpt-oss", layers = 4, width = 192, heads = 6, kv_heads = 2, head_dim = 32, ffn_width = 192,
        experts = 8, experts_used = 2, window = 128, context = 131072, vocab_size = 1024, rope_base = 150000,
    },
    ["tinyllama-1.1b"] = {
        architecture = "llama", layers = 22, width = 2048, heads = 32, kv_heads = 4, head_dim = 64, ffn_width = 5632,
        context = 2048, vocab_size = 32000, rope_base = 10000,
    },
}

-- Sizes that a parameter can change, what they are, and the largest.
local sizes = {
    { "layers", "layers", 4096 },
    { "width", "elements of the residual stream" },
    { "heads", "query heads" },
    { "kv_heads", "key/value heads" },
    { "head_dim", "elements of a head" },
    { "ffn_width", "inner width of the feed-forward block, or of an expert" },
    { "experts", "experts of a layer", 4096 },
    { "experts_used", "experts that a token uses" },
    { "context", "context length in tokens" },
    { "vocab_size", "tokens of the vocabulary" },
}

-- What llama.cpp takes instead where a row does not fill blocks of 256, and general.file_type of files of that type.
local smaller_blocks = { q2_k = "q4_0", q3_k = "q4_0", q4_k = "q5_0", q5_k = "q5_1", q6_k = "q8_0", iq4_xs = "iq4_nl" }
local file_types = {
    f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 7, q5_0 = 8, q5_1 = 9, q2_k = 10, q3_k = 12, q4_k = 15, q5_k = 17,
    q6_k = 18, iq4_nl = 25, iq4_xs = 30, bf16 = 32, mxfp4 = 38,
}

local function sorted_keys(map)
    local list = {}
    for key in pairs(map) do list[#list + 1] = key end
    table.sort(list)
    return list
end

-- The shape that the parameters describe.
local function choose_shape(p)
    local shape = {}
    local known = shapes[p.shape]
    for key, value in pairs(known) do shape[key] = value end
    for _, size in ipairs(sizes) do
        local key = size[1]
        if p[key] then
            if not known[key] then error(("a %s model has no %s"):format(known.architecture, key), 0) end
            shape[key] = p[key]
        end
    end
    if shape.heads % shape.kv_heads ~= 0 then
        error(("%d heads cannot share %d key/value heads"):format(shape.heads, shape.kv_heads), 0)
    end
    if shape.experts and shape.experts_used > shape.experts then
        error(("%d of %d experts cannot be used"):format(shape.experts_used, shape.experts), 0)
    end
    for _, key in ipairs { "type", "expert_type" } do
        if not file_types[p[key]] then
            local names = table.concat(sorted_keys(file_types), " ")
            error(("there is no %s %s; there are %s"):format(key, p[key], names), 0)
        end
    end
    return shape
end

-- Lists the tensors: { name, type, shape } with a standard deviation, or with one value for all elements.
-- Rows of deviation 1/sqrt(columns) turn inputs of size 1 into outputs of size 1, so each block adds about 1 to the
-- residual stream that starts at 1; the head's 3/sqrt(columns) gives logits that differ as a trained model's do.
local function list_tensors(shape, p)
    local list = {}
    local function add(name, type, dims, deviation)
        list[#list + 1] = { name = name, type = type, shape = dims, deviation = deviation }
    end
    local function matrix(name, type, dims, deviation)
        local columns = dims[#dims]
        if columns % 256 ~= 0 then type = smaller_blocks[type] or type end
        add(name .. ".weight", type, dims, deviation or 1 / math.sqrt(columns))
    end
    local function norm(name)
        list[#list + 1] = { name = name .. ".weight", type = "f32", shape = { shape.width }, value = 1 }
    end
    local function bias(name, ...)
        if shape.experts then add(name .. ".bias", "f32", { ... }, 0.02) end
    end
    local width, inner, queries, keys = shape.width, shape.ffn_width, shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim

    matrix("token_embd", p.type, { shape.vocab_size, width }, 1)
    matrix("output", p.type, { shape.vocab_size, width }, 3 / math.sqrt(width))
    norm "output_norm"
    for layer = 0, shape.layers - 1 do
        local prefix = ("blk.%d."):format(layer)
        norm(prefix .. "attn_norm")
        for _, part in ipairs {
            { "attn_q", queries, width }, { "attn_k", keys, width }, { "attn_v", keys, width },
            { "attn_output", width, queries },
        } do
            matrix(prefix .. part[1], p.type, { part[2], part[3] })
            bias(prefix .. part[1], part[2])
        end
        if shape.experts then
            local experts = shape.experts
            add(prefix .. "attn_sinks.weight", "f32", { shape.heads }, 0.5)
            norm(prefix .. "post_attention_norm")
            matrix(prefix .. "ffn_gate_inp", "f32", { experts, width })
            bias(prefix .. "ffn_gate_inp", experts)
            for _, part in ipairs { { "gate", inner, width }, { "up", inner, width }, { "down", width, inner } } do
                local name = ("%sffn_%s_exps"):format(prefix, part[1])
                matrix(name, p.expert_type, { experts, part[2], part[3] })
                bias(name, experts, part[2])
            end
        else
            norm(prefix .. "ffn_norm")
            matrix(prefix .. "ffn_gate", p.type, { inner, width })
            matrix(prefix .. "ffn_up", p.type, { inner, width })
            matrix(prefix .. "ffn_down", p.type, { width, inner })
        end
    end
    return list
end

-- Metadata as llama.cpp's converter writes them.
local function put_metadata(file, shape, p)
    local function put(key, kind, value)
        file:meta(shape.architecture .. "." .. key, kind, value)
    end
    file:meta("general.architecture", "string", shape.architecture)
    file:meta("general.name", "string", "synth " .. p.shape)
    put("block_count", "u32", shape.layers)
    put("context_length", "u32", shape.context)
    put("embedding_length", "u32", shape.width)
    put("feed_forward_length", "u32", shape.ffn_width)
    put("attention.head_count", "u32", shape.heads)
    put("attention.head_count_kv", "u32", shape.kv_heads)
    put("attention.key_length", "u32", shape.head_dim)
    put("attention.value_length", "u32", shape.head_dim)
    put("attention.layer_norm_rms_epsilon", "f32", 1e-5)
    put("rope.freq_base", "f32", shape.rope_base)
    file:meta("general.file_type", "u32", file_types[shape.experts and p.expert_type or p.type])
    file:meta("general.quantization_version", "u32", 2)
    if shape.experts then
        put("expert_count", "u32", shape.experts)
        put("expert_used_count", "u32", shape.experts_used)
        put("expert_feed_forward_length", "u32", shape.ffn_width)
        put("attention.sliding_window", "u32", shape.window)
        put("rope.scaling.type", "string", "yarn")
        put("rope.scaling.factor", "f32", 32)
        put("rope.scaling.original_context_length", "u32", 4096)
    else
        put("rope.dimension_count", "u32", shape.head_dim)
        put("vocab_size", "u32", shape.vocab_size)
    end
end

local function put_vocabulary(file, words)
    local function put(key, kind, value)
        file:meta("tokenizer.ggml." .. key, kind, value)
    end
    put("model", "string", words.model)
    put("pre", "string", words.pre)
    put("tokens", "string[]", words.tokens)
    put("token_type", "i32[]", words.types)
    put("bos_token_id", "u32", words.bos)
    put("eos_token_id", "u32", words.eos)
    if words.merges then
        put("merges", "string[]", words.merges)
        put("padding_token_id", "u32", words.pad)
    else
        put("scores", "f32[]", words.scores)
        put("unknown_token_id", "u32", words.unknown)
        put("add_bos_token", "bool", true)
        put("add_eos_token", "bool", false)
    end
end

local Written = {}
Written.__index = Written

function Written:__tostring()
    return ("%s: %d tensors, %s, written in %.1f s"):format(self.path, self.tensors,
        progress.amount(self.bytes, "B"), self.seconds)
end

local function run(p)
    local shape = choose_shape(p)
    local path = p.output or (p.shape .. "-synth.gguf")
    if shape.architecture == "llama" and p.vocab then error("a tiktoken vocabulary is for gpt-oss shapes", 0) end
    local began = moonloom.now()
    local tensors = list_tensors(shape, p)
    local bar
    local ok, result = pcall(writer.save, path, { force = p.force }, function(file)
        put_metadata(file, shape, p)
        put_vocabulary(file, shape.architecture == "llama" and vocabulary.sentencepiece(shape.vocab_size)
            or vocabulary.byte_level(shape.vocab_size, p.vocab))
        local total, done = 0, 0
        for _, tensor in ipairs(tensors) do total = total + file:tensor(tensor.name, tensor.type, tensor.shape) end
        bar = progress.start { label = path, total = total, unit = "B" }
        local function advance(bytes)
            done = done + bytes
            bar:update(done)
        end
        for i, tensor in ipairs(tensors) do
            if tensor.value then
                file:constant(tensor.name, tensor.value, advance)
            else
                file:random(tensor.name, tensor.deviation, p.seed * 2 ^ 20 + i, advance)
            end
        end
    end)
    if bar then bar:done() end
    if not ok then error(result, 0) end
    return setmetatable({
        path = path, bytes = result, tensors = #tensors, seconds = (moonloom.now() - began) / 1000,
    }, Written)
end

local parameters = {
    { name = "output", type = "path", positional = true, doc = "the file to write; default: SHAPE-synth.gguf" },
    { name = "shape", type = "string", default = "gpt-oss-20b", choices = sorted_keys(shapes), doc = "shape" },
    { name = "type", type = "string", default = "q8_0", doc = "type of the matrices: f32 bf16 q4_k ..." },
    { name = "expert_type", type = "string", default = "mxfp4", doc = "type of the experts" },
    { name = "vocab", type = "path", doc = "tiktoken file to take the tokens from; default: made-up ones" },
    { name = "seed", type = "integer", default = 1, min = 0, doc = "number that the random weights come from" },
    { name = "force", type = "boolean", default = false, doc = "overwrite the file if it is there" },
}
for _, size in ipairs(sizes) do
    local doc = size[2] .. "; default: the shape's"
    parameters[#parameters + 1] = { name = size[1], type = "integer", min = 1, max = size[3] or 2 ^ 24, doc = doc }
end

return {
    name = "synth",
    summary = "write a GGUF of random weights in any shape",
    parameters = parameters,
    run = run,
}
