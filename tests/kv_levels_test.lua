-- Levels of the cache: where pages lie, and that it makes no difference to what attention sees.
local ffi = require "ffi"
local isa_helper = require "helpers.isa"
local ml = require "moonloom.ffi"
local moonloom = require "moonloom"
local C, check = ml.C, ml.check

local PAGE = 64
local HOT, WARM, DISK = 0, 1, 3
local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " ..
    "One day, Tom found a big red ball under the old tree, and his mom said it was too late for a swim. "

describe("the levels of a cache", function()
    local model, ids, layers

    setup(function()
        isa_helper.rows_alone()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        layers = model:config().layers
        ids = model:tokenize(TEXT:rep(60))
    end)

    teardown(function()
        model:close()
        isa_helper.as_before()
    end)

    local function range(first, last)
        local list = {}
        for i = first, last do list[#list + 1] = ids[i] end
        return list
    end

    local function handle_of(session)
        return session:shared_cache().handle
    end

    local function levels(session, layer)
        local out, list = ffi.new("ml_level[4]"), {}
        check(C.ml_cache_levels(handle_of(session), layer or -1, out))
        for level = HOT, DISK do
            list[level] = {}
            for _, name in ipairs { "pages", "bytes", "whole", "hits", "lowered", "raised" } do
                list[level][name] = tonumber(out[level][name])
            end
        end
        return list
    end

    it("are counted by layer, with what happened to the pages", function()
        local session = model:session { kv = { hot_tokens = 64, bits = { [1] = 8, default = 16 } } }
        session:feed(range(1, 300))
        local one, all = levels(session, 1), levels(session)
        assert.equal(3, one[WARM].pages)
        assert.equal(2, one[HOT].pages)
        assert.equal(3, one[WARM].lowered)
        assert.equal(5 * layers - 3, all[HOT].pages)
        assert.equal((session:bytes()), all[HOT].bytes + all[WARM].bytes)
        assert.equal(tonumber(C.ml_cache_page_bytes(handle_of(session), 1, 0)) * 3, all[WARM].whole)
        session:step(ids[301])
        assert.equal(3, levels(session, 1)[WARM].hits - one[WARM].hits)
        assert.equal(2, levels(session, 1)[HOT].hits - one[HOT].hits)
        local tokens = ffi.new("int64_t[4]")
        check(C.ml_sequence_levels(handle_of(session), session.sequence, 1, tokens))
        assert.same({ 109, 192, 0, 0 }, { tonumber(tokens[0]), tonumber(tokens[1]), tonumber(tokens[2]),
            tonumber(tokens[3]) })
        assert.equal(C.ML_E_ARGUMENT, C.ml_cache_levels(handle_of(session), layers, ffi.new("ml_level[4]")))
        session:close()
    end)

    it("tell what packing and quantising make of a page", function()
        local session = model:session { kv = { hot_tokens = 0, bits = { [0] = 4, default = 16 } } }
        local sample = ffi.new("ml_page_sample")
        assert.equal(C.ML_E_NOT_FOUND, C.ml_cache_sample(handle_of(session), session.sequence, 0, sample))
        session:feed(range(1, 2 * PAGE + 1))
        check(C.ml_cache_sample(handle_of(session), session.sequence, 1, sample))
        assert.equal(1, sample.plain)
        assert.is_true(sample.packed < sample.unsplit and sample.unsplit <= sample.bytes + 100)
        for _, errors in ipairs { sample.key_error, sample.value_error } do
            assert.is_true(errors[0] > 1e-4 and errors[0] < 0.02 and errors[1] > 5 * errors[0] and errors[1] < 0.2)
        end
        check(C.ml_cache_sample(handle_of(session), session.sequence, 0, sample))
        assert.equal(0, sample.plain)
        assert.equal(tonumber(C.ml_cache_page_bytes(handle_of(session), 0, 0)), tonumber(sample.bytes))
        session:close()
    end)
end)
