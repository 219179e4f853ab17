-- Products on the matrix unit: the gate in front of it, and its code over emulated tiles (core/kernels/amx_emulated.c).
local ml = require "moonloom._core.ffi"
local ffi = require "ffi"
local blocks = require "helpers.block_layouts"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local moonloom = require "moonloom"
local synth = require("moonloom.recipe.live").get("synth")
local C, tensor = ml.C, moonloom.tensor

local SHARED = MOONLOOM_HOME .. "/../shared"
local EMULATED = "amx-emulated"
local FEW, MANY = 7, 8 -- columns: below, and from where on the matrix unit is used

-- body() with the kernels and the precision of that name, then as before.
local function under(isa, precision, body)
    local before, precision_before = moonloom.isa(), moonloom.precision()
    moonloom.isa(isa)
    moonloom.precision(precision)
    local results = { pcall(body) }
    moonloom.isa(before)
    moonloom.precision(precision_before)
    if not results[1] then error(results[2], 0) end
    return unpack(results, 2)
end

local function can_emulate()
    local fine = pcall(under, EMULATED, "bf16", function() end)
    if not fine then pending "tiles are emulated with AVX-512, which this CPU has not" end
    return fine
end

local function bytes_of(t)
    return ffi.string(t:pointer(), t:count() * 4)
end

describe("the matrix unit", function()
    it("is used if the machine grants it, or refused in one sentence", function()
        local before = moonloom.isa()
        local status = C.ml_isa_set("amx")
        if status ~= C.ML_OK then
            assert.equal(C.ML_E_UNSUPPORTED, status)
            local sentence = ffi.string(C.ml_last_error())
            assert.truthy(sentence:find("has no amx", 1, true))
            assert.truthy(sentence:find(moonloom.cpu(), 1, true))
            assert.falsy(sentence:find("\n"))
            assert.equal(before, moonloom.isa())
        else
            assert.equal("amx", moonloom.isa())
        end
        moonloom.isa(before)
    end)

    it("is emulated only by name", function()
        local before = moonloom.isa()
        moonloom.isa "auto"
        assert.not_equal(EMULATED, moonloom.isa())
        moonloom.isa(before)
    end)

    it("has two precisions", function()
        local before = moonloom.precision()
        assert.equal("exact", moonloom.precision "exact")
        assert.equal("bf16", moonloom.precision "bf16")
        for _, wrong in ipairs { "f32", "" } do
            assert.has_error(function() moonloom.precision(wrong) end)
            assert.truthy(ffi.string(C.ml_last_error()):find("bf16 or exact", 1, true))
        end
        assert.equal(C.ML_E_ARGUMENT, C.ml_precision_set(nil))
        assert.equal("bf16", moonloom.precision())
        moonloom.precision(before)
    end)

    it("has a multiply peak", function()
        if not can_emulate() then return end
        under(EMULATED, "bf16", function() assert.is_true(moonloom.multiply_peak(1) > 1e6) end)
    end)
end)

local function matrix(dtype, rows, k)
    local block = tonumber(C.ml_dtype_block(C.ml_dtype_from_name(dtype)))
    if block > 1 and k % block ~= 0 then return nil end
    return tensor.from_pointer((blocks.matrix(dtype, blocks.random(rows + k), rows, k / block)), { rows, k }, dtype)
end

-- Largest distance between a and b, each element relative to the sum of the sizes of its products.
local function furthest(a, b, size)
    local p, q, s, worst = a:pointer(), b:pointer(), size:pointer(), 0
    for i = 0, a:count() - 1 do
        local off = math.abs(p[i] - q[i]) / (s[i] + 1e-30)
        if off > worst or off ~= off then worst = off end
    end
    return worst
end

local function absolute(t)
    local copy = t:convert "f32"
    local p = copy:pointer()
    for i = 0, copy:count() - 1 do p[i] = math.abs(p[i]) end
    return copy
end

local dtypes = { "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_nl", "iq4_xs", "mxfp4" }
local shapes = { { 32, 256 }, { 37, 768 }, { 15, 64 }, { 16, 32 }, { 49, 1312 }, { 33, 672 } } -- rows, k

-- Every column by itself is the same in any batch, so the largest one is the reference of all.
local function check_products(w, what)
    local k = w:shape(2)
    local x, plain = tensor.randn(65, k, { seed = k }), w:convert "f32"
    local exact, size, rounded = under("scalar", "bf16", function()
        local x_bf16, w_bf16 = x:convert("bf16"):convert "f32", plain:convert("bf16"):convert "f32"
        return x:linear(plain), absolute(x):linear(absolute(plain)), x_bf16:linear(w_bf16)
    end)
    for _, columns in ipairs { MANY, 9, 31, 33, 65 } do
        local part = x:slice(1, 1, columns)
        local off = furthest(under(EMULATED, "bf16", function() return part:linear(w) end), rounded, size)
        assert.is_true(off <= 1e-6, ("%s, %d columns: %g off what rounding gives"):format(what, columns, off))
        off = furthest(under(EMULATED, "exact", function() return part:linear(w) end), exact, size)
        assert.is_true(off <= 2e-5, ("%s, %d columns: %g off, exact"):format(what, columns, off))
    end
end

describe("a product in tiles", function()
    for _, dtype in ipairs(dtypes) do
        it(("of %s is that of rounded operands, and exact is exact, in every size"):format(dtype), function()
            if not can_emulate() then return end
            for _, shape in ipairs(shapes) do
                local w = matrix(dtype, unpack(shape))
                if w then check_products(w, ("%s {%d, %d}"):format(dtype, unpack(shape))) end
            end
        end)
    end

    it("counts more than one span of columns and more than one run of rows", function()
        if not can_emulate() then return end
        local w, x = tensor.randn(700, 64, { seed = 1 }):convert "q8_0", tensor.randn(1100, 64, { seed = 2 })
        local y = under("scalar", "bf16", function() return x:linear(w) end)
        local z = under(EMULATED, "exact", function() return x:linear(w) end)
        assert.is_true(furthest(y, z, tensor.zeros(1100, 700):convert "f32" + 1) < 1e-3)
    end)

    it("keeps the ends of MXFP4's scales", function()
        if not can_emulate() then return end
        local codes = ("\x21\x43\x65\x87\xa9\xcb\xed\x0f"):rep(2)
        for _, e in ipairs { 0, 1, 2, 3, 100, 251, 252, 253, 255 } do
            local rows = {}
            for r = 1, 48 do rows[r] = string.char(r == 20 and e or 127) .. codes end
            local w = tensor.from_pointer(table.concat(rows), { 48, 32 }, "mxfp4")
            local x = tensor.zeros(MANY, 32)
            for c = 1, MANY do x[c][4 * c - 3] = 2 ^ -20 end
            local y = under("scalar", "bf16", function() return x:linear(w) end)
            local z = under(EMULATED, "bf16", function() return x:linear(w) end)
            for i = 0, y:count() - 1 do
                local a, b = y:pointer()[i], z:pointer()[i]
                -- A subnormal result or weight is zero in tiles.
                local same = a == b or (a ~= a and b ~= b) or (math.abs(a) < 2 ^ -125 and b == 0)
                assert.is_true(same, ("scale %d, element %d: %g, not %g"):format(e, i, b, a))
            end
        end
    end)

    it("leaves few columns, and weights in f32, to the other kernels", function()
        if not can_emulate() then return end
        local x, f32 = tensor.randn(20, 96, { seed = 2 }), tensor.randn(70, 96, { seed = 1 })
        local q8_0 = f32:convert "q8_0"
        local function both(f)
            return under("avx512", "bf16", f), under(EMULATED, "bf16", f)
        end
        local a, b = both(function() return bytes_of(x:slice(1, 1, FEW):linear(q8_0)) end)
        assert.is_true(a == b)
        a, b = both(function() return bytes_of(x:linear(f32)) end)
        assert.is_true(a == b)
        a, b = both(function() return bytes_of(x:slice(1, 1, MANY):linear(q8_0)) end)
        assert.is_true(a ~= b)
    end)

    it("is the same for a column in any batch of so many, NaN beside it or not, on 1 to 4 threads", function()
        if not can_emulate() then return end
        local before = C.ml_threads_count()
        local x = tensor.randn(70, 320, { seed = 2 })
        for c = MANY + 1, 70, 9 do x[c][5] = 0 / 0 end
        for _, dtype in ipairs { "mxfp4", "q8_0", "bf16" } do
            local w = tensor.randn(301, 320, { seed = 1 }):convert(dtype)
            for _, precision in ipairs { "bf16", "exact" } do
                local first
                for threads = 1, 4 do
                    ml.check(C.ml_threads_set(threads))
                    for _, columns in ipairs { MANY, 20, 70 } do
                        local y = under(EMULATED, precision, function() return x:slice(1, 1, columns):linear(w) end)
                        local bytes = ffi.string(y:pointer(), MANY * 301 * 4)
                        first = first or bytes
                        assert.is_true(first == bytes)
                    end
                end
            end
        end
        ml.check(C.ml_threads_set(before))
    end)
end)

-- Log-probabilities after every token, packed by position, and the best id there.
local function distributions(model, ids, cache)
    local vocabulary = model:config().vocabulary
    local rows, best = ffi.new("double[?]", #ids * vocabulary), {}
    local session = model:session { cache = cache or "f32", prefixes = false }
    session:feed(ids, { each = function(position, logits)
        local normaliser, values = logits:logsumexp(), logits:pointer()
        for i = 0, vocabulary - 1 do rows[position * vocabulary + i] = values[i] - normaliser end
        best[position] = logits:argmax()
    end })
    session:close()
    return { rows = rows, best = best, vocabulary = vocabulary }
end

-- q against p: mean KL divergence in nats, relative change of the perplexity, and how much p prefers its own greedy
-- choice over q's where they differ, at most.
local function compare(p, q, ids)
    local kl, change, gap, v = 0, 0, 0, p.vocabulary
    for i = 0, #ids * v - 1 do kl = kl + math.exp(p.rows[i]) * (p.rows[i] - q.rows[i]) end
    for i = 0, #ids - 1 do
        local following = ids[i + 2]
        if following then change = change + p.rows[i * v + following] - q.rows[i * v + following] end
        gap = math.max(gap, p.rows[i * v + p.best[i]] - p.rows[i * v + q.best[i]])
    end
    return kl / #ids, math.abs(math.exp(change / (#ids - 1)) - 1), gap
end

-- Weights in f32 are multiplied in f32, so that only attention differs.
describe("attention in tiles", function()
    local heads = {
        { heads = 8, kv_heads = 1, head_dim = 64 }, { heads = 6, kv_heads = 2, head_dim = 32 },
        { heads = 3, kv_heads = 3, head_dim = 40, other = true }, -- not a multiple of 32
    }
    local TOKENS = 300 -- beyond the window of 128

    teardown(folder.remove)

    for _, shape in ipairs(heads) do
        it(("of %d heads over %d of %d rounds, exact does not, and threads change nothing"):format(shape.heads,
            shape.kv_heads, shape.head_dim), function()
            if not can_emulate() then return end
            local path = folder.path(("amx-%d.gguf"):format(shape.head_dim))
            synth { output = path, shape = "tiny", type = "f32", expert_type = "f32", layers = 2, width = 64,
                ffn_width = 32, experts = 2, vocab_size = 300, heads = shape.heads,
                kv_heads = shape.kv_heads, head_dim = shape.head_dim }
            local model, ids = moonloom.load(path), {}
            for i = 1, TOKENS do ids[i] = i * 37 % 251 end
            local size = TOKENS * model:config().vocabulary
            local function rows(isa, precision)
                return under(isa, precision, function() return distributions(model, ids, "bf16").rows end)
            end
            local function same(a, b) return ffi.string(a, size * 8) == ffi.string(b, size * 8) end
            local plain, tiles = rows("avx512", "bf16"), rows(EMULATED, "bf16")
            assert.is_true(same(plain, rows(EMULATED, "exact")))
            assert.equal(shape.other or false, same(plain, tiles))
            local squares = 0
            for i = 0, size - 1 do squares = squares + (plain[i] - tiles[i]) ^ 2 end
            local off = math.sqrt(squares / size)
            assert.is_true(off <= 1e-2, ("%g off"):format(off))
            local before = C.ml_threads_count()
            for threads = 1, 4, 3 do
                ml.check(C.ml_threads_set(threads))
                assert.is_true(same(tiles, rows(EMULATED, "bf16")))
            end
            ml.check(C.ml_threads_set(before))
            model:close()
        end)
    end
end)

describe("tiny-gpt-oss on the matrix unit", function()
    local KL, PERPLEXITY, TIE, TOKENS = 1e-3, 1e-3, 0.05, 512
    local tiny = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"
    local forms = { SHARED .. "/models/tiny-gpt-oss/tiny-gpt-oss-mxfp4.gguf", tiny }

    for _, path in ipairs(forms) do
        it("stays near f32 on the validation text, and exact nearer: " .. path:match("[^/]+$"), function()
            local file = io.open(SHARED .. "/models/tiny-gpt-oss/validation.txt", "rb")
            if not file then pending(SHARED .. "/models is absent") end
            if not can_emulate() then return end
            local model = moonloom.load(path)
            local all = model:tokenize(file:read("*a"), { special = false })
            file:close()
            local ids = {}
            for i = 1, TOKENS do ids[i] = all[i] end
            local f32 = under("scalar", "bf16", function() return distributions(model, ids) end)
            local bf16 = under(EMULATED, "bf16", function() return distributions(model, ids, "bf16") end)
            local kl, change, gap = compare(f32, bf16, ids)
            assert.is_true(kl > 1e-9 and kl <= KL, ("%g nats a token"):format(kl)) -- and it did round
            assert.is_true(change <= PERPLEXITY, ("perplexity changes by %g"):format(change))
            assert.is_true(gap <= TIE, ("a greedy choice differs by %g"):format(gap))
            local exact = under(EMULATED, "exact", function() return distributions(model, ids) end)
            kl, change, gap = compare(f32, exact, ids)
            assert.is_true(kl <= 1e-6 and change <= 1e-5 and gap <= 1e-3, ("exact: %g %g %g"):format(kl, change, gap))
            model:close()
        end)
    end

    it("decodes in the same numbers as without", function()
        if not can_emulate() then return end
        local model = moonloom.load(tiny)
        local function story(isa)
            return under(isa, "bf16", function()
                local session = model:session { cache = "f32", prefixes = false }
                session:feed(model:tokenize("Once")) -- fewer tokens than the matrix unit takes
                for _ = 1, 20 do session:step(session:logits():argmax()) end
                local text = ffi.string(session:logits():pointer(), #session:logits() * 4)
                session:close()
                return text
            end)
        end
        assert.is_true(story "avx512" == story(EMULATED))
        model:close()
    end)

    it("meets the tolerances of the other kernels under precision exact, experts shared by few or many rows", function()
        if not can_emulate() then return end
        local model = moonloom.load(tiny)
        local ids = model:tokenize("Tom and Lily went to the park to play with the red ball and the big boat they had.")
        assert.is_true(#ids > MANY)
        isa_helper.exactly(function()
            local expected = under("scalar", "exact", function() return distributions(model, ids) end)
            local got = under(EMULATED, "exact", function() return distributions(model, ids) end)
            for i = 0, #ids * expected.vocabulary - 1 do
                assert.is_true(math.abs(expected.rows[i] - got.rows[i]) <= 2e-3)
            end
        end)
        model:close()
    end)
end)
