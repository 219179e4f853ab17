-- Damaged files: the tiny model cut off at 300 places and with 2,000 single bytes changed in its header. Each is
-- refused with a sentence, or opens and is used in full: all metadata, both ends of every tensor, tokenizer, model, and
-- one token through it.
--     MOONLOOM_STRESS=600 ./build.sh asan gguf_fuzz      changes bytes for so many seconds; MOONLOOM_SEED=7 for others
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local weights = require "moonloom.weights"
local folder = require "helpers.folder"
local stress = require "helpers.stress"

local C = ml.C
local path = folder.path("damaged.gguf")

pcall(ffi.cdef, "int truncate(const char *path, int64_t length);")

-- A sequence that is the same on every machine (Park and Miller, 1988).
local function random_numbers(seed)
    local state = seed
    return function(limit)
        state = state * 48271 % 2147483647
        return state % limit
    end
end

local function assert_sentence(message)
    assert.is_true(#message > 10, message)
    assert.truthy(message:match("^[%w/]"), message)
end

-- Makes an object; it is freed with the last reference to what this returns. nil, after a sentence, if it is refused.
local function make(kind, ...)
    local out = ffi.new(kind .. " *[1]")
    local arguments = { ... }
    arguments[#arguments + 1] = out
    if C[kind .. "_create"](unpack(arguments)) == C.ML_OK then return ffi.gc(out[0], C[kind .. "_free"]) end
    assert_sentence(ffi.string(C.ml_last_error()))
end

local function release(object)
    if object then C[tostring(ffi.typeof(object)):match("struct (ml_%w+)") .. "_free"](ffi.gc(object, nil)) end
end

-- One token through a model: whatever its numbers are, it must not crash.
local function step(model)
    local cache, batch = make("ml_cache", model, C.ML_F32), make("ml_batch", model, 1)
    local sequence = ffi.new("int32_t[1]")
    if cache and batch and C.ml_sequence_create(cache, sequence) == C.ML_OK then
        C.ml_batch_add(batch, 1, 0, sequence[0], 1)
        if C.ml_forward(cache, batch) ~= C.ML_OK then assert_sentence(ffi.string(C.ml_last_error())) end
    end
    release(batch)
    release(cache)
end

local function touch(w, index)
    local out = ffi.new("ml_tensor *[1]")
    if C.ml_weights_tensor(w.handle, index - 1, out) ~= C.ML_OK then
        return assert_sentence(ffi.string(C.ml_last_error()))
    end
    local data, bytes = ffi.cast("const uint8_t *", C.ml_tensor_data(out[0])), w:info(index).bytes
    local sum = data[0] + data[bytes - 1]
    C.ml_tensor_free(out[0])
    return sum
end

-- Opens the damaged file and uses all of it. Returns "refused", "opened" or "runs".
local function exercise()
    local ok, w = pcall(weights.open, path)
    if not ok then
        assert_sentence(w.message)
        return "refused"
    end
    for _, key in ipairs(w:keys()) do
        local _, item = w:kind(key)
        if item ~= "array" then w:meta(key) end
    end
    for i = 1, w:count() do touch(w, i) end
    local tokenizer, model = make("ml_tokenizer", w.handle), make("ml_model", w.handle)
    w:close()
    if model then step(model) end
    release(model)
    release(tokenizer)
    return tokenizer and model and "runs" or "opened"
end

describe("a damaged gguf", function()
    local original = folder.read(ml.home .. "/data/tiny-gpt-oss.gguf")
    local header -- bytes before the data
    local peak
    local threads = C.ml_threads_count()

    setup(function()
        C.ml_threads_set(1) -- thousands of tiny passes: waking others would cost more than they do
        local w = weights.open(ml.home .. "/data/tiny-gpt-oss.gguf")
        header = w:info(1).offset
        w:close()
        folder.write("damaged.gguf", original)
        exercise()
        peak = C.ml_memory_peak()
    end)
    teardown(function()
        C.ml_threads_set(threads)
        folder.remove()
    end)

    -- The sanitizer keeps freed memory for a while, so this bound is generous; a runaway count asks for gigabytes.
    local function assert_modest()
        assert.is_true(C.ml_memory_peak() - peak < 600e6)
    end

    it("is intact to begin with", function()
        assert.equal("runs", exercise())
    end)

    it("is refused or used with 2,000 bytes of its header changed", function()
        local random = random_numbers(stress.seed(20240805))
        local seen = { refused = 0, opened = 0, runs = 0 }
        local file = assert(io.open(path, "r+b"))
        for _ in stress.rounds(2000) do
            local place = random(header)
            local byte = original:byte(place + 1)
            file:seek("set", place)
            file:write(string.char(bit.bxor(byte, 1 + random(255))))
            file:flush()
            local outcome = exercise()
            seen[outcome] = seen[outcome] + 1
            file:seek("set", place)
            file:write(string.char(byte))
            file:flush()
        end
        file:close()
        assert.equal("runs", exercise())
        assert.is_true(seen.refused > 100 and seen.runs > 100)
        assert_modest()
    end)

    it("is refused when cut off at any of 300 places", function()
        local random = random_numbers(7)
        local places = { 0, 1, 3, 4, 7, 8, 23, 24, header - 1, header, #original - 1 }
        while #places < 300 do places[#places + 1] = random(#places % 2 == 0 and header or #original) end
        table.sort(places, function(a, b) return a > b end)
        for _, place in ipairs(places) do
            assert.equal(0, ffi.C.truncate(path, place))
            assert.equal("refused", exercise())
        end
        assert_modest()
    end)
end)
