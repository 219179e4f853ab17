--- A model: weights, tokenizer and sizes of one file, and the sessions that run on it.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local batch = require "moonloom.batch"
local caches = require "moonloom.cache.cache"
local policy = require "moonloom.cache.policy"
local progress = require "moonloom._core.progress"
local session = require "moonloom.session"
local tokenizer = require "moonloom.tokenizer"
local weights = require "moonloom.weights"
local C, check = ml.C, ml.check

local M = {}

local PREFIXES = 2 ^ 30
local ROPE_SCALING = {
    [C.ML_ROPE_NONE] = "none", [C.ML_ROPE_LINEAR] = "linear", [C.ML_ROPE_YARN] = "yarn",
    [C.ML_ROPE_LONGROPE] = "longrope",
}

local Model = {}
Model.__index = Model

local function read_config(handle)
    local config, plain = ffi.new("ml_config"), {}
    C.ml_model_config(handle, config)
    for _, field in ipairs {
        "layers", "width", "heads", "kv_heads", "head_dim", "rope_dims", "ffn_width", "experts", "experts_used",
        "window", "window_period", "context", "rope_original", "vocabulary", "norm_epsilon", "rope_base", "rope_factor",
        "rope_magnitude", "yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor",
    } do
        plain[field] = tonumber(config[field])
    end
    plain.architecture = ffi.string(config.architecture)
    plain.rope_scaling = ROPE_SCALING[config.rope_scaling]
    return plain
end

-- What the file calls itself, if that is a text, on one line; else how it is called.
local function name_of(file, path)
    local name = file:kind("general.name") == "string" and file:meta("general.name") or path:match("[^/]*$")
    return (name:gsub("%c", "?"))
end

-- Copies the weights into memory; a bar is drawn from the first second on.
local function copy_weights(file)
    local began = C.ml_time_now()
    local bar = progress.start { label = "copying weights", total = file:bytes(), unit = "B" }
    local fine, problem = pcall(file.copy, file, function(copied)
        if C.ml_time_now() - began > 1000 then bar:update(copied) end
    end)
    bar:done()
    if not fine then error(problem, 0) end
end

--- Opens the model file at `path` (any part of a split file); `how` is "map" or "copy". model.load_ms tells how long it
--- took.
function M.load(path, how)
    local began = C.ml_time_now()
    local file = weights.open(path)
    if how == "copy" then copy_weights(file) else C.ml_weights_prefault(file.handle) end
    local out = ffi.new("ml_model *[1]")
    check(C.ml_model_create(file.handle, out))
    local handle = ffi.gc(out[0], C.ml_model_free)
    local config, words = read_config(handle), tokenizer.create(file.handle)
    if words:size() ~= config.vocabulary then
        error(("%s is damaged: its tokenizer has %d tokens, but token_embd.weight has %d rows"):format(path,
            words:size(), config.vocabulary), 0)
    end
    return setmetatable({
        path = path,
        name = name_of(file, path),
        weights = file,
        tokenizer = words,
        load_ms = C.ml_time_now() - began,
        prefixes = PREFIXES,
        _caches = {}, -- kind -> { cache, what holds it }
        _handle = handle,
        _config = config,
    }, Model)
end

--- The core's handle. For modules of lua/.
function Model:handle()
    return self._handle or error(("the model %s is closed"):format(self.path), 3)
end

--- All sizes: { architecture, layers, width, heads, ... }, as ml_config in core/moonloom.h explains them.
function Model:config()
    return self._config
end

--- Tokens that `layer` (from 0) sees, the newest included; nil if it sees all.
function Model:window(layer)
    local tokens = tonumber(C.ml_model_window(self:handle(), layer))
    return tokens > 0 and tokens or nil
end

--- Which model and tokenizer this is, whatever its file is called: an ml_identity. For modules of lua/.
function Model:identity()
    local identity = self._identity or ffi.new("ml_identity")
    if not self._identity then C.ml_identity_of(self:handle(), self.tokenizer.handle, identity) end
    self._identity = identity
    return identity
end

--- Bytes of weights that decoding one token reads.
function Model:bytes_per_token()
    return tonumber(C.ml_model_bytes_per_token(self:handle()))
end

--- model:session{ cache = "bf16" | "f32", prefixes = true, kv = } -> an empty session. It shares its cache with the
--- other sessions of the model that have the same policy by name; with prefixes = false it has one of its own and
--- computes every token itself. `kv` is a policy for keys and values: a name or file ("balanced": see
--- moonloom.cache.policy), true for "balanced", false for all plain, or a table such as { bits = 8 }, which is always
--- for a cache of its own; default: what moonloom.kv() says.
function Model:session(options)
    options = given.options(options, "model:session", { "cache", "kv", "prefixes" })
    local kv = options.kv
    if kv == nil then kv = policy.default end
    if kv == true then kv = "balanced" end
    local alone = options.prefixes == false or self.prefixes == 0 or kv and type(kv) ~= "string"
    return session.new(self, options.cache, alone, kv or nil)
end

-- The cache of that kind which the model's sessions with the policy of that name (nil: without one) share.
function Model:cache(kind, kv)
    local key = kv and kind .. " " .. kv or kind
    local entry = self._caches[key]
    if not entry then
        entry = { caches.shared(self, kind, kv) }
        self._caches[key] = entry
    end
    return entry[1]
end

--- How many bytes of pages that closed or rewound sessions leave behind stay known for later ones, in each cache, in
--- memory and on disk (model.prefixes; 1 GiB at first: about 21,000 tokens of gpt-oss-20b in bf16). What was used least
--- goes first; 0 turns it off: then nothing is remembered, and sessions made from then on have caches of their own.
--- Where a policy's budget of memory is smaller, they go to its spill file, or are forgotten where it has none.
function Model:keep_prefixes(bytes)
    bytes = policy.bytes(bytes) or error(("keep_prefixes takes a number of bytes, not %s"):format(tostring(bytes)), 0)
    for _, entry in pairs(self._caches) do check(C.ml_cache_keep(entry[1].handle, bytes)) end
    self.prefixes = bytes
end

--- model:batch(capacity) -> an empty batch: see moonloom.batch.
function Model:batch(capacity)
    return batch.new(self, capacity)
end

--- `old`, a batch of this model or nil, if it has so many rows; else a larger one. For modules of lua/.
function Model:grown_batch(old, rows)
    if old and old.capacity >= rows then return old end
    local capacity = 16
    while capacity < rows do capacity = capacity * 2 end
    return batch.new(self, capacity)
end

--- The batch for prefills and step_all(), which all sessions of the model take turns with.
function Model:shared_batch(rows)
    self._batch = self:grown_batch(self._batch, rows)
    return self._batch
end

--- The batch for passes of verify(), which are no prefills: their logits outlive one.
function Model:verify_batch(rows)
    self._verify = self:grown_batch(self._verify, rows)
    return self._verify
end

--- model:tokenize(text, { special = true, bos = false }) -> list of ids.
function Model:tokenize(text, options)
    return self.tokenizer:encode(text, options)
end

--- model:detokenize(ids) -> text.
function Model:detokenize(ids)
    return self.tokenizer:decode(ids)
end

--- model:tensor(name) -> the weights of that name as a tensor that shows the file.
function Model:tensor(name)
    return require("moonloom.tensor").from_weights(self.weights.handle, name)
end

--- Releases the model; sessions that are left keep what they need.
function Model:close()
    if not self._handle then return end
    C.ml_model_free(ffi.gc(self._handle, nil))
    for _, entry in pairs(self._caches) do
        ffi.gc(entry[2], nil)
        entry[1]:leave()
    end
    self._handle, self._batch, self._verify, self._caches = nil, nil, nil, {}
    self.tokenizer:close()
    self.weights:close()
end

function Model:__tostring()
    if not self._handle then return ("model %s (closed)"):format(self.path) end
    local c = self._config
    return ("model %s: %s, %d layers of %d, %d tokens, context %d, %.2f GB"):format(self.name, c.architecture, c.layers,
        c.width, c.vocabulary, c.context, self.weights:bytes() / 1e9)
end

return M
