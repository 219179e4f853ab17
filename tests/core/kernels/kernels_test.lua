-- Kernels: dtypes, the choice of the instruction set, logits primitives.
local ml = require "moonloom._core.ffi"
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
        local sentence = ffi.string(C.ml_last_error())
        assert.truthy(sentence:find("^'mmx' is no instruction set of this build: choose scalar[%w, ]* or auto$"),
            sentence)
        assert.is_nil(sentence:find("emulated", 1, true)) -- which is for tests
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

    it("top-k of many is what a full sort gives with zeros of both signs, infinities and NaN among them", function()
        local random, x, all = require("helpers.block_layouts").random(3), ffi.new("float[?]", n), {}
        local special = { 0, -0.0, 1 / 0, -1 / 0, 0 / 0, 1e-40, -1e-40 }
        for i = 0, n - 1 do
            x[i] = random(0, 9) == 0 and special[random(1, #special)] or random(-3000, 3000) / 256
            all[i + 1] = i
        end
        table.sort(all, function(a, b)
            local p, q = tonumber(x[a]), tonumber(x[b])
            if p ~= p or q ~= q then return p == p or q ~= q and a < b end
            return p > q or p == q and a < b
        end)
        for _, k in ipairs { 511, 512, 513, 2000, n - 1, n } do
            local ids, values = ffi.new("int32_t[?]", k), ffi.new("float[?]", k)
            assert.equal(C.ML_OK, C.ml_logits_topk(x, n, k, ids, values))
            for i = 1, k do
                if all[i] ~= ids[i - 1] then error(("k %d: rank %d is %d, not %d"):format(k, i, ids[i - 1], all[i])) end
                assert.is_true(values[i - 1] == x[all[i]] or x[all[i]] ~= x[all[i]])
            end
        end
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

local blocks = require "helpers.block_layouts"
local isa_helper = require "helpers.isa"
local tensor = require "moonloom.tensor"

local dtypes = { "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_nl", "iq4_xs", "mxfp4" }

-- The instruction sets this machine has.
local function each_isa(f)
    for _, name in ipairs(isa_helper.sets) do -- the matrix unit: amx_test.lua
        if C.ml_isa_set(name) == C.ML_OK then f(name) end
    end
    assert.equal(C.ML_OK, C.ml_isa_set("auto"))
end

local function block_elements(dtype)
    return tonumber(C.ml_dtype_block(C.ml_dtype_from_name(dtype)))
end

describe("decode", function()
    for _, dtype in ipairs(dtypes) do
        it(("%s gives the values that its layout stands for"):format(dtype), function()
            local count = block_elements(dtype) == 1 and 77 or 5 -- plain rows of no round length
            local text, values = blocks.matrix(dtype, blocks.random(42), 3, count)
            local t = tensor.from_pointer(text, { 3, count * block_elements(dtype) }, dtype)
            each_isa(function(isa)
                local floats = t:convert("f32")
                local p, cell = floats:pointer(), ffi.new "float[1]"
                for i, value in ipairs(values) do
                    cell[0] = value
                    if p[i - 1] ~= cell[0] then
                        error(("%s, element %d: %.9g, not %.9g"):format(isa, i, p[i - 1], value))
                    end
                end
            end)
        end)

        it(("%s of any bytes is the same under every instruction set"):format(dtype), function()
            local random = blocks.random(7)
            local count = block_elements(dtype) == 1 and 999 or 40
            local size = count * tonumber(C.ml_dtype_bytes(C.ml_dtype_from_name(dtype)))
            local bytes = {}
            for i = 1, size do bytes[i] = string.char(random(0, 255)) end
            local t = tensor.from_pointer(table.concat(bytes), { count * block_elements(dtype) }, dtype)
            local expected
            each_isa(function(isa)
                local p = t:convert("f32")
                expected = expected or p
                -- As bits, since LuaJIT takes some NaN for its own tags; all NaN are equal here, and both zeros.
                local a, b = ffi.cast("uint32_t *", expected:pointer()), ffi.cast("uint32_t *", p:pointer())
                local function is_nan(bits) return bits % 0x80000000 > 0x7f800000 end
                for i = 0, t:count() - 1 do
                    local zeros = a[i] % 0x80000000 + b[i] % 0x80000000 == 0
                    if a[i] ~= b[i] and not zeros and not (is_nan(a[i]) and is_nan(b[i])) then
                        error(("%s, element %d: %08x, not %08x"):format(isa, i, b[i], a[i]))
                    end
                end
            end)
        end)
    end

    it("mxfp4 at the ends of its scales: subnormal, largest, NaN", function()
        local codes = ("\x21\x43\x65\x87\xa9\xcb\xed\x0f"):rep(2)
        local low = { 0.5, 1.5, 3, 6, -0.5, -1.5, -3, -6 } -- of codes 1 3 5 7 9 b d f
        each_isa(function()
            for _, e in ipairs { 0, 1, 2, 127, 253, 255 } do
                local p = tensor.from_pointer(string.char(e) .. codes, { 32 }, "mxfp4"):convert("f32"):pointer()
                for i = 0, 15 do
                    local expected = 2 ^ (e - 127) * low[i % 8 + 1]
                    if e == 255 then
                        assert.is_true(p[i] ~= p[i])
                    elseif expected < 3.4e38 and expected > -3.4e38 then
                        assert.equal(expected, p[i])
                    else
                        assert.is_true(math.abs(p[i]) == 1 / 0)
                    end
                end
            end
        end)
    end)

    it("hand-written blocks", function()
        -- q8_0: d = 0.5 (f16 0x3800); 1, -1, 127, -128, then zeros
        local q8 = tensor.from_pointer("\x00\x38\x01\xff\x7f\x80" .. ("\0"):rep(28), { 32 }, "q8_0")
        assert.same({ 0.5, -0.5, 63.5, -64 }, { q8[1], q8[2], q8[3], q8[4] })
        -- q4_0: d = 2 (0x4000); first byte 0xf0: element 0 is (0 - 8) * 2, element 16 is (15 - 8) * 2
        local q4 = tensor.from_pointer("\x00\x40\xf0" .. ("\x88"):rep(15), { 32 }, "q4_0")
        assert.same({ -16, 0, 14, 0 }, { q4[1], q4[2], q4[17], q4[18] })
        -- q5_0: d = 1; fifth bits of elements 0 and 31 set; all low bits 0
        local q5 = tensor.from_pointer("\x00\x3c\x01\x00\x00\x80" .. ("\0"):rep(16), { 32 }, "q5_0")
        assert.same({ 0, -16, -16, 0 }, { q5[1], q5[2], q5[31], q5[32] })
        -- mxfp4: scale 2^1; byte 0x9f: element 0 is code f (-6), element 16 code 9 (-0.5)
        local mx = tensor.from_pointer("\x80\x9f" .. ("\x20"):rep(15), { 32 }, "mxfp4")
        assert.same({ -12, 0, -1, 2 }, { mx[1], mx[2], mx[17], mx[18] })
        -- q6_k: all of ql and qh 0, scales 1 to 16, d = 1: -32 times the scale of each 16
        local scales = ""
        for i = 1, 16 do scales = scales .. string.char(i) end
        local q6 = tensor.from_pointer(("\0"):rep(192) .. scales .. "\x00\x3c", { 256 }, "q6_k")
        assert.same({ -32, -32, -64, -512 }, { q6[1], q6[16], q6[17], q6[256] })
        -- bf16 0x3fc0 is 1.5; f16 0x0001 is 2^-24
        assert.equal(1.5, tensor.from_pointer("\xc0\x3f", { 1 }, "bf16")[1])
        assert.equal(2 ^ -24, tensor.from_pointer("\x01\x00", { 1 }, "f16")[1])
    end)
end)

-- y[c][r] and the size of the sum that made it, in double.
local function linear_reference(values, rows, k, x, columns)
    local y, size = ffi.new("double[?]", rows * columns), ffi.new("double[?]", rows * columns)
    local w = ffi.new("double[?]", rows * k, values)
    for c = 0, columns - 1 do
        for r = 0, rows - 1 do
            local sum, total = 0, 0
            for i = 0, k - 1 do
                local product = w[r * k + i] * x[c * k + i]
                sum = sum + product
                total = total + math.abs(product)
            end
            y[c * rows + r], size[c * rows + r] = sum, total
        end
    end
    return y, size
end

describe("linear", function()
    local rows, most = 37, 65
    for _, dtype in ipairs(dtypes) do
        it(("%s agrees with a sum in double, 1 to 65 columns"):format(dtype), function()
            local count = block_elements(dtype) == 1 and 83 or block_elements(dtype) == 32 and 5 or 2
            local k = count * block_elements(dtype)
            local text, values = blocks.matrix(dtype, blocks.random(99), rows, count)
            local w = tensor.from_pointer(text, { rows, k }, dtype)
            local x = tensor.randn(most, k, { seed = 5 })
            local bias = tensor.randn(rows, { seed = 6 })
            local y, size = linear_reference(values, rows, k, x:pointer(), most)
            each_isa(function(isa)
                -- Products in whole numbers round activations to 2^-16 of the largest of their block.
                local whole = isa ~= "scalar" and (dtype == "mxfp4" or dtype == "q8_0")
                local tolerance = whole and 5e-5 or 1e-6
                for _, columns in ipairs { 1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 65 } do
                    local p = x:slice(1, 1, columns):linear(w, bias):pointer()
                    for c = 0, columns - 1 do
                        for r = 0, rows - 1 do
                            local at = c * rows + r
                            local off = math.abs(p[at] - (y[at] + bias:pointer()[r]))
                            if off ~= off or off > tolerance * (size[at] + 4) then
                                error(("%s, %d columns, row %d of column %d: %.3g off"):format(isa, columns, r, c, off))
                            end
                        end
                    end
                end
            end)
        end)
    end

    it("does not depend on the number of threads", function()
        local before = C.ml_threads_count()
        local w = tensor.randn(301, 192, { seed = 1 }):convert("q8_0")
        local x = tensor.randn(40, 192, { seed = 2 })
        each_isa(function()
            for _, columns in ipairs { 1, 5, 40 } do
                local first
                for threads = 1, 4 do
                    assert.equal(C.ML_OK, C.ml_threads_set(threads))
                    local y = x:slice(1, 1, columns):linear(w)
                    local bytes = ffi.string(y:pointer(), y:count() * 4)
                    first = first or bytes
                    assert.is_true(first == bytes)
                end
            end
        end)
        assert.equal(C.ML_OK, C.ml_threads_set(before))
    end)

    it("refuses shapes that do not fit, with both in the sentence", function()
        local fine, problem = pcall(function()
            return tensor.zeros(2, 64):linear(tensor.zeros(3, 32))
        end)
        assert.is_false(fine)
        assert.truthy(tostring(problem):find("{2, 64} f32", 1, true) and tostring(problem):find("{3, 32} f32", 1, true))
    end)
end)

-- |a - b| <= relative * |b| + absolute for all elements of a tensor and a function of their place (from 0).
local function compare(what, t, expected, relative, absolute)
    local p = t:pointer()
    for i = 0, t:count() - 1 do
        local e = expected(i)
        local off = math.abs(p[i] - e)
        if off ~= off or off > relative * math.abs(e) + (absolute or 0) then
            error(("%s, element %d: %.9g, not %.9g"):format(what, i, p[i], e))
        end
    end
end

describe("sampling kernels", function()
    local out, id = ffi.new "double[1]", ffi.new "int32_t[1]"
    local function mass(x, n, scale, top)
        assert.equal(C.ML_OK, C.ml_logits_mass(x, n, scale, top, nil, 0, out))
        return out[0]
    end

    it("sum weights as the C library does", function()
        each_isa(function(isa)
            for _, n in ipairs { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 100, 1500 } do
                local x = tensor.randn(n, { seed = n, deviation = 12 })
                local p, top = x:pointer(), x:max()
                for _, scale in ipairs { 0.01, 1, 7.3 } do
                    local sum = 0
                    for i = 0, n - 1 do sum = sum + math.exp(scale * p[i] - scale * top) end
                    assert.is_true(math.abs(mass(p, n, scale, scale * top) / sum - 1) < 1e-11, isa .. " " .. n)
                end
            end
            local none = ffi.new("float[20]", -1 / 0)
            for i = 1, 19 do none[i] = -1 / 0 end
            assert.equal(0, mass(none, 20, 1, 0))
            none[13] = -800 -- no double
            assert.equal(0, mass(none, 20, 1, 0))
            none[13] = 0 / 0
            assert.is_true(mass(none, 20, 1, 0) ~= mass(none, 20, 1, 0))
            none[13] = 1 / 0
            assert.equal(1 / 0, mass(none, 20, 1, 0))
            none[13] = 709
            assert.is_true(math.abs(mass(none, 20, 1, 0) / math.exp(709) - 1) < 1e-11)
        end)
    end)

    it("pick the token at which the running sum exceeds the target", function()
        each_isa(function()
            local n = 5000
            local x = tensor.randn(n, { seed = 5, deviation = 3 })
            local p, skip = x:pointer(), ffi.new("int32_t[3]", 0, 1030, 4999)
            for i = 4000, n - 1 do p[i] = -1 / 0 end
            local all, sum = mass(p, 4000, 1, 0) - math.exp(p[0]) - math.exp(p[1030]), 0
            local function picked(target)
                assert.equal(C.ML_OK, C.ml_logits_pick(p, n, 1, 0, skip, 3, target, id))
                return id[0]
            end
            for i = 0, 3999 do
                if i ~= 0 and i ~= 1030 then
                    local weight = math.exp(p[i])
                    assert.equal(i, picked(sum + 0.5 * weight))
                    sum = sum + weight
                end
            end
            assert.equal(1, picked(0))
            assert.equal(3999, picked(all * 1.001))
            for i = 0, n - 1 do p[i] = -1 / 0 end
            assert.equal(C.ML_E_NOT_FOUND, C.ml_logits_pick(p, n, 1, 0, skip, 3, 0, id))
        end)
    end)
end)

describe("activation kernels", function()
    local sizes = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 192 }

    it("softmax", function()
        each_isa(function(isa)
            for _, n in ipairs(sizes) do
                local x = tensor.randn(n, { seed = n, deviation = 20 })
                local p, top, sum = x:pointer(), x:max(), 0
                for i = 0, n - 1 do sum = sum + math.exp(p[i] - top) end
                compare(isa, x:softmax(), function(i) return math.exp(p[i] - top) / sum end, 5e-6, 1e-38)
            end
            local masked = tensor.new { 0, -1 / 0, -200 }:softmax()
            assert.same({ 1, 0, 0 }, { masked[1], masked[2], masked[3] })
        end)
    end)

    it("rms_norm", function()
        each_isa(function(isa)
            for _, n in ipairs(sizes) do
                local x, w = tensor.randn(n, { seed = n }), tensor.randn(n, { seed = n + 1 })
                local p, q, squares = x:pointer(), w:pointer(), 0
                for i = 0, n - 1 do squares = squares + p[i] * p[i] end
                compare(isa, x:rms_norm(w, 1e-5), function(i)
                    return p[i] * q[i] / math.sqrt(squares / n + 1e-5)
                end, 1e-6)
            end
        end)
    end)

    it("swiglu, plain and clamped", function()
        each_isa(function(isa)
            for _, n in ipairs(sizes) do
                local gate = tensor.randn(n, { seed = n, deviation = 6 })
                local up = tensor.randn(n, { seed = n + 1, deviation = 6 })
                local g, u = gate:pointer(), up:pointer()
                compare(isa, gate:swiglu(up), function(i) return g[i] / (1 + math.exp(-g[i])) * u[i] end, 1e-6)
                compare(isa, gate:swiglu(up, { clamped = true }), function(i)
                    local a, b = math.min(g[i], 7), math.max(-7, math.min(u[i], 7))
                    return a / (1 + math.exp(-1.702 * a)) * (b + 1)
                end, 1e-6, 1e-6)
            end
        end)
    end)

    it("exp over its whole range, through the gate", function()
        each_isa(function(isa)
            local x = tensor.rand(20000, { seed = 3, low = -86, high = 86 })
            local p = x:pointer()
            local ones = tensor.zeros(20000):assign(1)
            compare(isa, x:swiglu(ones), function(i) return p[i] / (1 + math.exp(-p[i])) end, 5e-7)
        end)
    end)

    it("adding a multiple in place", function()
        each_isa(function(isa)
            for _, n in ipairs(sizes) do
                local x, y = tensor.randn(n, { seed = n }), tensor.randn(3, n, { seed = n + 1 })
                local before, p, q = y:clone(), x:pointer(), y:pointer()
                y:add_scaled(x, -2.5)
                local b = before:pointer()
                compare(isa, y, function(i) return b[i] - 2.5 * p[i % n] end, 1e-6, 1e-6)
                assert.is_true(q == y:pointer())
            end
        end)
    end)

    it("bf16 rounds to nearest even, NaN and infinity stay", function()
        each_isa(function()
            local x = tensor.zeros(37)
            local bits = ffi.cast("uint32_t *", x:pointer())
            local cases = { [0] = 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f800000, 0xff800000, 0x7f800001,
                0x7f7fffff, 0x80000000, 0x00000001 }
            local expected = { [0] = 0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0xff80, 0x7fc0, 0x7f80, 0x8000, 0x0000 }
            for i = 0, 36 do bits[i] = cases[i % 10] end
            local p = x:convert("bf16"):pointer()
            for i = 0, 36 do assert.equal(expected[i % 10], p[i]) end
        end)
    end)

    it("attention over pages, f32 and bf16, agrees with a sum in double", function()
        local cases = { { 1, 8, 1 }, { 8, 64, 200 }, { 20, 64, 65 }, { 3, 24, 7 }, { 5, 40, 130 }, { 2, 80, 64 },
            { 4, 128, 9 }, { 2, 256, 66 }, { 6, 32, 63 } }
        for _, case in ipairs(cases) do
            local queries, dim, tokens = unpack(case)
            local q = tensor.randn(queries, dim, { seed = 1, deviation = 3 / math.sqrt(dim) })
            for _, dtype in ipairs { "f32", "bf16" } do
                local k = tensor.randn(tokens, dim, { seed = 2 }):convert(dtype)
                local v = tensor.randn(tokens, dim, { seed = 3 }):convert(dtype)
                local qp, kf, vf = q:pointer(), k:convert("f32"), v:convert("f32")
                local kp, vp = kf:pointer(), vf:pointer()
                local expected = ffi.new("double[?]", queries * dim)
                for h = 0, queries - 1 do
                    local weight, sum = {}, 0
                    for t = 0, tokens - 1 do
                        local score = 0
                        for i = 0, dim - 1 do score = score + qp[h * dim + i] * kp[t * dim + i] end
                        weight[t] = math.exp(score)
                        sum = sum + weight[t]
                    end
                    for t = 0, tokens - 1 do
                        for i = 0, dim - 1 do
                            local at = h * dim + i
                            expected[at] = expected[at] + weight[t] / sum * vp[t * dim + i]
                        end
                    end
                end
                each_isa(function(isa)
                    compare(isa .. " " .. dtype, q:attend(k, v), function(i) return expected[i] end, 0, 1e-5)
                end)
            end
        end
    end)
end)
