-- Kernels: dtypes, the choice of the instruction set, logits primitives.
local ml = require "moonloom.ffi"
local C, ffi = ml.C, require "ffi"

describe("dtypes", function()
    it("have names, blocks and bytes as GGUF defines them", function()
        local expected = {
            f32 = { 0, 1, 4 }, f16 = { 1, 1, 2 }, q4_0 = { 2, 32, 18 }, q4_1 = { 3, 32, 20 }, q5_0 = { 6, 32, 22 },
            q5_1 = { 7, 32, 24 }, q8_0 = { 8, 32, 34 }, q2_k = { 10, 256, 84 }, q3_k = { 11, 256, 110 },
            q4_k = { 12, 256, 144 }, q5_k = { 13, 256, 176 }, q6_k = { 14, 256, 210 }, iq4_nl = { 20, 32, 18 },
            iq4_xs = { 23, 256, 136 }, i8 = { 24, 1, 1 }, i16 = { 25, 1, 2 }, i32 = { 26, 1, 4 }, i64 = { 27, 1, 8 },
            f64 = { 28, 1, 8 }, bf16 = { 30, 1, 2 }, mxfp4 = { 39, 32, 17 },
        }
        for name, e in pairs(expected) do
            assert.equal(e[1], C.ml_dtype_from_name(name))
            assert.equal(name, ffi.string(C.ml_dtype_name(e[1])))
            assert.equal(e[2], tonumber(C.ml_dtype_block(e[1])))
            assert.equal(e[3], tonumber(C.ml_dtype_bytes(e[1])))
        end
        assert.equal(-1, C.ml_dtype_from_name("q9"))
        assert.is_true(C.ml_dtype_name(4) == nil and C.ml_dtype_name(-1) == nil and C.ml_dtype_name(1000) == nil)
        assert.equal(0, tonumber(C.ml_dtype_block(40)))
    end)
end)

describe("the instruction set", function()
    it("can be chosen by name, and unknown names are refused with a sentence", function()
        local before = ffi.string(C.ml_isa_name())
        assert.equal(C.ML_OK, C.ml_isa_set("scalar"))
        assert.equal("scalar", ffi.string(C.ml_isa_name()))
        assert.equal(C.ML_E_ARGUMENT, C.ml_isa_set("mmx"))
        assert.truthy(ffi.string(C.ml_last_error()):find("mmx", 1, true))
        assert.equal("scalar", ffi.string(C.ml_isa_name()))
        assert.equal(C.ML_OK, C.ml_isa_set(before))
    end)

    it("gives a read bandwidth", function()
        local rate = ffi.new "double[1]"
        assert.equal(C.ML_OK, C.ml_machine_bandwidth(20, rate))
        assert.is_true(rate[0] > 1e8 and rate[0] < 1e13)
        assert.equal(C.ML_E_ARGUMENT, C.ml_machine_bandwidth(0 / 0, rate))
    end)
end)

describe("logits", function()
    local n = 5000
    local logits = ffi.new("float[?]", n)
    local order = {}
    for i = 0, n - 1 do
        logits[i] = math.floor(math.sin(i * 12.9898) * 997) / 64 -- with ties
        order[i + 1] = i
    end
    table.sort(order, function(a, b)
        if logits[a] ~= logits[b] then return logits[a] > logits[b] end
        return a < b
    end)

    it("top-k is what a full sort gives, ties by id", function()
        for _, k in ipairs { 1, 2, 7, 64, 1000, n } do
            local ids, values = ffi.new("int32_t[?]", k), ffi.new("float[?]", k)
            assert.equal(C.ML_OK, C.ml_logits_topk(logits, n, k, ids, values))
            for i = 1, k do
                assert.equal(order[i], ids[i - 1])
                assert.equal(logits[order[i]], values[i - 1])
            end
        end
        local ids, values = ffi.new "int32_t[1]", ffi.new "float[1]"
        assert.equal(C.ML_E_ARGUMENT, C.ml_logits_topk(logits, 3, 4, ids, values))
        assert.equal(C.ML_E_ARGUMENT, C.ml_logits_topk(logits, 3, 0, ids, values))
    end)

    it("top-k puts NaN last", function()
        local x = ffi.new("float[4]", 1, 0 / 0, -1 / 0, 2)
        local ids, values = ffi.new "int32_t[4]", ffi.new "float[4]"
        assert.equal(C.ML_OK, C.ml_logits_topk(x, 4, 4, ids, values))
        assert.same({ 3, 0, 2, 1 }, { ids[0], ids[1], ids[2], ids[3] })
    end)

    it("log-sum-exp agrees with a double sum", function()
        local sum, top = 0, logits[order[1]]
        for i = 0, n - 1 do sum = sum + math.exp(logits[i] - top) end
        local out = ffi.new "double[1]"
        assert.equal(C.ML_OK, C.ml_logits_logsumexp(logits, n, out))
        assert.near(top + math.log(sum), out[0], 1e-6)
        assert.equal(C.ML_OK, C.ml_logits_logsumexp(ffi.new("float[2]", -1 / 0, -1 / 0), 2, out))
        assert.equal(-1 / 0, out[0])
    end)
end)
