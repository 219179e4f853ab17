-- The models whose logits llama.cpp gave (tests/golden/peer.json, made by tests/tools/peer_models.lua): every
-- architecture, and every way of scaling RoPE that a file can carry. Each is { name, model as random_model.write()
-- takes it }, and:
--   peer          the file that the peer was given instead, where it reads a key only in another architecture or not at
--                 all, but computes the same from other keys
--   ext_factor    what the peer was told beside the file
--   plain         keys and tensors that undo the scaling: with these the logits must be far away
local M = {}

local DIMS = 16 -- elements of a head of llama's and qwen2's models

-- A divisor for each pair that RoPE turns: divisors(16, f) = { f(0), ..., f(7) }.
local function divisors(dims, divisor)
    local list = {}
    for i = 0, dims / 2 - 1 do list[i + 1] = divisor(i) end
    return list
end

local function yarn(more)
    local keys = {
        ["rope.scaling.type"] = "yarn", ["rope.scaling.factor"] = 4, ["rope.scaling.original_context_length"] = 32,
    }
    for key, value in pairs(more or {}) do keys[key] = value end
    return keys
end

local function longrope(original)
    return {
        arch = "llama",
        keys = {
            ["rope.scaling.type"] = "longrope", ["rope.scaling.original_context_length"] = original,
            ["rope.scaling.attn_factor"] = 1.19,
        },
        tensors = {
            ["rope_factors_long.weight"] = divisors(DIMS, function(i) return 1.5 + i end),
            ["rope_factors_short.weight"] = divisors(DIMS, function(i) return 1 + 0.25 * i end),
        },
    }
end

-- The first half of a head's elements is turned, as if it were all: pair i of 4 at 1000^(-2i/8). The peer's llama turns
-- all pairs at 1000^(-2i/16), or, divided by enough, not at all.
local partial = divisors(DIMS, function(i) return i < DIMS / 4 and 1000 ^ (2 * i / DIMS) or 1e30 end)

local MULTIPLIER, WORD = 0.7, 1.3
local usual = 0.1 * math.log(4) + 1
local mistral = yarn { ["rope.scaling.yarn_beta_fast"] = 3, ["rope.scaling.yarn_beta_slow"] = 0.4,
    ["rope.scaling.yarn_log_multiplier"] = MULTIPLIER, ["rope.scaling.attn_factor"] = 1.1 }
local slow = { ["rope.scaling.type"] = "linear", ["rope.scaling.factor"] = 1 }

M.list = {
    { "llama", { arch = "llama" }, plain = { keys = { ["rope.freq_base"] = 10000 } } },
    { "llama, biases, tied head", { arch = "llama", biases = true, tied = true },
        plain = { biases = false } },
    { "llama, linear", { arch = "llama", keys = { ["rope.scaling.type"] = "linear", ["rope.scaling.factor"] = 4 } },
        plain = { keys = slow } },
    { "llama, a factor without a type", { arch = "llama", keys = { ["rope.scaling.factor"] = 4 } },
        plain = { keys = {} } },
    { "llama, linear by its old name", { arch = "llama", keys = { ["rope.scale_linear"] = 4 } },
        plain = { keys = {} } },
    { "llama, none with a factor", { arch = "llama", keys = { ["rope.scaling.type"] = "none",
        ["rope.scaling.factor"] = 4 } }, plain = { keys = { ["rope.scaling.factor"] = 4 } } },
    { "llama, yarn", { arch = "llama", keys = yarn() }, plain = { keys = {} } },
    { "llama, yarn with betas and multiplier", { arch = "llama", keys = mistral },
        peer = { arch = "mistral3", keys = mistral }, plain = { keys = yarn() } },
    { "llama, yarn with its own concentration", { arch = "llama",
        keys = yarn { ["rope.scaling.yarn_attn_factor"] = WORD } },
        peer = { arch = "llama", keys = yarn { ["rope.scaling.attn_factor"] = WORD / usual } },
        plain = { keys = yarn() } },
    { "llama, yarn with part of the ramp", { arch = "llama", keys = yarn { ["rope.scaling.yarn_ext_factor"] = 0.5 } },
        peer = { arch = "llama", keys = yarn() }, ext_factor = 0.5, plain = { keys = yarn() } },
    { "llama, yarn without a ramp", { arch = "llama", keys = yarn { ["rope.scaling.yarn_ext_factor"] = 0 } },
        peer = { arch = "llama", keys = yarn() }, ext_factor = 0, plain = { keys = yarn() } },
    { "llama, divisors", { arch = "llama", tensors = {
        ["rope_freqs.weight"] = divisors(DIMS, function(i) return i < 2 and 1 or i < 5 and i or 8 end) } },
        plain = { tensors = {} } },
    { "llama, longrope past the original context", longrope(32), plain = { tensors = {}, keys = {} } },
    { "llama, longrope within the original context", longrope(256), plain = { tensors = {}, keys = {} } },
    { "llama, half a head turned", { arch = "llama", keys = { ["rope.dimension_count"] = DIMS / 2 } },
        peer = { arch = "llama", tensors = { ["rope_freqs.weight"] = partial } }, plain = { keys = {} } },
    { "qwen2", { arch = "qwen2", tied = true }, plain = { keys = { ["rope.freq_base"] = 10000 } } },
    { "qwen2, yarn", { arch = "qwen2", keys = yarn() }, plain = { keys = {} } },
    { "qwen3", { arch = "qwen3", tied = true }, plain = { keys = { ["rope.freq_base"] = 10000 } } },
    { "qwen3, yarn", { arch = "qwen3", keys = yarn() }, plain = { keys = {} } },
}

--- The first model of each architecture, in the order of the list.
function M.architectures()
    local list, seen = {}, {}
    for _, case in ipairs(M.list) do
        local model = case[2]
        if not seen[model.arch] then list[#list + 1] = model end
        seen[model.arch] = true
    end
    return list
end

--- The model of a case without its scaling.
function M.plain(case)
    local model = {}
    for key, value in pairs(case[2]) do model[key] = value end
    for key, value in pairs(case.plain) do model[key] = value end
    return model
end

--- The prompt: 72 tokens.
function M.ids()
    local ids = {}
    for i = 1, 72 do ids[i] = (i * i * 31 + i * 7) % 256 end
    return ids
end

return M
