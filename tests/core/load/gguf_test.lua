-- The GGUF loader on whole files: metadata types, tensors, split files, and files that are none.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local weights = require "moonloom.weights"
local writer = require "moonloom.file.gguf_writer"

local folder = require("helpers.folder")
local run = require "helpers.command"
local tiny = ml.home .. "/data/tiny-gpt-oss.gguf"

local function u32(value)
    return ffi.string(ffi.new("uint32_t[1]", value), 4)
end

local function u64(value)
    return ffi.string(ffi.new("uint64_t[1]", value), 8)
end

local function text(value)
    return u64(#value) .. value
end

-- A whole file: header with these counts, then `rest`.
local function gguf(tensors, pairs_, rest, version)
    return "GGUF" .. u32(version or 3) .. u64(tensors) .. u64(pairs_) .. (rest or "")
end

local function tensor_info(name, dims, dtype, offset)
    local parts = { text(name), u32(#dims) }
    for _, extent in ipairs(dims) do parts[#parts + 1] = u64(extent) end
    parts[#parts + 1] = u32(dtype) .. u64(offset)
    return table.concat(parts)
end

-- The sentence with which opening a file of these bytes is refused.
local function refusal(bytes)
    local path = folder.write("refused.gguf", bytes)
    local ok, problem = pcall(weights.open, path)
    assert.is_false(ok)
    return problem.message
end

local function assert_refused(bytes, words)
    local message = refusal(bytes)
    assert.truthy(message:find(words, 1, true), message)
end

describe("gguf", function()
    teardown(folder.remove)

    it("opens the tiny model", function()
        local w = weights.open(tiny)
        assert.equal(79, w:count())
        assert.equal("gpt-oss", w:meta("general.architecture"))
        local info = w:info("token_embd.weight")
        assert.same({ 1024, 192 }, info.shape)
        assert.equal("q8_0", info.type)
        assert.equal(208896, info.bytes)
        assert.same(info, w:info(1))
        assert.same({ 8, 192, 192 }, w:info("blk.0.ffn_gate_exps.weight").shape)
        assert.equal("mxfp4", w:info("blk.0.ffn_gate_exps.weight").type)
        assert.equal(79, #w:tensors())
        assert.equal(1024, #w:meta("tokenizer.ggml.tokens"))
        assert.equal(5, #w:meta("tokenizer.ggml.tokens", 5))
        assert.same({ "array", "string", 1024 }, { w:kind("tokenizer.ggml.tokens") })
        assert.is_nil(w:meta("no.such.key"))
        assert.equal(2862336, w:bytes())
        local times = w:timings()
        assert.is_true(times.header >= 0 and times.metadata >= 0 and times.tensors >= 0)
        local ok, problem = pcall(w.info, w, "blk.99.attn_q.weight")
        assert.is_false(ok)
        assert.equal(ml.C.ML_E_NOT_FOUND, problem.status)
        assert.truthy(problem.message:find("blk.99.attn_q.weight", 1, true))
        assert.has_error(function() w:info(80) end)
        assert.has_error(function() w:info(0) end)
        w:close()
        w:close()
        assert.has_error(function() w:count() end)
    end)

    it("reads every metadata type, alone and in arrays", function()
        local values = {
            u8 = { 0, 255 }, i8 = { -128, 127 }, u16 = { 0, 65535 }, i16 = { -32768, 32767 },
            u32 = { 0, 4294967295 }, i32 = { -2147483648, 2147483647 }, u64 = { 0, 2 ^ 52 }, i64 = { -2 ^ 52, 2 ^ 52 },
            f32 = { 0.5, -1e30 }, f64 = { 0.1, -1e300 }, bool = { true, false }, string = { "", "a\0b\255 ü" },
        }
        values.f32[2] = tonumber(ffi.new("float", -1e30))
        for version = 2, 3 do
            local path = folder.path("types.gguf")
            writer.save(path, { force = true, version = version }, function(file)
                for kind, pair in pairs(values) do
                    file:meta("one." .. kind, kind, pair[1])
                    file:meta("two." .. kind, kind, pair[2])
                    file:meta("all." .. kind, kind .. "[]", pair)
                    file:meta("none." .. kind, kind .. "[]", {})
                end
                file:meta("deep", "i16[][]", { { 1, 2 }, {}, { 3 } })
                file:meta("deeper", "string[][][]", { { { "a", "bc" }, {} }, {} })
                file:meta("after", "string", "the deep ones")
            end)
            local w = weights.open(path)
            for kind, pair in pairs(values) do
                assert.equal(pair[1], w:meta("one." .. kind))
                assert.equal(pair[2], w:meta("two." .. kind))
                assert.same(pair, w:meta("all." .. kind))
                assert.same({}, w:meta("none." .. kind))
            end
            assert.equal("the deep ones", w:meta("after"))
            assert.same({ "array", "array", 3 }, { w:kind("deep") })
            assert.has_error(function() w:meta("deep") end)
            assert.equal(#w:keys(), 4 * 12 + 3)
            assert.equal(0, w:count())
            w:close()
        end
    end)

    it("keeps integers that a double cannot hold", function()
        local path = folder.path("wide.gguf")
        writer.save(path, {}, function(file)
            file:meta("big", "i64", 9007199254740993LL)
            file:meta("low", "i64", -9007199254740993LL)
            file:meta("huge", "u64", 0xffffffffffffffffULL)
        end)
        local w = weights.open(path)
        assert.equal(9007199254740993LL, w:meta("big"))
        assert.equal(-9007199254740993LL, w:meta("low"))
        assert.equal(2 ^ 64, w:meta("huge"))
        w:close()
    end)

    it("tells the kind that a value has when asked for another", function()
        local w, out = weights.open(tiny), ffi.new("int64_t[1]")
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_meta_int(w.handle, "general.architecture", 0, out))
        assert.truthy(ffi.string(ml.C.ml_last_error()):find("architecture is a string, not an integer", 1, true))
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_meta_int(w.handle, "gpt-oss.block_count", 1, out))
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_meta_int(w.handle, "gpt-oss.block_count", -1, out))
        assert.equal(ml.C.ML_E_NOT_FOUND, ml.C.ml_meta_int(w.handle, "nope", 0, out))
        local number = ffi.new("double[1]")
        assert.equal(0, ml.C.ml_meta_float(w.handle, "gpt-oss.block_count", 0, number))
        assert.equal(4, number[0])
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_meta_float(w.handle, "general.architecture", 0, number))
        assert.is_true(ml.C.ml_meta_key(w.handle, 1000) == nil)
        w:close()
    end)

    it("says what a file is that is no GGUF", function()
        local function message(path)
            local ok, problem = pcall(weights.open, path)
            assert.is_false(ok)
            return problem.message
        end
        assert.truthy(message(folder.path("absent.gguf")):find("there is no file", 1, true))
        assert.truthy(message(ml.home .. "/data"):find("is a folder", 1, true))
        assert.truthy(message("/dev/null"):find("not a regular file", 1, true))
        assert_refused("", "is empty")
        assert.equal(folder.path("refused.gguf") .. " is in no format that moonloom reads: it is not a GGUF file, "
            .. 'which begins with the bytes "GGUF"', refusal("x"))
        assert_refused("GG", "not a GGUF file")
        assert_refused("hello, world, this is text", "not a GGUF file")
        assert_refused(u64(20) .. '{"a":{"dtype":"F32"}}', "safetensors")
        assert_refused("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer")
    end)

    it("refuses headers that cannot be right", function()
        assert_refused("GGUF", "cut short")
        assert_refused("GGUF" .. u32(3) .. u64(0), "cut short")
        assert_refused(gguf(0, 0, "", 1), "version 1")
        assert_refused(gguf(0, 0, "", 4), "version 4")
        assert_refused(gguf(0, 0, "", 0x03000000), "big-endian")
        assert_refused(gguf(1, 0), "the number of tensors")
        assert_refused(gguf(0, 1), "the number of metadata pairs")
        assert_refused(gguf(0, 0xffffffffffffffffULL, ("x"):rep(100)), "the number of metadata pairs")
        assert_refused(gguf(2 ^ 62, 0, ("x"):rep(100)), "the number of tensors")
    end)

    it("refuses metadata that cannot be right", function()
        local function pair(rest)
            return gguf(0, 1, rest .. ("\0"):rep(16))
        end
        assert_refused(pair(u64(0)), "the name of metadata pair 0 has 0 bytes")
        assert_refused(pair(u64(0xffffffffffffffffULL)), "bytes")
        assert_refused(pair(u64(1000) .. "abc"), "metadata pair 0 needs 1000 bytes")
        assert_refused(pair(text("a\nb") .. u32(0)), "control character")
        assert_refused(pair(text("key") .. u32(13)), "metadata value key has the unknown type 13")
        assert_refused(pair(text("key") .. u32(7) .. "\2"), "neither true nor false")
        assert_refused(pair(text("key") .. u32(8) .. u64(1000)), "metadata value key needs 1000 bytes")
        assert_refused(pair(text("key") .. u32(8) .. u64(0xfffffffffffffff0ULL)), "metadata value key needs")
        assert_refused(pair(text("key") .. u32(9) .. u32(13) .. u64(0)), "unknown type 13")
        assert_refused(pair(text("key") .. u32(9) .. u32(4) .. u64(2 ^ 62)), "only 16 bytes are left")
        assert_refused(pair(text("key") .. u32(9) .. u32(8) .. u64(2 ^ 61)), "only 16 bytes are left")
        assert_refused(pair(text("key") .. u32(9) .. u32(8) .. u64(2) .. u64(100)), "needs 100 bytes")
        assert_refused(pair(text("key") .. (u32(9) .. u32(9) .. u64(1)):rep(1) .. (u32(9) .. u64(1)):rep(20)), "deep")
        assert_refused(gguf(0, 2, (text("key") .. u32(0) .. "\1"):rep(2)), "metadata value key is there twice")
        for _, alignment in ipairs { 0, 1, 4, 33 } do
            assert_refused(pair(text("general.alignment") .. u32(4) .. u32(alignment)), "general.alignment")
        end
        assert_refused(pair(text("general.alignment") .. u32(8) .. text("32")), "general.alignment is no integer")
    end)

    it("refuses tensors that cannot be right", function()
        local data = ("\0"):rep(256)
        local function one(...)
            return gguf(1, 0, tensor_info(...) .. data)
        end
        assert_refused(one("x", { 0 }, 0, 0), "tensor x has a dimension of 0")
        assert_refused(one("x", { 2 ^ 40, 2 ^ 40 }, 0, 0), "tensor x has a dimension")
        assert_refused(one("x", { 2 ^ 62 }, 0, 0), "tensor x is over 2^63 bytes")
        assert_refused(one("x", { 0xffffffffffffffffULL }, 0, 0), "tensor x has a dimension")
        assert_refused(one("x", { 1, 1, 1, 1, 1 }, 0, 0), "tensor x has 5 dimensions")
        assert_refused(one("x", { 33 }, 8, 0), "tensor x has rows of 33 elements")
        assert_refused(one("x", { 32 }, 4, 0), "tensor x has type 4")
        assert_refused(one("x", { 32 }, 1000, 0), "tensor x has type 1000")
        assert_refused(one("x", { 32 }, 0xffffffff, 0), "tensor x has type")
        assert_refused(one("x", { 1024 }, 0, 0), "tensor x needs 4096 bytes")
        assert_refused(one("x", { 1 }, 0, 320), "tensor x needs 4 bytes")
        assert_refused(one("x", { 1 }, 0, 8), "no multiple of 32")
        assert_refused(one("x", { 1 }, 0, 0xffffffffffffffe0ULL), "tensor x")
        assert_refused(one("x", { 1 }, 0, 0x7fffffffffffffe0ULL), "tensor x needs 4 bytes")
        assert_refused(gguf(2, 0, tensor_info("x", { 1 }, 0, 0):rep(2) .. data), "tensor x is there twice")
        assert_refused(gguf(1, 0, tensor_info("x", { 1 }, 0, 0)), "tensor x needs 4 bytes")
    end)

    it("refuses tensors that share bytes, and takes them in any order", function()
        local function three(a, b, c)
            return gguf(3, 0, tensor_info("a", { 16 }, 0, a) .. tensor_info("b", { 8 }, 0, b)
                .. tensor_info("c", { 9 }, 0, c) .. ("\0"):rep(256))
        end
        assert_refused(three(0, 32, 64), "tensor b begins at byte 160, inside a")
        assert_refused(three(0, 64, 64), "begins at byte 192, inside")
        assert_refused(three(96, 160, 64), "tensor a begins at byte 224, inside c")
        for _, places in ipairs { { 0, 64, 96 }, { 96, 0, 32 }, { 64, 160, 0 } } do
            local w = weights.open(folder.write("apart.gguf", three(unpack(places))))
            assert.equal(3, w:count())
            w:close()
        end
    end)

    it("is open soon though its keys would meet in one part of an FNV-1a table", function()
        local KEYS, SLOTS, PART = 150000, 2 ^ 19, 16
        local parts = {}
        local function grow(hash, key, more)
            for byte = 97, 112 do
                local longer = bit.bxor(hash, byte) * 0x100000001b3ULL
                if more > 0 then
                    grow(longer, key .. string.char(byte), more - 1)
                elseif bit.band(bit.bxor(longer, bit.rshift(longer, 32)), SLOTS - 1) < SLOTS / PART then
                    parts[#parts + 1] = text(key .. string.char(byte)) .. u32(0) .. "x"
                end
                if #parts == KEYS then return end
            end
        end
        grow(0xcbf29ce484222325ULL, "", 5)
        local path = folder.write("keys.gguf", gguf(0, KEYS, table.concat(parts)))
        local out, err, code = run { "-e", ([[
            local ffi = require "ffi"
            ffi.cdef "unsigned alarm(unsigned seconds);"
            ffi.C.alarm(20) -- instead of minutes
            io.write(#require("moonloom.weights").open %q:keys())
        ]]):format(path) }
        assert.same({ tostring(KEYS), "", 0 }, { out, err, code })
    end)

    it("lists a type that it cannot compute with, if its size is known", function()
        local path = folder.write("foreign.gguf", gguf(1, 0, tensor_info("x", { 512 }, 16, 0) .. ("\0"):rep(256)))
        local w = weights.open(path)
        local info = w:info("x")
        assert.equal("iq2_xxs", info.type)
        assert.equal(132, info.bytes)
        w:close()
    end)

    it("takes scalars, every dimension count, and another alignment", function()
        local path = folder.path("shapes.gguf")
        writer.save(path, {}, function(file)
            file:meta("general.alignment", "u32", 256)
            for ndim = 0, 4 do
                local shape = { 2, 3, 4, 5 }
                for _ = ndim + 1, 4 do table.remove(shape) end
                file:tensor("t" .. ndim, "f32", shape)
            end
            for ndim = 0, 4 do file:data("t" .. ndim, ("\1"):rep(({ [0] = 4, 8, 24, 96, 480 })[ndim])) end
        end)
        local w = weights.open(path)
        assert.same({ 1 }, w:info("t0").shape)
        assert.same({ 2 }, w:info("t1").shape)
        assert.same({ 2, 3, 4, 5 }, w:info("t4").shape)
        for _, tensor in ipairs(w:tensors()) do assert.equal(0, tensor.offset % 256) end
        w:close()
    end)
end)

describe("a split gguf", function()
    teardown(folder.remove)

    -- Writes part `number` (from 0) of `count` with one tensor, t<number>.
    local function part(stem, number, count, change)
        local path = folder.path(("%s-%05d-of-%05d.gguf"):format(stem, number + 1, count))
        writer.save(path, { force = true }, function(file)
            if number == 0 then file:meta("general.architecture", "string", "llama") end
            local said = { no = number, count = count, tensors = count, name = "t" .. number }
            for key, value in pairs(change or {}) do said[key] = value end
            file:meta("split.no", "u16", said.no)
            file:meta("split.count", "u16", said.count)
            file:meta("split.tensors.count", "i32", said.tensors)
            file:tensor(said.name, "f32", { 1 })
            file:data(said.name, ffi.string(ffi.new("float[1]", number), 4))
        end)
        return path
    end

    it("opens as a whole from any part", function()
        for number = 0, 2 do part("whole", number, 3) end
        for number = 0, 2 do
            local w = weights.open(folder.path(("whole-%05d-of-00003.gguf"):format(number + 1)))
            assert.equal(3, w:count())
            assert.equal("llama", w:meta("general.architecture"))
            for i = 0, 2 do assert.equal(i + 1, w:info("t" .. i).file) end
            assert.is_true(w:bytes() > 3 * 100)
            w:close()
        end
    end)

    local function refused(path, words)
        local ok, problem = pcall(weights.open, path)
        assert.is_false(ok)
        assert.truthy(problem.message:find(words, 1, true), problem.message)
    end

    it("names the part that is missing", function()
        local path = part("missing", 0, 3)
        part("missing", 2, 3)
        refused(path, "part 2 of the 3")
        refused(path, "missing-00002-of-00003.gguf")
    end)

    it("refuses parts that do not belong together", function()
        local path = part("odd", 0, 2)
        part("odd", 1, 2, { no = 0 })
        refused(path, "belongs to another model")
        part("odd", 1, 2, { count = 3 })
        refused(path, "belongs to another model")
        part("odd", 1, 2, { tensors = 7 })
        refused(path, "belongs to another model")
        part("odd", 1, 2, { name = "t0" })
        refused(path, "tensor t0 is there twice")
        part("odd", 0, 2, { tensors = 5 })
        part("odd", 1, 2, { tensors = 5 })
        refused(path, "should hold 5")
        refused(part("odd", 1, 2, { no = 2 }), "part 2 (from 0) of 2")
        folder.write("odd-00002-of-00002.gguf", "something else")
        refused(part("odd", 0, 2), "odd-00002-of-00002.gguf is not a GGUF file")
    end)

    it("wants the name that tells where the others are", function()
        local path = part("named", 0, 2)
        local other = folder.path("renamed.gguf")
        assert(os.rename(path, other))
        refused(other, "-00001-of-00002.gguf")
    end)
end)
