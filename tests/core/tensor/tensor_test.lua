-- Tensor objects: shapes and views, arithmetic against plain Lua, conversions, .npy files good and hostile.
local ml = require "moonloom._core.ffi"
local ffi = require "ffi"
local tensor = require "moonloom.tensor"
local C = ml.C

local function refused(f, ...)
    local fine, problem = pcall(f)
    assert.is_false(fine)
    problem = tostring(problem)
    assert.is_nil(problem:find("\n"))
    assert.is_nil(problem:find("attempt to", 1, true))
    for _, part in ipairs { ... } do
        if not problem:find(part, 1, true) then error(("'%s' is not in: %s"):format(part, problem)) end
    end
end

local function near(expected, actual, tolerance)
    if type(expected) == "number" then
        assert.near(expected, actual, tolerance or 1e-6)
        return
    end
    assert.equal(#expected, #actual)
    for i = 1, #expected do near(expected[i], actual[i], tolerance) end
end

describe("a tensor", function()
    it("is made from lists and gives them back", function()
        local t = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
        assert.same({ 2, 3 }, t:shape())
        assert.equal("f32", t:dtype())
        assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, t:totable())
        assert.same({ 1, -2 }, tensor.new({ 1.9, -2.9 }, { dtype = "i32" }):totable())
        refused(function() tensor.new { { 1, 2 }, { 3 } } end, "2 items")
        refused(function() tensor.new { { 1, "x" } } end, "number")
        refused(function() tensor.new { { { { { 1 } } } } } end, "4 dimensions")
        refused(function() tensor.zeros(2, 3, { dtype = "f12" }) end, "f12")
        refused(function() tensor.zeros(2, 33, { dtype = "q8_0" }) end, "33")
        refused(function() tensor.zeros(2 ^ 40, 2 ^ 40) end, "large")
        refused(function() tensor.zeros(-1) end, "-1")
    end)

    it("is indexed from 1, read and written, and refuses what is outside", function()
        local t = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
        assert.equal(6, t[2][3])
        t[1][2] = 20
        t[2] = { 7, 8, 9 }
        assert.same({ { 1, 20, 3 }, { 7, 8, 9 } }, t:totable())
        t[1] = 0
        assert.same({ 0, 0, 0 }, t[1]:totable())
        assert.equal(9, t:get(2, 3))
        refused(function() return t[3] end, "3", "1 to 2")
        refused(function() return t[1][0] end, "1 to 3")
        refused(function() t:get(1) end, "2 indices")
        refused(function() t[1] = { 1, 2 } end, "{2} f32", "{3} f32")
        refused(function() t.size = 1 end, "size")
        refused(function() t[1][1] = "x" end)
        assert.equal(5, tensor.new({ 5 }):item())
        refused(function() t:item() end, "{2, 3} f32")
    end)

    it("has views that share memory and outlive it", function()
        local t = tensor.new { { 1, 2, 3, 4 }, { 5, 6, 7, 8 }, { 9, 10, 11, 12 } }
        local middle = t:slice(1, 2, 3):slice(2, 2, 3)
        assert.same({ { 6, 7 }, { 10, 11 } }, middle:totable())
        middle[1][1] = 60
        assert.equal(60, t[2][2])
        assert.is_false(middle:contiguous())
        assert.same({ 3, 7, 11 }, t:select(2, 3):totable())
        local turned = t:transpose()
        assert.same({ { 1, 5, 9 }, { 2, 60, 10 }, { 3, 7, 11 }, { 4, 8, 12 } }, turned:totable())
        assert.same({ { 1, 5, 9, 2 }, { 60, 10, 3, 7 }, { 11, 4, 8, 12 } }, turned:reshape(3, -1):totable())
        local flat = t:reshape(-1)
        t:close()
        refused(function() t:shape() end, "closed")
        collectgarbage()
        assert.equal(12, flat[12])
        assert.same({ { 60, 7 }, { 10, 11 } }, middle:totable())
        refused(function() flat:reshape(5, -1) end, "{12} f32")
        refused(function() flat:slice(1, 3, 13) end, "13")
        refused(function() flat:transpose() end, "{12} f32")
        assert.equal(0, flat:slice(1, 3, 2):count())
    end)

    it("of blocks is viewed by whole blocks and never written", function()
        local q = tensor.randn(3, 64, { seed = 1 }):convert("q8_0")
        local floats = q:convert("f32")
        assert.same(floats[2]:totable(), q[2]:totable())
        assert.same(floats:slice(2, 33, 64):totable(), q:slice(2, 33, 64):totable())
        assert.equal(floats[3][40], q[3][40])
        refused(function() q:slice(2, 2, 64) end, "q8_0")
        refused(function() q:transpose() end, "q8_0")
        refused(function() q[1] = 0 end, "blocks")
        assert.is_false(q:writable())
    end)

    it("prints its shape, dtype, statistics and corners", function()
        local t = tensor.zeros(20, 30)
        t[1][1] = 0 / 0
        t[20][30] = 1 / 0
        local text = tostring(t)
        for _, part in ipairs { "{20, 30} f32", "NaN 1", "Inf 1", "mean 0", "[20]", "...", "inf" } do
            assert.truthy(text:find(part, 1, true))
        end
        assert.truthy(tostring(tensor.zeros(0)):find("no elements", 1, true))
        assert.truthy(tostring(tensor.zeros(2, 2, 2, 2)):find("[2,2,2]", 1, true))
        t:close()
        assert.equal("tensor (closed)", tostring(t))
    end)

    it("shows weights where they lie in the file", function()
        local model = require("moonloom").load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        local w = model:tensor("blk.0.ffn_down_exps.weight")
        assert.same({ 8, 192, 192 }, w:shape())
        assert.equal("mxfp4", w:dtype())
        local x = tensor.randn(3, 192, { seed = 1 })
        -- linear rounds x to 2^-16 of the largest of each block of 32, where the kernels multiply whole numbers.
        near(x:matmul(w[2]:convert("f32"):transpose()):totable(), x:linear(w[2]):totable(), 1e-3)
        local norm = model:tensor("output_norm.weight")
        refused(function() norm[1] = 1 end, "mapped file")
        refused(function() model:tensor("no.such.tensor") end, "no.such.tensor")
        model:close()
        assert.is_true(w:stats().nans == 0)
    end)
end)

describe("arithmetic", function()
    local a = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }

    it("is element by element, with a row or a number for all", function()
        local b = tensor.new { { 10, 20, 30 }, { 40, 50, 60 } }
        assert.same({ { 11, 22, 33 }, { 44, 55, 66 } }, (a + b):totable())
        assert.same({ { 9, 18, 27 }, { 36, 45, 54 } }, (b - a):totable())
        assert.same({ { 10, 40, 90 }, { 160, 250, 360 } }, (a * b):totable())
        assert.same({ { 10, 10, 10 }, { 10, 10, 10 } }, (b / a):totable())
        assert.same({ { 2, 4, 6 }, { 5, 7, 9 } }, (a + tensor.new { 1, 2, 3 }):totable())
        assert.same({ { 0, 0, 0 }, { -3, -3, -3 } }, (tensor.new { 1, 2, 3 } - a):totable())
        assert.same({ { 3, 4, 5 }, { 6, 7, 8 } }, (2 + a):totable())
        assert.same({ { 4, 2 }, { 1, 0.5 } }, (4 / tensor.new { { 1, 2 }, { 4, 8 } }):totable())
        assert.same({ { -1, -2, -3 }, { -4, -5, -6 } }, (-a):totable())
        assert.same({ { 3, 5, 7 }, { 9, 11, 13 } }, a:scale(2, 1):totable())
        assert.same({ { 5, 7 }, { 7, 9 } }, (tensor.new { { 1, 2 }, { 3, 4 } }:transpose()
            + tensor.new({ { 4, 4 }, { 5, 5 } }, { dtype = "f64" })):totable())
        refused(function() return a + tensor.zeros(2) end, "{2, 3} f32", "{2} f32")
        refused(function() return a + tensor.zeros(3, 2) end, "{3, 2} f32")
        refused(function() return a + "x" end, "string")
    end)

    it("multiplies matrices, plain, transposed, in batches", function()
        for _, isa in ipairs { "scalar", "auto" } do
            assert.equal(C.ML_OK, C.ml_isa_set(isa))
            local x, y = tensor.randn(2, 70, 9, { seed = 1 }), tensor.randn(2, 9, 5, { seed = 2 })
            local function reference(p, q)
                local rows = {}
                for i = 1, #p do
                    rows[i] = {}
                    for j = 1, #q[1] do
                        local sum = 0
                        for k = 1, #q do sum = sum + p[i][k] * q[k][j] end
                        rows[i][j] = sum
                    end
                end
                return rows
            end
            local p, q = x:totable(), y:totable()
            near(reference(p[1], q[1]), x[1]:matmul(y[1]):totable(), 1e-5)
            near(reference(p[1], q[2]), x[1]:matmul(y[2]:transpose():clone():transpose()):totable(), 1e-5)
            near({ reference(p[1], q[1]), reference(p[2], q[2]) }, x:matmul(y):totable(), 1e-5)
            near({ reference(p[1], q[1]), reference(p[2], q[1]) }, x:matmul(y[1]):totable(), 1e-5)
            near(reference(y[1]:transpose():totable(), x[1]:transpose():totable()),
                y[1]:transpose():matmul(x[1]:transpose()):totable(), 1e-5)
        end
        refused(function() a:matmul(a) end, "{2, 3} f32")
        refused(function() a:matmul(tensor.zeros(3)) end, "{3} f32")
    end)

    it("sums, averages, finds extremes and norms", function()
        assert.equal(21, a:sum())
        assert.equal(3.5, a:mean())
        assert.equal(1, a:min())
        assert.equal(6, a:max())
        near(math.sqrt(91), a:norm())
        assert.same({ 6, 15 }, a:sum(-1):totable())
        assert.same({ 2, 5 }, a:mean(2):totable())
        assert.same({ 5, 7, 9 }, a:transpose():sum(-1):totable())
        refused(function() a:sum(1) end, "last dimension")
        refused(function() tensor.zeros(2, 0):mean(-1) end, "{2, 0} f32")
        local s = tensor.new({ 1, 0 / 0, 3, 1 / 0, -1 / 0 }):stats()
        assert.same({ 5, 1, 2, 2, 1 }, { s.count, s.nans, s.infinities, s.mean, s.deviation })
        assert.same({ -1 / 0, 1 / 0 }, { s.min, s.max })
        local big = tensor.randn(500, 300, { seed = 9 }):stats()
        assert.near(0, big.mean, 0.01)
        assert.near(1, big.deviation, 0.01)
    end)

    it("log-softmax is the logarithm of softmax", function()
        local x = tensor.randn(4, 33, { seed = 3 })
        local p, l = x:softmax():totable(), x:log_softmax():totable()
        for r = 1, 4 do
            for i = 1, 33 do near(math.log(p[r][i]), l[r][i], 1e-5) end
        end
    end)

    it("ranks: argmax and topk count ids from 0", function()
        assert.equal(2, tensor.new({ 1, 5, 7, 7 }):argmax())
        assert.same({ 0, 2 }, tensor.new({ { 3, 1, 2 }, { 1, 2, 3 } }):argmax():totable())
        local values, ids = tensor.new({ { 3, 1, 2 }, { 1, 2, 3 } }):topk(2)
        assert.same({ { 3, 2 }, { 3, 2 } }, values:totable())
        assert.same({ { 0, 2 }, { 2, 1 } }, ids:totable())
        assert.equal("i32", ids:dtype())
        refused(function() a:topk(4) end, "{2, 3} f32")
    end)

    it("random numbers repeat with their seed and differ without", function()
        local x = tensor.rand(100, { seed = 4, low = 2, high = 3 })
        assert.same(x:totable(), tensor.rand(100, { seed = 4, low = 2, high = 3 }):totable())
        assert.is_true(x:min() >= 2 and x:max() <= 3)
        assert.is_true(tensor.randn(10, { seed = 1 })[1] ~= tensor.randn(10, { seed = 2 })[1])
    end)
end)

describe("conversion", function()
    it("rounds as each dtype does", function()
        local x = tensor.new({ 1 / 3, -2.5, 70000, 1e-8, 300.7, -300.7, 0 / 0 }, { dtype = "f64" })
        assert.equal(1 / 3, x[1])
        local half = x:convert("f16")
        assert.equal(0.333251953125, half[1])
        assert.equal(1 / 0, half[3])
        assert.is_true(half[7] ~= half[7])
        assert.equal(0.333984375, x:convert("bf16")[1])
        assert.same({ 0, -2, 127, 0, 127, -128, 0 }, x:convert("i8"):totable())
        assert.same({ 0, -2, 32767, 0, 300, -300, 0 }, x:convert("i16"):totable())
        assert.same({ 0, -2, 70000, 0, 300, -300, 0 }, x:convert("i64"):totable())
        local big = tensor.new({ 1e300, -1e300 }, { dtype = "f64" })
        assert.same({ 2147483647, -2147483648 }, big:convert("i32"):totable())
        assert.same({ 2 ^ 63, -2 ^ 63 }, big:convert("i64"):totable())
        -- halfway between two halves: 1 + 2^-11 to even 1; subnormal 2^-25 to even 0, a little more to 2^-24
        assert.same({ 1, 0, 2 ^ -24, 65504 }, tensor.new({ 1 + 2 ^ -11, 2 ^ -25, 2 ^ -25 * 1.01, 65519 },
            { dtype = "f64" }):convert("f16"):totable())
    end)

    it("quantises as the references do", function()
        local list = {}
        for i = 1, 32 do list[i] = i - 16.5 end -- -15.5 to 15.5
        local x = tensor.new(list)
        local d8 = tensor.new({ 15.5 / 127 }):convert("f16")[1]
        local q8 = x:convert("q8_0"):totable()
        for i = 1, 32 do
            local v = list[i] * 127 / 15.5
            near(d8 * (v < 0 and math.ceil(v - 0.5) or math.floor(v + 0.5)), q8[i], 1e-6)
        end
        local q4 = x:convert("q4_0"):totable() -- the first of the largest, -15.5, is code 0: d = 15.5 / 8
        for i = 1, 32 do
            near(15.5 / 8 * (math.min(15, math.floor(list[i] / (15.5 / 8) + 8.5)) - 8), q4[i], 1e-6)
        end
        -- largest 6.9: scale 1; halfway values go to even codes, above 6 saturates
        local codes = { 6.9, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0.3, -0.74, -1.3, -2.4, -3.6, -5.1, -6.5, 0 }
        local expected = { 6, 0, 1, 1, 2, 2, 4, 4, 0.5, -0.5, -1.5, -2, -4, -6, -6, 0 }
        for i = 17, 32 do codes[i], expected[i] = 0, 0 end
        assert.same(expected, tensor.new(codes):convert("mxfp4"):totable())
        local scaled = tensor.new(codes):scale(2 ^ -20):convert("mxfp4"):scale(2 ^ 20)
        assert.same(expected, scaled:totable())
        for _, dtype in ipairs { "q8_0", "q4_0", "mxfp4" } do
            assert.same(tensor.zeros(64):totable(), tensor.zeros(64):convert(dtype):totable())
            local bad = tensor.zeros(64):assign(1)
            bad[3] = 0 / 0
            local s = bad:convert(dtype):stats()
            assert.equal(32, s.nans)
            local off = (tensor.randn(8, 64, { seed = 1 }):convert(dtype) - tensor.randn(8, 64, { seed = 1 })):stats()
            assert.is_true(off.deviation > 0 and off.deviation < (dtype == "q8_0" and 0.01 or 0.2))
        end
        refused(function() x:slice(1, 1, 31):convert("q8_0") end, "31")
        refused(function() tensor.zeros(256):convert("q4_k") end, "q4_k")
    end)

    it("assigns across dtypes and layouts", function()
        local t = tensor.zeros(2, 3, { dtype = "bf16" })
        t:transpose():assign { { 1, 2 }, { 3, 4 }, { 5, 6 } }
        assert.same({ { 1, 3, 5 }, { 2, 4, 6 } }, t:totable())
        t:assign(tensor.new({ 7, 8, 9 }, { dtype = "i32" }))
        assert.same({ { 7, 8, 9 }, { 7, 8, 9 } }, t:totable())
        refused(function() t:assign(tensor.zeros(3, 2)) end, "{3, 2} f32", "{2, 3} bf16")
    end)
end)

describe(".npy", function()
    local path = os.tmpname()
    teardown(function() os.remove(path) end)

    local function write(text)
        local file = assert(io.open(path, "wb"))
        file:write(text)
        file:close()
    end

    local function npy(header, data, version)
        return "\x93NUMPY" .. (version or "\1\0") .. string.char(#header % 256, math.floor(#header / 256)) .. header
            .. (data or "")
    end

    it("keeps every element of every dtype that it has", function()
        for _, dtype in ipairs { "f32", "f64", "f16", "i8", "i16", "i32", "i64" } do
            local t = tensor.randn(3, 5, 2, { seed = 8, deviation = 40 }):convert(dtype)
            t:save(path)
            local back = tensor.load(path)
            assert.equal(dtype, back:dtype())
            assert.same({ 3, 5, 2 }, back:shape())
            assert.same(t:totable(), back:totable())
        end
        local bf16 = tensor.randn(4, { seed = 1, dtype = "bf16" })
        bf16:save(path)
        assert.equal("f32", tensor.load(path):dtype())
        assert.same(bf16:totable(), tensor.load(path):totable())
        local turned = tensor.new({ { 1, 2, 3 }, { 4, 5, 6 } }):transpose()
        turned:save(path)
        assert.same(turned:totable(), tensor.load(path):totable())
    end)

    it("is written as NumPy writes it", function()
        tensor.new({ { 1, 2 } }):save(path)
        local file = assert(io.open(path, "rb"))
        local text = file:read("*a")
        file:close()
        assert.equal("\x93NUMPY\1\0\x76\0{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2,), }", text:sub(1, 70))
        assert.equal(128 + 8, #text)
        assert.equal("\n", text:sub(128, 128))
    end)

    it("reads other versions, orders and types", function()
        write(npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", "\0\127\255"))
        assert.same({ 0, 127, 255 }, tensor.load(path):totable())
        write(npy("{'shape': (2, 3), 'fortran_order': True, 'descr': '|i1'}", "\1\4\2\5\3\6"))
        local t = tensor.load(path)
        assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, t:totable())
        assert.equal(21, t:sum())
        local header = "{'descr': '|i1', 'fortran_order': False, 'shape': (), }"
        write("\x93NUMPY\2\0" .. string.char(#header) .. "\0\0\0" .. header .. "\5")
        assert.equal(5, tensor.load(path):item())
    end)

    it("refuses damaged and hostile files with a sentence", function()
        local good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
        local bad = {
            "", "\x93NUMPY", "PK\3\4 something else", npy("", ""), npy(good, "1234"), npy(good, "12345678", "\9\0"),
            npy(good:gsub("<f4", ">f4"), "12345678"), npy(good:gsub("<f4", "<c8"), "12345678"),
            npy(good:gsub("<f4", "O"), "12345678"), npy(good:gsub("'<f4'", "'" .. ("x"):rep(500) .. "'"), "12345678"),
            npy(good:gsub("%(2,%)", "(-2,)"), "12345678"), npy(good:gsub("%(2,%)", "(1,1,1,1,1)"), "12345678"),
            npy(good:gsub("%(2,%)", "(9223372036854775807, 9223372036854775807)"), "12345678"),
            npy(good:gsub("%(2,%)", "(99999999999999999999999,)"), "12345678"),
            npy(good:gsub("%(2,%)", "(4611686018427387904,)"), "12345678"),
            npy(good:gsub("%(2,%)", "(1000000000,)"), "12345678"), npy(good:gsub("False", "Maybe"), "12345678"),
            npy(good:gsub(", 'shape'.*", "}"), "12345678"), npy(good:gsub("'shape'", "'descr'"), "12345678"),
            npy(good:gsub("%(2,%)", "("), "12345678"), npy(("{"):rep(300), "12345678"), npy("{'descr: <f4", "12345678"),
            "\x93NUMPY\2\0\255\255\255\255" .. good, npy(good):sub(1, 40),
        }
        for i, text in ipairs(bad) do
            write(text)
            local fine, problem = pcall(tensor.load, path)
            if fine then error(("file %d was read as %s"):format(i, tostring(problem))) end
            assert.truthy(tostring(problem):find(path, 1, true))
        end
        local text = npy(good, "12345678")
        for length = 0, #text - 1 do
            write(text:sub(1, length))
            assert.is_false((pcall(tensor.load, path)))
        end
        refused(function() tensor.load("/no/such/file.npy") end, "/no/such/file.npy")
        refused(function() tensor.zeros(1):save("/no/such/file.npy") end, "/no/such/file.npy")
    end)

    it("loads or refuses files with changed bytes", function()
        local text = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", ("\0\0\128\63"):rep(6))
        local random = require("helpers.block_layouts").random(3)
        for _ = 1, 300 do
            local at = random(1, #text)
            write(text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + 1))
            local fine, t = pcall(tensor.load, path)
            if fine then
                assert.is_true(t:count() <= 24)
                assert.is_true(ffi.istype("float *", t:pointer()) or t:dtype() ~= "f32")
            end
        end
    end)
end)
