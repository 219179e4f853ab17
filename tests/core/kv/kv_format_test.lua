-- Quantised cache pages: rotation, round trips, and the kernels that read codes in place.
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local tensor = require "moonloom.tensor"
local C, ffi, check = ml.C, require "ffi", ml.check

local DIMS = { 8, 24, 32, 40, 64, 128, 256 }

local function each_isa(run)
    for _, isa in ipairs(isa_helper.sets) do
        if C.ml_isa_set(isa) == C.ML_OK then run(isa) end
    end
    check(C.ml_isa_set("auto"))
end

-- Largest distance of two tensors; NaN if one has it where the other has not.
local function distance(a, b)
    local p, q, n, most = a:convert("f32"), b:convert("f32"), a:count(), 0
    local x, y = p:pointer(), q:pointer()
    for i = 0, n - 1 do
        local d = math.abs(x[i] - y[i])
        if d ~= d then return d end
        most = math.max(most, d)
    end
    return most
end

-- Root of the mean square of a - b over that of a.
local function error_of(a, b)
    local x, y, squares, all = a:pointer(), b:pointer(), 0, 0
    for i = 0, a:count() - 1 do
        squares, all = squares + (x[i] - y[i]) ^ 2, all + x[i] ^ 2
    end
    return math.sqrt(squares / all)
end

-- Keys as models have them: noise, a large part that all tokens share, and two outlier dimensions.
local function keys_of(tokens, dim)
    local x = tensor.randn(tokens, dim, { seed = 7 })
    local part = tensor.randn(dim, { seed = 8, deviation = 3 })
    local p, shared = x:pointer(), part:pointer()
    for t = 0, tokens - 1 do
        for i = 0, dim - 1 do p[t * dim + i] = p[t * dim + i] + shared[i] + (i % 37 == 5 and 20 or 0) end
    end
    return x
end

describe("quantised pages:", function()
    teardown(function() check(C.ml_isa_set("auto")) end)

    it("the rotation is orthogonal, its own inverse, and spreads what is in one element or in all", function()
        for _, dim in ipairs(DIMS) do
            local x = tensor.randn(20, dim, { seed = dim })
            assert.is_true(distance(x, x:rotate():rotate()) < 2e-6)
            local matrix, expected = tensor.zeros(dim, dim), tensor.zeros(dim, dim)
            for i = 0, dim - 1 do
                matrix:pointer()[i * dim + i] = 1
                expected:pointer()[i * dim + i] = 1
            end
            matrix = matrix:rotate()
            assert.is_true(distance(matrix:matmul(matrix:transpose()), expected) < 1e-6)
            if dim == 64 then
                local p, even = matrix:pointer(), tensor.zeros(1, dim):scale(1, 1):rotate()
                for i = 0, dim * dim - 1 do assert.near(1 / 8, math.abs(p[i]), 1e-7) end
                local e = even:pointer()
                for i = 0, dim - 1 do assert.is_true(math.abs(e[i]) < 5) end
            end
        end
    end)

    it("a round trip is off by at most half a step of each token", function()
        for _, dim in ipairs(DIMS) do
            for _, tokens in ipairs { 64, 65, 200, 1 } do
                local x = tensor.randn(tokens, dim, { seed = dim + tokens })
                for _, bits in ipairs { 8, 4 } do
                    for _, options in ipairs { { value_bits = bits }, { key_bits = bits, rotate = false } } do
                        local y = x:stored(options)
                        local p, q, levels = x:pointer(), y:pointer(), 2 ^ bits - 1
                        -- Keys of 4 bits lose their means first: their range is no longer that of x.
                        local spread = options.key_bits == 4 and 2 or 1
                        for t = 0, tokens - 1 do
                            local low, high = math.huge, -math.huge
                            for i = 0, dim - 1 do
                                low, high = math.min(low, p[t * dim + i]), math.max(high, p[t * dim + i])
                            end
                            local most = (high - low) * spread / levels * (0.5 + 2 ^ -4) + 1e-3 * (high - low) / 2
                            for i = 0, dim - 1 do
                                assert.is_true(math.abs(p[t * dim + i] - q[t * dim + i]) <= most)
                            end
                        end
                    end
                end
                assert.equal(0, distance(x, x:stored { key_bits = 16 }))
            end
        end
    end)

    it("rotation and means keep outliers and shared parts from costing the codes", function()
        local x = keys_of(256, 64)
        local function of(options) return error_of(x, x:stored(options)) end
        assert.is_true(of { key_bits = 8 } < 0.006)
        assert.is_true(of { key_bits = 4 } < 0.03)
        assert.is_true(of { key_bits = 8 } < of { key_bits = 8, rotate = false } * 0.8)
        assert.is_true(of { key_bits = 4 } < of { value_bits = 4 } / 3)
    end)

    it("constant, tiny, huge and denormal numbers survive; infinite and NaN ones are refused", function()
        for _, size in ipairs { 0, 1, 1e-30, 3e38, 1e-40 } do
            local x = tensor.randn(70, 64, { seed = 3 })
            for i = 0, x:count() - 1 do
                x:pointer()[i] = size * (size == 1 and 1 or math.max(-1, math.min(1, x:pointer()[i])))
            end
            for _, options in ipairs { { key_bits = 8 }, { key_bits = 4 }, { value_bits = 8 }, { value_bits = 4 } } do
                local y = x:stored(options)
                assert.is_true(distance(x, y) <= size * (options.value_bits and 1 / 14 or 0.4) + 1e-35)
            end
        end
        for _, bad in ipairs { 0 / 0, math.huge, -math.huge } do
            local x = tensor.randn(64, 64, { seed = 3 })
            x:pointer()[777] = bad
            assert.error(function() x:stored { key_bits = 8 } end, "infinite or NaN numbers cannot be quantised")
        end
        assert.error(function() tensor.zeros(4, 12):stored { key_bits = 8 } end)
        assert.error(function() tensor.zeros(4, 64):stored { key_bits = 5 } end)
    end)

    -- { queries, dim, tokens }
    local cases = { { 8, 64, 192 }, { 1, 64, 64 }, { 3, 40, 130 }, { 20, 8, 70 }, { 7, 24, 64 }, { 4, 128, 65 },
        { 9, 256, 66 }, { 16, 32, 63 }, { 13, 16, 1 } }
    local mixes = { { 8, 8 }, { 4, 4 }, { 8, 4 }, { 4, 8 }, { 16, 4 }, { 4, 16 }, { 8, 16 }, { 16, 8 } }

    it("the kernels agree with attention to the numbers that the codes stand for", function()
        for _, case in ipairs(cases) do
            local queries, dim, tokens = unpack(case)
            local q = tensor.randn(queries, dim, { seed = 1, deviation = 2 / math.sqrt(dim) })
            local k, v = tensor.randn(tokens, dim, { seed = 2 }), tensor.randn(tokens, dim, { seed = 3 })
            for _, mix in ipairs(mixes) do
                for _, rotate in ipairs { true, false } do
                    local options = { key_bits = mix[1], value_bits = mix[2], rotate = rotate }
                    check(C.ml_isa_set("scalar"))
                    local expected = q:attend(k:stored { key_bits = mix[1], rotate = rotate },
                        v:stored { value_bits = mix[2] })
                    local reference = q:attend(k, v, options)
                    -- Queries of 7 bits against keys of 4, weights of 7 bits against values of 4; else 15.
                    local most = (mix[1] == 4 and 0.06 or 5e-4) + (mix[2] == 4 and 0.03 or 5e-4)
                    assert.is_true(distance(expected, reference) < most)
                    each_isa(function(isa)
                        local result = q:attend(k, v, options)
                        -- A weight may fall on the other side of a half: one of 127 or of 32512 parts.
                        local near = mix[2] == 4 and 0.02 or 1e-4
                        local off = distance(reference, result)
                        if off >= near or off ~= off then
                            error(("%s, %d queries of %d, %d tokens, %d and %d bits: off by %g"):format(isa, queries,
                                dim, tokens, mix[1], mix[2], off), 0)
                        end
                    end)
                end
            end
        end
    end)

    it("a query gets the same bits whatever comes along, and NaN stays where it is", function()
        for _, dim in ipairs { 64, 40 } do
            local q = tensor.randn(37, dim, { seed = 1, deviation = 0.3 })
            local k, v = tensor.randn(100, dim, { seed = 2 }), tensor.randn(100, dim, { seed = 3 })
            for _, mix in ipairs(mixes) do
                local options = { key_bits = mix[1], value_bits = mix[2] }
                each_isa(function(isa)
                    local all = q:attend(k, v, options)
                    for first = 0, 36 do
                        local some = math.min(1 + first % 9, 37 - first)
                        local part = q:slice(1, first + 1, first + some):attend(k, v, options)
                        local same = ffi.string(part:pointer(), some * dim * 4) ==
                            ffi.string(all:pointer() + first * dim, some * dim * 4)
                        if not same then error(("%s: query %d of %d differs"):format(isa, first, some), 0) end
                    end
                    local bad = q:clone()
                    bad:pointer()[5 * dim + 1] = 0 / 0
                    local poisoned = bad:attend(k, v, options)
                    for h = 0, 36 do
                        local a, b = poisoned:pointer() + h * dim, all:pointer() + h * dim
                        if h == 5 then
                            assert.is_true(a[0] ~= a[0])
                        else
                            assert.equal(ffi.string(b, dim * 4), ffi.string(a, dim * 4))
                        end
                    end
                end)
            end
        end
    end)
end)
