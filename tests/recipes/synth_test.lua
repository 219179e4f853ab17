-- Random models: the synth recipe, its vocabularies and the writer under it.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local folder = require "helpers.folder"
local weights = require "moonloom.weights"
local writer = require "moonloom.file.gguf_writer"
local synth = require("moonloom.recipe.live").get("synth")

local C, check = ml.C, ml.check

local function exists(path)
    local file = io.open(path, "rb")
    if file then file:close() end
    return file ~= nil
end

local function make(kind, ...)
    local out = ffi.new(kind .. " *[1]")
    local arguments = { ... }
    arguments[#arguments + 1] = out
    check(C[kind .. "_create"](unpack(arguments)))
    return ffi.gc(out[0], C[kind .. "_free"])
end

local function encode(tokenizer, text)
    local ids, count = ffi.new("int32_t[64]"), ffi.new("int64_t[1]")
    check(C.ml_tokenizer_encode(tokenizer, text, #text, C.ML_TOKENIZE_SPECIAL, ids, 64, count))
    local list = {}
    for i = 1, tonumber(count[0]) do list[i] = ids[i - 1] end
    return list
end

-- Puts the tokens 0 .. count - 1 into a pass of the model at `path` and runs `f(cache, batch)`.
local function with_rows(path, count, f)
    local w = weights.open(path)
    local model = make("ml_model", w.handle)
    w:close()
    local cache, batch = make("ml_cache", model, C.ML_F32), make("ml_batch", model, count)
    local sequence = ffi.new("int32_t[1]")
    check(C.ml_sequence_create(cache, sequence))
    for i = 0, count - 1 do check(C.ml_batch_add(batch, i, i, sequence[0], i == count - 1 and 1 or 0)) end
    return f(cache, batch)
end

-- Mean and root mean square of `count` floats.
local function moments(values, count)
    local sum, squares = 0, 0
    for i = 0, count - 1 do
        sum, squares = sum + values[i], squares + values[i] ^ 2
    end
    return sum / count, math.sqrt(squares / count)
end

describe("synth", function()
    teardown(folder.remove)

    it("writes the tiny shape as the trained file has it", function()
        local path = folder.path("tiny.gguf")
        local result = synth { output = path, shape = "tiny" }
        assert.equal(path, result.path)
        assert.equal(79, result.tensors)
        local made, trained = weights.open(path), weights.open(ml.home .. "/data/tiny-gpt-oss.gguf")
        assert.equal(result.bytes, made:bytes())
        assert.equal(trained:count(), made:count())
        for _, tensor in ipairs(trained:tensors()) do
            local own = made:info(tensor.name)
            assert.same({ tensor.type, tensor.shape }, { own.type, own.shape })
        end
        assert.equal(#trained:keys(), #made:keys())
        for _, key in ipairs(trained:keys()) do
            assert.same({ trained:kind(key) }, { made:kind(key) })
            if key ~= "general.name" and key ~= "tokenizer.ggml.tokens" and key ~= "tokenizer.ggml.merges" then
                assert.same(trained:meta(key), made:meta(key))
            end
        end
        made:close()
        trained:close()
    end)

    it("gives logits of a sane size", function()
        for _, shape in ipairs { { shape = "tiny" }, { shape = "tinyllama-1.1b", layers = 2, width = 256, heads = 4,
            kv_heads = 2, ffn_width = 512, vocab_size = 1000 } } do
            local path = folder.path(shape.shape .. "-logits.gguf")
            shape.output = path
            synth(shape)
            local mean, rms = with_rows(path, 8, function(cache, batch)
                local logits = ffi.new("const float *[1]")
                check(C.ml_forward(cache, batch))
                check(C.ml_batch_logits(batch, 7, logits))
                return moments(logits[0], shape.vocab_size or 1024)
            end)
            assert.is_true(math.abs(mean) < 1 and rms > 1 and rms < 10, ("%g %g"):format(mean, rms))
        end
    end)

    it("fills every type with mean 0 and the deviation asked for", function()
        for _, type in ipairs { "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k",
            "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4" } do
            local path = folder.path("type.gguf")
            synth { output = path, shape = "tinyllama-1.1b", type = type, layers = 1, width = 512, heads = 2,
                kv_heads = 1, head_dim = 32, ffn_width = 256, vocab_size = 400, force = true }
            local w = weights.open(path)
            assert.equal(type, w:info("token_embd.weight").type)
            w:close()
            local mean, rms = with_rows(path, 200, function(cache, batch)
                local view = ffi.new("ml_tensor *[1]")
                check(C.ml_forward_embed(cache, batch))
                check(C.ml_batch_tensor(batch, C.ML_VIEW_RESIDUAL, view))
                local tensor = ffi.gc(view[0], C.ml_tensor_free)
                return moments(ffi.cast("const float *", C.ml_tensor_data(tensor)), 200 * 512)
            end)
            assert.is_true(math.abs(mean) < 0.03, type .. " has mean " .. mean)
            assert.is_true(math.abs(rms - 1) < 0.05, type .. " has deviation " .. rms)
        end
    end)

    it("takes smaller blocks where rows do not fill those of 256", function()
        local path = folder.path("smaller.gguf")
        synth { output = path, shape = "tiny", type = "q4_k", expert_type = "q6_k" }
        local w = weights.open(path)
        assert.equal("q5_0", w:info("blk.0.attn_q.weight").type)
        assert.equal("q8_0", w:info("blk.0.ffn_down_exps.weight").type)
        assert.equal("f32", w:info("blk.0.ffn_gate_inp.weight").type)
        w:close()
    end)

    it("gives the same bytes for the same seed, and others for another", function()
        local bytes = {}
        for i, seed in ipairs { 1, 1, 2 } do
            synth { output = folder.path("seed.gguf"), shape = "tiny", seed = seed, force = true }
            bytes[i] = folder.read(folder.path("seed.gguf"))
        end
        assert.is_true(bytes[1] == bytes[2])
        assert.is_true(bytes[1] ~= bytes[3])
    end)

    it("keeps a file that is there, unless forced", function()
        local path = folder.write("kept.gguf", "precious")
        local ok, problem = pcall(synth, { output = path, shape = "tiny" })
        assert.is_false(ok)
        assert.truthy(problem:find("exists", 1, true))
        assert.equal("precious", folder.read(path))
    end)

    it("refuses what cannot be, with a sentence, and leaves nothing behind", function()
        local path = folder.path("never.gguf")
        for words, parameters in pairs {
            ["cannot share"] = { shape = "tiny", heads = 5, kv_heads = 2 },
            ["cannot be used"] = { shape = "tiny", experts = 2, experts_used = 3 },
            ["has no experts"] = { shape = "tinyllama-1.1b", experts = 2 },
            ["whole blocks"] = { shape = "tiny", width = 100 },
            ["265 tokens at least"] = { shape = "tiny", vocab_size = 100 },
            ["cannot be read"] = { shape = "tiny", vocab = folder.path("absent.tiktoken") },
            ["no tiktoken"] = { shape = "tiny", vocab = ml.home .. "/LICENSE" },
            ["must be one of"] = { shape = "huge" },
            ["no expert_type q9_0; there are bf16"] = { shape = "tiny", expert_type = "q9_0" },
        } do
            parameters.output = path
            local ok, problem = pcall(synth, parameters)
            assert.is_false(ok)
            assert.truthy(tostring(problem):find(words, 1, true), tostring(problem))
            assert.is_false(exists(path) or exists(path .. ".part"))
        end
    end)

    it("stops when it is interrupted, and leaves nothing behind", function()
        local path = folder.path("stopped.gguf")
        C.ml_interrupt_set(1)
        local ok, problem = pcall(synth, { output = path, shape = "tiny" })
        C.ml_interrupt_set(0)
        assert.is_false(ok)
        assert.equal(C.ML_E_INTERRUPTED, problem.status)
        assert.is_false(exists(path) or exists(path .. ".part"))
    end)

    it("refuses to fill what is no block of floats", function()
        local out = ffi.new("uint8_t[64]")
        assert.equal(C.ML_E_UNSUPPORTED, C.ml_synth_fill(C.ML_I32, 4, 1, 1, out))
        assert.equal(C.ML_E_UNSUPPORTED, C.ml_synth_fill(4, 4, 1, 1, out))
        assert.equal(C.ML_E_ARGUMENT, C.ml_synth_fill(C.ML_Q8_0, 33, 1, 1, out))
        assert.equal(C.ML_E_ARGUMENT, C.ml_synth_fill(C.ML_Q8_0, -32, 1, 1, out))
        for _, deviation in ipairs { 0, -1, 1e9, 0 / 0 } do
            assert.equal(C.ML_E_ARGUMENT, C.ml_synth_fill(C.ML_F32, 1, deviation, 1, out))
        end
    end)
end)

describe("the gguf writer", function()
    teardown(folder.remove)

    it("says so when the space is not there, and leaves nothing behind", function()
        local path = folder.path("vast.gguf")
        local ok, problem = pcall(writer.save, path, {}, function(file)
            file:tensor("x", "f32", { 2 ^ 44 })
            file:random("x", 1, 1)
        end)
        assert.is_false(ok)
        assert.truthy(tostring(problem):find("cannot be written", 1, true), tostring(problem))
        assert.is_false(exists(path) or exists(path .. ".part"))
        assert.has_error(function() writer.save(folder.path("no/such/folder.gguf"), {}, function() end) end)
    end)

    it("wants the data of every tensor, in order", function()
        local path = folder.path("order.gguf")
        for _, fill in ipairs {
            function() end,
            function(file) file:data("b", ("\0"):rep(4)) end,
            function(file) file:data("a", ("\0"):rep(8)) end,
            function(file) file:data("a", ("\0"):rep(3)) end,
        } do
            assert.has_error(function()
                writer.save(path, {}, function(file)
                    file:tensor("a", "f32", { 1 })
                    file:tensor("b", "f32", { 1 })
                    fill(file)
                end)
            end)
            assert.is_false(exists(path) or exists(path .. ".part"))
        end
    end)
end)

describe("a vocabulary of gpt-oss's size", function()
    teardown(folder.remove)

    -- A model of 459 tensors with the whole vocabulary, but small in every other way.
    local function write(path, vocab)
        synth { output = path, width = 32, heads = 2, kv_heads = 1, head_dim = 32, ffn_width = 32, experts = 4,
            vocab = vocab }
        local w = weights.open(path)
        assert.equal(459, w:count())
        local tokenizer = make("ml_tokenizer", w.handle)
        w:close()
        return tokenizer
    end

    it("is made up so that text becomes tokens, with harmony's at their ids", function()
        local tokenizer = write(folder.path("made-up.gguf"))
        assert.same({ 200006, 200008, 200007, 200002, 200012, 199999 },
            encode(tokenizer, "<|start|><|message|><|end|><|return|><|call|><|endoftext|>"))
        local ids = encode(tokenizer, "the tin hat, 23 \255\n")
        assert.is_true(#ids > 4 and #ids < 14)
        local text, bytes = ffi.new("char[64]"), ffi.new("int64_t[1]")
        check(C.ml_tokenizer_decode(tokenizer, ffi.new("int32_t[?]", #ids, ids), #ids, text, 64, bytes))
        assert.equal("the tin hat, 23 \255\n", ffi.string(text, bytes[0]))
    end)

    it("is gpt-oss's own when it comes from o200k_base.tiktoken", function()
        local path = ml.home .. "/../shared/models/o200k_base.tiktoken"
        if not exists(path) then return pending("../shared/models/o200k_base.tiktoken is absent") end
        local tokenizer = write(folder.path("o200k.gguf"), path)
        local w = weights.open(folder.path("o200k.gguf"))
        assert.same({ "array", "string", 446189 }, { w:kind("tokenizer.ggml.merges") }) -- as in gpt-oss's own files
        w:close()
        assert.same({ 13225, 2375 }, encode(tokenizer, "Hello world"))
        assert.same({ 200006, 1428, 200008 }, encode(tokenizer, "<|start|>user<|message|>"))
    end)
end)

describe("progress", function()
    it("shows the share, the rate and the time left", function()
        local progress = require "moonloom._core.progress"
        local bar = progress.start { label = "x", total = 200e6, unit = "B" }
        local line = bar:line(50e6, 2000)
        for _, words in ipairs { "x [", " 25%", "50 MB", "25 MB/s", "6 s left" } do
            assert.truthy(line:find(words, 1, true), line)
        end
        assert.truthy(bar:line(200e6, 8000):find("100%", 1, true))
        assert.truthy(bar:line(400e6, 8000):find("100%", 1, true))
        bar:update(1)
        bar:done()
    end)
end)
