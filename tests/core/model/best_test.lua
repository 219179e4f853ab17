-- The best token without all logits: the same as among all of them, whatever the head holds.
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local random = require "moonloom._core.random"
local rewritten = require "helpers.rewritten"
local sentence_of = require "helpers.sentence"
local synth = require("moonloom.recipe.live").get "synth"
local C = ml.C

local TINY = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"

-- A copy of the tiny model whose head edit(rows, stride, bytes of the whole file) has changed; rows are uint8_t.
local function with_head(name, edit)
    local bytes = folder.read(TINY)
    local file = ffi.new("uint8_t[?]", #bytes)
    ffi.copy(file, bytes, #bytes)
    local weights = require("moonloom.weights").open(TINY)
    for _, tensor in ipairs(weights:tensors()) do
        if tensor.name == "output.weight" then
            assert.equal("q8_0", tensor.type)
            edit(file + tensor.offset, tensor.bytes / tensor.shape[1])
        end
    end
    weights:close()
    return moonloom.load(folder.write(name, ffi.string(file, #bytes)))
end

describe("the best token", function()
    local model
    local isa, threads = moonloom.isa(), moonloom.threads()

    setup(function() model = moonloom.load(TINY) end)
    teardown(function()
        model:close()
        moonloom.isa(isa)
        moonloom.threads(threads)
        folder.remove()
    end)

    -- Passes of `rows` sequences, once for all logits and once for the best: compares them to the bit. Returns how many
    -- bytes of weights fewer the latter read.
    local function compare(of, rows, passes)
        local session = of:session { prefixes = false }
        local batch, forks, fewer = of:batch(rows), {}, 0
        session:feed { 1, 2, 3 }
        for s = 1, rows do forks[s] = session:fork() end
        for i = 1, passes do
            local expected, all = {}, nil
            for _, want in ipairs { true, "best" } do
                batch:clear()
                for s = 1, rows do
                    local id = math.floor(random.uniform(i, s, 0) * of:config().vocabulary)
                    batch:add(forks[s], id, want)
                end
                batch:forward()
                for s = 1, rows do
                    if want == true then
                        expected[s] = { batch:logits(s):argmax() }
                    else
                        assert.same(expected[s], { batch:best(s) })
                    end
                    forks[s]:rewind(3)
                end
                local read = batch:work().weight_bytes
                if all then fewer = fewer + all - read else all = read end
            end
        end
        for _, fork in ipairs(forks) do fork:close() end
        session:close()
        return fewer
    end

    it("is the one with the largest logit, to the bit, under every instruction set and with any batch", function()
        for _, set in ipairs(isa_helper.all) do
            if pcall(moonloom.isa, set) then
                for _, rows in ipairs { 1, 2, 3, 9, 20, 65 } do
                    moonloom.threads(rows % 3 + 1)
                    local fewer = compare(model, rows, rows == 1 and 40 or 4)
                    if rows == 1 then assert.is_true(fewer > 0, set .. " read everything") end
                end
            end
        end
        moonloom.isa(isa)
        moonloom.threads(threads)
    end)

    it("is found in a large vocabulary of any dtype, with rows that fill no tile", function()
        for _, dtype in ipairs { "q8_0", "bf16", "f32", "q5_0" } do
            local path = folder.path(dtype .. ".gguf")
            synth { output = path, shape = "tiny", vocab_size = 5003, seed = 7, type = dtype }
            local wide = moonloom.load(path)
            for _, rows in ipairs { 1, 2, 7, 20 } do
                local fewer = compare(wide, rows, 5)
                -- OpenBLAS reads everything, and so does what stands for it where there are no products in integers.
                local dense = dtype == "q5_0" or dtype == "q8_0" and moonloom.isa() == "scalar" and rows > 4
                assert.is_true(fewer > 0 or dense, dtype)
            end
            wide:close()
        end
    end)

    it("is found where rows fill no group of eight elements either", function()
        local path = folder.path "odd.gguf"
        synth { output = path, shape = "tinyllama-1.1b", type = "f32", layers = 2, width = 37, heads = 2, kv_heads = 1,
            head_dim = 8, ffn_width = 33, vocab_size = 701 }
        local odd = moonloom.load(path)
        for _, rows in ipairs { 1, 2, 5 } do assert.is_true(compare(odd, rows, 10) > 0) end
        odd:close()
    end)

    it("is found without the sketch, too", function()
        moonloom.tuning("sketch", false)
        local fine, problem = pcall(function() assert.equal(0, compare(model, 3, 4)) end)
        moonloom.tuning("sketch", true)
        assert(fine, problem)
    end)

    it("is the lowest id of equals", function()
        local session = model:session { prefixes = false }
        local best = session:feed({ 1, 2, 3 }):logits():argmax()
        session:close()
        assert.is_true(best > 1)
        local twins = with_head("twins.gguf", function(rows, stride)
            ffi.copy(rows + stride, rows + best * stride, stride)
        end)
        local twin = twins:session { prefixes = false }
        twin:feed { 1, 2 }
        assert.equal(1, (twin:best(3)))
        assert.equal(1, (twin:rewind(2):feed({ 3 }):logits():argmax()))
        compare(twins, 3, 5)
        twin:close()
        twins:close()
    end)

    it("comes from all logits where the head or the activations are not finite, or all logits are equal", function()
        local infinite = with_head("infinite.gguf", function(rows, stride)
            rows[5 * stride], rows[5 * stride + 1] = 0, 0x7c -- an infinite scale
        end)
        assert.equal(0, compare(infinite, 2, 3))
        infinite:close()
        local session, batch = model:session { prefixes = false }, model:batch(1)
        for _, value in ipairs { 0, 1 / 0, 0 / 0 } do
            local expected
            for _, want in ipairs { true, "best" } do
                batch:clear():add(session, 5, want)
                batch:embed()
                local residual = batch:residual()
                for i = 1, model:config().width do residual[1][i] = value end
                batch:head()
                if want == true then expected = { batch:logits(1):argmax() } end
                if want == "best" and value == 0 then assert.same(expected, { batch:best(1) }) end
                if want == "best" then assert.equal(expected[1], (batch:best(1))) end
            end
        end
        session:close()
    end)

    it("can be wanted beside logits, and is refused where nobody asked for it", function()
        local session = model:session { prefixes = false }
        local batch = model:batch(3)
        batch:add(session, 1)
        batch:add(session, 2, "best")
        batch:add(session, 3, true)
        batch:forward()
        local id, logit = batch:best(2)
        local other = model:session { prefixes = false }
        local expected, value = other:feed({ 1, 2 }):logits():argmax()
        if not moonloom.isa():find "amx" then assert.same({ expected, value }, { id, logit }) end
        for row in pairs { [1] = true, [3] = true } do
            local fine, problem = pcall(batch.best, batch, row)
            assert.is_false(fine)
            assert.truthy(tostring(problem):find("has no best token", 1, true), problem)
        end
        assert.is_false(pcall(batch.logits, batch, 2))
        assert.is_false(pcall(batch.add, batch, session, 1, "worst"))
        assert.equal(C.ML_E_ARGUMENT, C.ml_batch_add(batch._handle, 1, 3, session.sequence, 3))
        session:close()
        other:close()
    end)

    it("is found anew when the head is run again", function()
        local session, batch = model:session { prefixes = false }, model:batch(1)
        local alone = {}
        for round = 1, 2 do
            for i = 1, 2 do
                batch:clear():add(session, 5, "best")
                batch:embed()
                local residual = batch:residual()
                for pass = round == 1 and i or 1, i do -- in round 2 the second head comes after the first
                    for j = 1, model:config().width do residual[1][j] = math.sin(j * pass) end
                    batch:head()
                end
                if round == 1 then alone[i] = { batch:best(1) } else assert.same(alone[i], { batch:best(1) }) end
            end
        end
        assert.not_same(alone[1], alone[2])
        session:close()
    end)

    it("leaves the session as a step does, without its logits", function()
        local a, b = model:session { prefixes = false }, model:session { prefixes = false }
        local id, logit = a:feed({ 1, 2 }):best(3)
        b:feed({ 1, 2 }):step(3)
        assert.same(b:tokens(), a:tokens())
        assert.same({ b:logits():argmax() }, { id, logit })
        assert.equal(b:logits()[77], a:logits()[77]) -- the last token is fed again
        assert.equal(3, a.position)
        a:close()
        b:close()
    end)
end)

describe("a greedy generation", function()
    local door = require "moonloom.recipe.door"
    local generate = require("moonloom.recipe.live").get "generate"
    local ask = { prompt = "Once upon a time", temperature = 0, max_tokens = 24 }

    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)

    local function run(changes)
        local parameters = { model = TINY }
        for name, value in pairs(ask) do parameters[name] = value end
        for name, value in pairs(changes) do parameters[name] = value end
        if changes.chain then parameters.temperature = nil end
        return generate(parameters)
    end

    -- The same with all logits: as for a terminal with colours.
    local function with_probabilities(changes)
        return door.run(generate, { prompt = ask.prompt, max_tokens = 24, temperature = changes.temperature or 0,
            model = changes.model or TINY }, { json = true, command = false })
    end

    it("makes the same tokens, and tells what else could have stood there when it is asked", function()
        local plain, fast = with_probabilities {}, run {}
        assert.same(plain.ids, fast.ids)
        assert.is_number(rawget(plain.tokens[9], "logprob"))
        assert.is_nil(rawget(fast.tokens[9], "logprob"))
        assert.equal(plain.tokens[8].p, fast.tokens[8].p)
        assert.same(plain.tokens[7].top, fast.tokens[7].top)
        assert.equal(tostring(plain:why(9)), tostring(fast:why(9)))
        assert.equal(plain.tokens[9].logprob, fast.tokens[9].logprob)
        assert.equal(tostring(plain.tokens[10]), tostring(fast.tokens[10]))
        assert.equal(plain.text, fast.text)
        assert.same(plain:fork(5, { text = " and" }).ids, fast:fork(5, { text = " and" }).ids)
        fast.session:rewind(3):step(5) -- a session that went elsewhere is no obstacle
        assert.equal(plain.tokens[20].logprob, fast.tokens[20].logprob)
    end)

    it("asks for the best rows only where a chain takes nothing else", function()
        local samplers = require "recipes.samplers"
        local function wants(list) return samplers.wants(samplers.chain(list)) end
        assert.equal("best", wants { "greedy" })
        assert.equal("best", wants { "greedy", "greedy" })
        assert.equal("logits", wants {})
        assert.equal("logits", wants { { "repetition_penalty", 1.2 }, "greedy" })
        assert.equal("logits", wants { function() end, "greedy" })
        local g = run { chain = { "greedy", "greedy" } }
        assert.is_nil(rawget(g.tokens[9], "logprob"))
        assert.is_nil(g:json().logprobs)
        assert.equal(24, #with_probabilities({}):json().logprobs)
        assert.is_number(rawget(run({ temperature = 1 }).tokens[9], "logprob"))
    end)

    it("refuses a model that says nothing but NaN, from the router or from attention, as sampling does", function()
        local bias = ffi.new("float[64]")
        for i = 0, 63 do bias[i] = 0 / 0 end
        for name, count in pairs { ["blk.0.ffn_gate_inp.bias"] = 8, ["blk.0.attn_k.bias"] = 64 } do
            local path = rewritten(TINY, "nan.gguf", {}, { [name] = { "f32", { count }, ffi.string(bias, count * 4) } })
            for _, temperature in ipairs { 0, 1 } do
                for _, f in ipairs { run, with_probabilities } do
                    local sentence = sentence_of(f, { model = path, temperature = temperature })
                    assert.truthy(sentence:find("the logits are not finite", 1, true), sentence)
                end
            end
            -- In a row for the best token alone, too.
            local broken = moonloom.load(path)
            local g = require("moonloom.generation").new { model = broken, session = broken:session(),
                prompt_ids = { 5, 6 }, parameters = { max_tokens = 1 }, recipe = { chain = function() return {} end } }
            g.session:feed { 5 }
            assert.truthy(sentence_of(g.advance, g, "best"):find("the logits are not finite", 1, true))
            broken:close()
        end
        folder.remove()
    end)
end)
