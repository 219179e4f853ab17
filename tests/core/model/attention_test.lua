-- Attention gives a row the same bits however the rows arrive: the cache, its tiles, chunks and kernels.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local weights = require "moonloom.weights"
local synth = require("moonloom.recipe.live").get("synth")

local C, check = ml.C, ml.check

local WIDTH, LAYERS = 64, 2 -- layer 0 sees 128 tokens, layer 1 everything
local SCALAR_TOKENS = 200 -- it is slow
-- `tokens` more than 512 take a second chunk of the context, more than 1024 a third, where the order of merging shows.
local SHAPES = {
    { heads = 8, kv_heads = 1, head_dim = 64, tokens = 520 },
    { heads = 6, kv_heads = 2, head_dim = 32, tokens = 1100 },
    { heads = 3, kv_heads = 3, head_dim = 8, tokens = 600 },
    { heads = 20, kv_heads = 1, head_dim = 40, tokens = 300 },
    { heads = 2, kv_heads = 1, head_dim = 256, tokens = 300 },
}

local function out(ctype, call, ...)
    local box = ffi.new(ctype .. "[1]")
    local args = { ... }
    args[#args + 1] = box
    check(call(unpack(args)))
    return box[0]
end

-- Writes a matrix with one element of `value` or -value in each row: a product with it is exact in any order of sums,
-- so that rows of different batches have equal queries, keys and values.
local function put_selection(path, file, name, step, value)
    local info = file:info(name)
    local rows, columns = info.shape[1], info.shape[2]
    local data = ffi.new("float[?]", rows * columns)
    for r = 0, rows - 1 do data[r * columns + (r * step + 3) % columns] = r % 3 == 0 and -value or value end
    local handle = assert(io.open(path, "r+b"))
    handle:seek("set", info.offset)
    handle:write(ffi.string(data, ffi.sizeof(data)))
    handle:close()
end

local function make_model(shape)
    local path = folder.path(("attention-%d-%d.gguf"):format(shape.heads, shape.head_dim))
    synth { output = path, shape = "tiny", type = "f32", layers = LAYERS, width = WIDTH, ffn_width = 32, experts = 2,
        vocab_size = 600, heads = shape.heads, kv_heads = shape.kv_heads, head_dim = shape.head_dim }
    local file = weights.open(path)
    for layer = 0, LAYERS - 1 do
        local prefix = ("blk.%d.attn_"):format(layer)
        put_selection(path, file, prefix .. "q.weight", 7, 2)
        put_selection(path, file, prefix .. "k.weight", 5, 1)
        put_selection(path, file, prefix .. "v.weight", 11, 1)
        put_selection(path, file, prefix .. "output.weight", 13, 1)
    end
    file:close()
    local mapped = weights.open(path)
    local model = ffi.gc(out("ml_model *", C.ml_model_create, mapped.handle), C.ml_model_free)
    mapped:close()
    return model
end

describe("attention", function()
    teardown(function()
        check(C.ml_isa_set("auto"))
        check(C.ml_threads_set(0))
        folder.remove()
    end)

    for _, shape in ipairs(SHAPES) do
        it(("of %d heads over %d of %d: the same bits in any batch, on any number of threads"):format(shape.heads,
            shape.kv_heads, shape.head_dim), function()
            local model = make_model(shape)
            local batch = ffi.gc(out("ml_batch *", C.ml_batch_create, model, shape.tokens), C.ml_batch_free)
            local row_bytes = WIDTH * ffi.sizeof("float")

            local function new_sequence(cache)
                return out("int32_t", C.ml_sequence_create, cache)
            end

            -- Runs rows { {sequence, position}, ... } through the attention of both layers; `change(residual)` may
            -- alter what goes in. Returns the residual stream after each layer.
            local function run(cache, rows, change)
                C.ml_batch_clear(batch)
                for _, row in ipairs(rows) do
                    check(C.ml_batch_add(batch, (row[2] * 71 + 13) % 600, row[2], row[1], 0))
                end
                check(C.ml_forward_embed(cache, batch))
                local view = out("ml_tensor *", C.ml_batch_tensor, batch, C.ML_VIEW_RESIDUAL)
                local residual = ffi.cast("float *", C.ml_tensor_data(view))
                if change then change(residual) end
                local results = {}
                for layer = 0, LAYERS - 1 do
                    check(C.ml_forward_attention(cache, batch, layer))
                    results[layer] = ffi.new("float[?]", #rows * WIDTH)
                    ffi.copy(results[layer], residual, #rows * row_bytes)
                end
                check(C.ml_forward_commit(cache, batch))
                C.ml_tensor_free(view)
                return results
            end

            local function range(sequence, first, last)
                local rows = {}
                for position = first, last do rows[#rows + 1] = { sequence, position } end
                return rows
            end

            -- What the rows of { {sequence, position}, ... } get must be what those positions got in `expected`.
            local function assert_rows(expected, results, rows, what)
                for layer = 0, LAYERS - 1 do
                    for i, row in ipairs(rows) do
                        local a = ffi.string(expected[layer] + row[2] * WIDTH, row_bytes)
                        local b = ffi.string(results[layer] + (i - 1) * WIDTH, row_bytes)
                        if a ~= b then
                            error(("%s: layer %d, position %d differs"):format(what, layer, row[2]), 0)
                        end
                    end
                end
            end

            -- Single rows and runs of up to 150, on 1 to 4 threads in turn.
            local function check_runs(cache, tokens, expected, what)
                local sequence, first = new_sequence(cache), 0
                while first < tokens do
                    check(C.ml_threads_set(math.random(4)))
                    local last = math.random() < 0.8 and first or math.min(tokens - 1, first + math.random(150))
                    local rows = range(sequence, first, last)
                    assert_rows(expected, run(cache, rows), rows, what)
                    first = last + 1
                end
            end

            -- Three sequences in turn, a few rows of each in a batch.
            local function check_interleaved(cache, tokens, expected, what)
                local sequences, done, left = {}, {}, 3 * tokens
                for s = 1, 3 do sequences[s], done[s] = new_sequence(cache), 0 end
                while left > 0 do
                    local rows = {}
                    for _ = 1, 12 do
                        local s = math.random(3)
                        for _ = 1, math.min(math.random(20), tokens - done[s]) do
                            rows[#rows + 1] = { sequences[s], done[s] }
                            done[s], left = done[s] + 1, left - 1
                        end
                    end
                    if #rows > 0 then assert_rows(expected, run(cache, rows), rows, what) end
                end
            end

            -- What comes later does not reach back, whatever it is.
            local function check_poisoned(cache, tokens, expected, what)
                local sequence = new_sequence(cache)
                local results = run(cache, range(sequence, 0, tokens - 1), function(residual)
                    for i = 0, WIDTH - 1 do residual[70 * WIDTH + i] = 0 / 0 end
                end)
                assert_rows(expected, results, range(sequence, 0, 69), what)
                assert.is_true(results[0][70 * WIDTH] ~= results[0][70 * WIDTH])
            end

            local function assert_close(plain, results, tokens, what)
                for layer = 0, LAYERS - 1 do
                    for i = 0, tokens * WIDTH - 1 do
                        local a, b = plain[layer][i], results[layer][i]
                        local distance = math.abs(a - b) / (1 + math.abs(a))
                        if distance > 1e-5 or distance ~= distance then
                            error(("%s: layer %d, element %d is %g, not %g"):format(what, layer, i, b, a), 0)
                        end
                    end
                end
            end

            local plain -- of the first instruction set, f32 cache
            for _, isa in ipairs(isa_helper.sets) do
                if C.ml_isa_set(isa) == C.ML_OK then
                    local tokens = isa == "scalar" and SCALAR_TOKENS or shape.tokens
                    for _, dtype in ipairs { C.ML_F32, C.ML_BF16 } do
                        math.randomseed(5)
                        check(C.ml_threads_set(1))
                        local cache = ffi.gc(out("ml_cache *", C.ml_cache_create, model, dtype), C.ml_cache_free)
                        local expected = run(cache, range(new_sequence(cache), 0, tokens - 1))
                        check_runs(cache, tokens, expected, isa .. " in runs")
                        if dtype == C.ML_F32 then
                            plain = plain or expected
                            assert_close(plain, expected, SCALAR_TOKENS, isa .. " beside " .. isa_helper.sets[1])
                            check_interleaved(cache, tokens, expected, isa .. " interleaved")
                            check_poisoned(cache, tokens, expected, isa .. " before a NaN")
                        end
                    end
                end
            end
        end)
    end
end)
