-- Weights in mapped files, or copied into memory: the same bits either way.
local ffi = require "ffi"
local folder = require "helpers.folder"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local rewritten = require "helpers.rewritten"
local run = require "helpers.command"
local sentence_of = require "helpers.sentence"
local uv = require "luv"
local weights = require "moonloom.weights"
local writer = require "moonloom.file.gguf_writer"
local C = ml.C

ffi.cdef [[
int memcmp(const void *a, const void *b, size_t bytes);
long syscall(long number, ...);
int open(const char *path, int flags, ...);
int close(int descriptor);
int fsync(int descriptor);
int posix_fadvise(int descriptor, int64_t offset, int64_t bytes, int advice);
int fork(void);
int waitpid(int process, int *status, int options);
unsigned alarm(unsigned seconds);
void _exit(int code);
]]

local TINY = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"

describe("loading", function()
    teardown(folder.remove)

    local function logits_of(session)
        local list, logits = {}, session:logits()
        for i = 0, #logits - 1 do list[i] = logits[i] end
        return list
    end

    local function say(model)
        local session = model:session { prefixes = false }
        session:feed("Once upon a time, there was a little girl")
        local list = logits_of(session)
        session:close()
        return list
    end

    it("copies weights into memory with the same results, and lets the file go", function()
        local path = folder.write("copied.gguf", folder.read(TINY))
        local mapped, before = moonloom.load(TINY), moonloom.memory()
        local copied = moonloom.load(path, { load = "copy" })
        local bytes, after = copied.weights:bytes(), moonloom.memory()
        assert.equal(before.copied.bytes + bytes, after.copied.bytes)
        assert.equal(before.mapped.bytes, after.mapped.bytes)
        local file = io.open(path, "r+b")
        file:write(("x"):rep(bytes)) -- nobody looks at it any more
        file:close()
        local expected = say(mapped)
        assert.same(expected, say(copied))
        assert.equal("gpt-oss", copied.weights:meta("general.architecture"))
        copied:close()
        collectgarbage()
        collectgarbage()
        assert.equal(before.copied.bytes, moonloom.memory().copied.bytes)
        mapped:close()
    end)

    it("copies under a model that is in use", function()
        local model = moonloom.load(TINY)
        local expected = say(model)
        model.weights:copy()
        assert.same(expected, say(model))
        model:close()
    end)

    it("goes part by part, and stops for an interrupt with everything readable", function()
        local count = 10 * 2 ^ 20 + 77 -- of f32: a part of 32 MiB and some
        local numbers = ffi.new("float[?]", count)
        for i = 0, count - 1 do numbers[i] = i % 1048573 end
        local path = folder.path("large.gguf")
        writer.save(path, {}, function(file)
            file:meta("general.architecture", "string", "none")
            file:tensor("numbers", "f32", { count })
            file:data("numbers", numbers, count * 4)
        end)
        local file = weights.open(path)
        local tensor = moonloom.tensor.from_weights(file.handle, "numbers")
        local function same()
            return ffi.C.memcmp(C.ml_tensor_data(tensor.handle), numbers, count * 4) == 0
        end
        local steps = {}
        local stopped = pcall(file.copy, file, function(copied)
            steps[#steps + 1] = copied
            C.ml_interrupt_set(1)
        end)
        C.ml_interrupt_set(0)
        assert.is_false(stopped)
        assert.same({ 32 * 2 ^ 20 }, steps)
        assert.is_true(same())
        file:copy(function(copied) steps[#steps + 1] = copied end)
        assert.same({ 32 * 2 ^ 20, file:bytes() }, steps)
        assert.is_true(same())
        file:copy() -- nothing is left to do
        assert.is_true(same())
    end)

    it("finds every string of a long array", function()
        local strings = {}
        for i = 1, 1000 do strings[i] = ("s"):rep(i % 7) .. i end
        strings[17], strings[1000] = "", ""
        local path = folder.path("strings.gguf")
        writer.save(path, {}, function(file)
            file:meta("general.architecture", "string", "none")
            file:meta("some.strings", "string[]", strings)
            file:meta("after", "u32", 7)
        end)
        local file = weights.open(path)
        assert.same(strings, file:meta("some.strings"))
        local text, bytes = ffi.new("const char *[1]"), ffi.new("int64_t[1]")
        for _, i in ipairs { 999, 0, 15, 16, 17, 998, 500 } do
            ml.check(C.ml_meta_string(file.handle, "some.strings", i, text, bytes))
            assert.equal(strings[i + 1], ffi.string(text[0], bytes[0]))
        end
        assert.equal(C.ML_E_ARGUMENT, C.ml_meta_string(file.handle, "some.strings", 1000, text, bytes))
        assert.equal(7, file:meta("after"))
        file:close()
    end)

    it("tells of a file that became shorter", function()
        local path = folder.write("short.gguf", folder.read(TINY))
        local file = weights.open(path)
        folder.write("short.gguf", folder.read(TINY):sub(1, 5000))
        assert.has_error(function() file:copy() end,
            path .. " cannot be read: it has become shorter since it was opened")
        file:close()
    end)

    it("is chosen on the command line, and refuses other ways", function()
        local out = run { "--load", "copy", "-e",
            'local m = require "moonloom"; m.current(); print(m.memory().mapped.bytes, m.memory().copied.bytes > 1e6)' }
        assert.equal("0\ttrue\n", out)
        local mapped = run "logits --prompt Once --top 3 --json"
        assert.equal(mapped, (run "logits --prompt Once --top 3 --json --load copy"))
        local _, err, code = run "--load slowly -e 1"
        assert.equal(2, code)
        assert.truthy(err:find("--load must be one of map, copy, not 'slowly'", 1, true))
        _, err, code = run "logits --prompt Once --load slowly"
        assert.equal(2, code)
        assert.truthy(err:find("load must be one of map, copy", 1, true))
        assert.has_error(function() moonloom.load(TINY, { load = "slowly" }) end, "load is map or copy, not 'slowly'")
    end)

    it("takes what a file calls itself for a name on one line, and quotes it as such", function()
        local function load(meta)
            return moonloom.load(rewritten(TINY, "named.gguf", meta, {}))
        end
        for name, meta in pairs {
            ["a?name?[2J"] = { "string", "a\nname\27[2J" }, ["named.gguf"] = { "string[]", { "a", "b" } },
        } do
            local model = load { ["general.name"] = meta }
            assert.equal(name, model.name)
            assert.is_nil(tostring(model):find("%c"))
            model:close()
        end
        load({ ["general.name"] = { "u32[][]", { { 1 } } } }):close()
        for key, words in pairs { ["general.architecture"] = "architecture 'a?name?[2J'",
            ["tokenizer.ggml.model"] = "tokenizer model 'a?name?[2J'" } do
            local sentence = sentence_of(load, { [key] = { "string", "a\nname\27[2J" } })
            assert.truthy(sentence:find(words, 1, true), sentence)
        end
    end)

    it("refuses a model whose tokenizer has other tokens than there are rows", function()
        local file = weights.open(TINY)
        local tokens, types = file:meta "tokenizer.ggml.tokens", file:meta "tokenizer.ggml.token_type"
        file:close()
        tokens[1025], types[1025] = "more", 1
        local function refused(count)
            local meta = { ["tokenizer.ggml.tokens"] = { "string[]", tokens },
                ["tokenizer.ggml.token_type"] = { "i32[]", types } }
            local sentence = sentence_of(moonloom.load, rewritten(TINY, "words.gguf", meta, {}))
            assert.truthy(sentence:find(("has %d tokens, but token_embd.weight has 1024 rows"):format(count), 1, true),
                sentence)
        end
        refused(1025)
        for i = 1025, 1020, -1 do tokens[i], types[i] = nil, nil end
        refused(1019)
    end)

    it("refuses a model whose RoPE would turn by what is no number", function()
        local function floats(value)
            local list = ffi.new("float[16]")
            for i = 0, 15 do list[i] = value end
            return ffi.string(list, 64)
        end
        local function refused(meta, tensors, words)
            local sentence = sentence_of(moonloom.load, rewritten(TINY, "rope.gguf", meta, tensors))
            assert.truthy(sentence:find(words, 1, true), sentence)
        end
        local halves = { ["rope_freqs.weight"] = { "f32", { 16 }, floats(2) } }
        moonloom.load(rewritten(TINY, "rope.gguf", {}, halves)):close()
        for words, value in pairs { ["is inf"] = 0, nan = 0 / 0 } do
            refused({}, { ["rope_freqs.weight"] = { "f32", { 16 }, floats(value) } }, words)
        end
        refused({ ["gpt-oss.rope.scaling.factor"] = { "f64", 5e-324 } }, {}, "no finite number")
    end)
end)

describe("mapping ahead", function()
    teardown(folder.remove)

    local BYTES = 64 * 2 ^ 20

    -- A file of that size, all in memory just after it was written.
    local function large(path)
        writer.save(path, { force = true }, function(file)
            file:meta("general.architecture", "string", "none")
            file:tensor("numbers", "f32", { BYTES / 4 })
            file:constant("numbers", 1)
        end)
        return path
    end

    -- Bytes of a file that are in memory; nil where the system does not tell (cachestat(2): Linux 6.5). With `drop`
    -- it is asked to forget them first.
    local function cached(path, drop)
        local descriptor = ffi.C.open(path, 0)
        if drop then
            ffi.C.fsync(descriptor)
            ffi.C.posix_fadvise(descriptor, 0, 0, 4)
        end
        local range, pages = ffi.new("uint64_t[2]", 0, BYTES), ffi.new("uint64_t[5]")
        local told = ffi.C.syscall(451, ffi.cast("int", descriptor), range, pages, ffi.cast("unsigned", 0)) == 0
        ffi.C.close(descriptor)
        return told and tonumber(pages[0]) * 4096 or nil
    end

    local function resident()
        return tonumber(C.ml_memory_resident())
    end

    it("maps what is in memory", function()
        local path = large(folder.path("large.gguf"))
        if not cached(path) then return pending("this system does not tell what is in memory") end
        local file = weights.open(path)
        local before = resident()
        C.ml_weights_prefault(file.handle)
        for _ = 1, 500 do
            if resident() - before >= BYTES / 8 then break end
            uv.sleep(10)
        end
        assert.is_true(resident() - before >= BYTES / 8) -- where pages are small it ends there
        file:close()
    end)

    it("reads nothing from the disk", function()
        local path = large(os.tmpname())
        finally(function() os.remove(path) end)
        local left = cached(path, true)
        if not left or left > 0 then return pending("this system keeps the file in memory") end
        local file = weights.open(path) -- reads its head
        C.ml_weights_prefault(file.handle)
        uv.sleep(100)
        file:close()
        assert.is_true(cached(path) < BYTES / 2)
    end)

    it("ends with the weights, when they are copied, and in a child process", function()
        local path = large(folder.path("large.gguf"))
        for _ = 1, 20 do
            local file = weights.open(path)
            C.ml_weights_prefault(file.handle)
            C.ml_weights_prefault(file.handle)
            file:close()
        end
        local file = weights.open(path)
        C.ml_weights_prefault(file.handle)
        local child = ffi.C.fork()
        if child == 0 then
            ffi.C.alarm(20) -- instead of waiting for ever
            C.ml_weights_free(file.handle)
            ffi.C._exit(0)
        end
        local status = ffi.new("int[1]", -1)
        ffi.C.waitpid(child, status, 0)
        assert.equal(0, status[0])
        file:copy()
        local tensor = moonloom.tensor.from_weights(file.handle, "numbers")
        assert.equal(1, ffi.cast("const float *", C.ml_tensor_data(tensor.handle))[BYTES / 4 - 1])
        file:close()
    end)
end)
