-- The forward pass gives the same logits however its rows arrive, and survives misuse.
local ml = require "moonloom._core.ffi"
local isa_helper = require "helpers.isa"
local ffi = require "ffi"
local json = require "cjson"
local C, check = ml.C, ml.check

local TOLERANCE = 0 -- the same bits: a row does not depend on what else is in its batch

local function out(ctype, call, ...)
    local box = ffi.new(ctype .. "[1]")
    local args = { ... }
    args[#args + 1] = box
    check(call(unpack(args)))
    return box[0]
end

local function golden_ids(name)
    local file = assert(io.open(MOONLOOM_HOME .. "/tests/golden/gguf-q8_0.exact.json", "rb"))
    local golden = json.decode(file:read("*a"))
    file:close()
    for _, prompt in ipairs(golden.prompts) do
        if prompt.name == name then return prompt.ids end
    end
end

describe("forward", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local weights, model, config, batch, ids
    local caches = {}

    setup(function()
        weights = out("ml_weights *", C.ml_weights_open, MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        model = out("ml_model *", C.ml_model_create, weights)
        config = ffi.new("ml_config")
        C.ml_model_config(model, config)
        batch = out("ml_batch *", C.ml_batch_create, model, 1024)
        ids = golden_ids("long700")
    end)

    teardown(function()
        for _, cache in ipairs(caches) do C.ml_cache_free(cache) end
        C.ml_batch_free(batch)
        C.ml_model_free(model)
        C.ml_weights_free(weights)
    end)

    local function new_cache(dtype)
        caches[#caches + 1] = out("ml_cache *", C.ml_cache_create, model, dtype or C.ML_F32)
        return caches[#caches]
    end

    local function new_sequence(cache)
        return out("int32_t", C.ml_sequence_create, cache)
    end

    -- Copies the logits of a row of the batch.
    local function logits_of(row)
        local view = out("const float *", C.ml_batch_logits, batch, row)
        local copy = ffi.new("float[?]", config.vocabulary)
        ffi.copy(copy, view, ffi.sizeof("float") * tonumber(config.vocabulary))
        return copy
    end

    -- Feeds ids[first..last] (1-based) in one batch; returns the logits of the last.
    local function feed(cache, sequence, first, last)
        C.ml_batch_clear(batch)
        for i = first, last do
            check(C.ml_batch_add(batch, ids[i], i - 1, sequence, i == last and 1 or 0))
        end
        check(C.ml_forward(cache, batch))
        return logits_of(last - first)
    end

    local function distance(a, b)
        local worst = 0
        for i = 0, tonumber(config.vocabulary) - 1 do
            local d = math.abs(a[i] - b[i])
            if d > worst or d ~= d then worst = d end
        end
        return worst
    end

    local function assert_same(a, b, what)
        local d = distance(a, b)
        assert.is_true(d <= TOLERANCE, what .. ": logits differ by " .. d)
    end

    it("agrees token by token, at once, in random chunks and among 8 interleaved sequences", function()
        math.randomseed(7)
        local cache = new_cache()
        local whole = feed(cache, new_sequence(cache), 1, #ids)

        local one = new_sequence(cache)
        local single
        for i = 1, #ids do single = feed(cache, one, i, i) end
        assert_same(whole, single, "token by token")

        local chunked, i, last = new_sequence(cache), 1, nil
        while i <= #ids do
            local to = math.min(#ids, i + math.random(0, 90))
            last = feed(cache, chunked, i, to)
            i = to + 1
        end
        assert_same(whole, last, "random chunks")

        local sequences, done, rows = {}, {}, {}
        for s = 1, 8 do
            sequences[s], done[s] = new_sequence(cache), 0
        end
        repeat
            C.ml_batch_clear(batch)
            local added = 0
            for _ = 1, 60 do
                local s = math.random(8)
                if done[s] < #ids then
                    done[s] = done[s] + 1
                    check(C.ml_batch_add(batch, ids[done[s]], done[s] - 1, sequences[s], done[s] == #ids and 1 or 0))
                    if done[s] == #ids then rows[s] = added end
                    added = added + 1
                end
            end
            if added > 0 then check(C.ml_forward(cache, batch)) end
            for s, row in pairs(rows) do
                assert_same(whole, logits_of(row), "interleaved sequence " .. s)
                rows[s] = nil
            end
            local left = false
            for s = 1, 8 do left = left or done[s] < #ids end
        until not left
        for s = 1, 8 do assert.equal(#ids, tonumber(C.ml_sequence_length(cache, sequences[s]))) end
    end)

    it("agrees after rewind and replay, and in a fork, at positions past the window", function()
        math.randomseed(11)
        local cache = new_cache()
        local sequence = new_sequence(cache)
        local whole = feed(cache, sequence, 1, #ids)
        for _ = 1, 12 do
            local position = math.random(config.window + 1, #ids - 1)
            check(C.ml_sequence_rewind(cache, sequence, position))
            assert_same(whole, feed(cache, sequence, position + 1, #ids), "rewind to " .. position)
        end
        for _ = 1, 12 do
            local position = math.random(1, #ids - 1)
            local before = tonumber(C.ml_cache_bytes(cache))
            local fork = out("int32_t", C.ml_sequence_fork, cache, sequence, position)
            assert.equal(before, tonumber(C.ml_cache_bytes(cache)))
            -- The fork goes another way first: the original must not see it.
            C.ml_batch_clear(batch)
            check(C.ml_batch_add(batch, 5, position, fork, 1))
            check(C.ml_forward(cache, batch))
            check(C.ml_sequence_rewind(cache, fork, position))
            assert_same(whole, feed(cache, fork, position + 1, #ids), "fork at " .. position)
            check(C.ml_sequence_free(cache, fork))
            assert.equal(before, tonumber(C.ml_cache_bytes(cache)))
        end
        check(C.ml_sequence_rewind(cache, sequence, #ids - 1))
        assert_same(whole, feed(cache, sequence, #ids, #ids), "the original after its forks")
    end)

    it("stays within bf16's rounding with a bf16 cache, however the rows arrive", function()
        local cache = new_cache(C.ML_BF16)
        local whole = feed(cache, new_sequence(cache), 1, 400)
        local sequence, last = new_sequence(cache), nil
        for i = 1, 400 do last = feed(cache, sequence, i, i) end
        assert_same(whole, last, "bf16 cache")
    end)

    it("gives the same bits with any number of threads", function()
        local before = C.ml_threads_count()
        local cache = new_cache()
        local reference
        for threads = 1, 4 do
            check(C.ml_threads_set(threads))
            local sequence = new_sequence(cache)
            feed(cache, sequence, 1, 200)
            local logits = feed(cache, sequence, 201, 201)
            reference = reference or logits
            assert.equal(0, distance(reference, logits))
        end
        check(C.ml_threads_set(before))
    end)

    it("is the same in steps, and shows what passes through", function()
        local cache = new_cache()
        local sequence = new_sequence(cache)
        local whole = feed(cache, sequence, 1, 40)
        check(C.ml_sequence_rewind(cache, sequence, 0))
        C.ml_batch_clear(batch)
        for i = 1, 40 do check(C.ml_batch_add(batch, ids[i], i - 1, sequence, i == 40 and 1 or 0)) end
        check(C.ml_forward_embed(cache, batch))
        for l = 0, config.layers - 1 do
            check(C.ml_forward_attention(cache, batch, l))
            check(C.ml_forward_router(cache, batch, l))
            check(C.ml_forward_experts(cache, batch, l))
        end
        check(C.ml_forward_head(cache, batch))
        assert.equal(0, tonumber(C.ml_sequence_length(cache, sequence)))
        check(C.ml_forward_commit(cache, batch))
        assert.equal(40, tonumber(C.ml_sequence_length(cache, sequence)))
        assert.equal(0, distance(whole, logits_of(39)))
    end)

    it("refuses rows and steps out of order with a sentence, and stays usable", function()
        local cache, other = new_cache(), new_cache()
        local sequence = new_sequence(cache)
        local function refused(status, words)
            assert.equal(C.ML_E_ARGUMENT, status)
            local sentence = ffi.string(C.ml_last_error())
            assert.truthy(sentence:find(words, 1, true), sentence)
        end
        C.ml_batch_clear(batch)
        refused(C.ml_forward(cache, batch), "no rows")
        refused(C.ml_batch_add(batch, -1, 0, sequence, 0), "token -1")
        refused(C.ml_batch_add(batch, config.vocabulary, 0, sequence, 0), "outside the vocabulary")
        check(C.ml_batch_add(batch, 1, 3, sequence, 1))
        refused(C.ml_forward(cache, batch), "position")
        C.ml_batch_clear(batch)
        check(C.ml_batch_add(batch, 1, 0, 77, 1))
        refused(C.ml_forward(cache, batch), "no sequence 77")
        C.ml_batch_clear(batch)
        check(C.ml_batch_add(batch, 1, 0, sequence, 1))
        refused(C.ml_forward_layer(cache, batch, 0), "ml_forward_embed")
        check(C.ml_forward_embed(cache, batch))
        refused(C.ml_forward_layer(other, batch, 0), "ml_forward_embed")
        refused(C.ml_forward_attention(cache, batch, config.layers), "layers 0 to")
        refused(C.ml_forward_experts(cache, batch, 0), "router")
        check(C.ml_sequence_free(cache, sequence)) -- the pages go away under the pass
        refused(C.ml_forward_attention(cache, batch, 0), "changed")
        refused(C.ml_forward_commit(cache, batch), "nothing to commit")
        refused(C.ml_sequence_rewind(cache, sequence, 0), "no sequence")
        sequence = new_sequence(cache)
        refused(C.ml_sequence_rewind(cache, sequence, 1), "it has 0 tokens")
        refused(C.ml_sequence_fork(cache, sequence, -1, ffi.new("int32_t[1]")), "fork")
        feed(cache, sequence, 1, 10)
    end)

    it("refuses to go on with other rows than the pass began with, as many as they may be", function()
        local cache = new_cache()
        local sequence, view = new_sequence(cache), ffi.new("ml_tensor *[1]")
        local function refused(status, words)
            assert.equal(C.ML_E_ARGUMENT, status)
            local sentence = ffi.string(C.ml_last_error())
            assert.truthy(sentence:find(words, 1, true), sentence)
        end
        local small = out("ml_batch *", C.ml_batch_create, model, 3) -- it has room for the logits of one row
        check(C.ml_batch_add(small, 1, 0, sequence, 1))
        check(C.ml_forward_embed(cache, small))
        check(C.ml_batch_add(small, 1, 1, sequence, 1))
        refused(C.ml_batch_tensor(small, C.ML_VIEW_LOGITS, view), "ml_forward_embed")
        C.ml_batch_clear(small)
        check(C.ml_batch_add(small, 1, 5000, 77, 1)) -- no such sequence, no such page
        refused(C.ml_forward_layer(cache, small, 0), "ml_forward_embed")
        refused(C.ml_forward_head(cache, small), "ml_forward_embed")
        refused(C.ml_forward_commit(cache, small), "nothing to commit")
        C.ml_batch_clear(small)
        for i = 0, 2 do check(C.ml_batch_add(small, 1, i, sequence, i == 0 and 1 or 0)) end
        check(C.ml_forward(cache, small))
        C.ml_batch_clear(small)
        for i = 3, 5 do check(C.ml_batch_add(small, 1, i, sequence, 1)) end
        refused(C.ml_batch_logits(small, 2, ffi.new("const float *[1]")), "no logits")
        refused(C.ml_batch_tensor(small, C.ML_VIEW_LOGITS, view), "ml_forward_embed")
        check(C.ml_forward(cache, small))
        C.ml_batch_free(small)
    end)

    it("stops at an interrupt with nothing committed", function()
        local cache = new_cache()
        local sequence = new_sequence(cache)
        local before = feed(cache, sequence, 1, 100)
        C.ml_batch_clear(batch)
        check(C.ml_batch_add(batch, ids[101], 100, sequence, 1))
        C.ml_interrupt_set(1)
        assert.equal(C.ML_E_INTERRUPTED, C.ml_forward(cache, batch))
        C.ml_interrupt_set(0)
        assert.equal(100, tonumber(C.ml_sequence_length(cache, sequence)))
        check(C.ml_sequence_rewind(cache, sequence, 99))
        assert_same(before, feed(cache, sequence, 100, 100), "after the interrupt")
    end)
end)
