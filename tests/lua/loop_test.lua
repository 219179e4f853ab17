-- Steps of many tokens: what a loop may do beside adding one token after the other, and that it changes nothing.
local folder = require "helpers.folder"
local generation = require "moonloom.generation"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local recipe = require "moonloom.recipe.live"
local rewritten = require "helpers.rewritten"
local sentence_of = require "helpers.sentence"
local speculative = require "helpers.speculative"
local generate = recipe.get "generate"
local samplers = require "recipes.samplers"
local loop = require "recipes.loop"

local DEEP = os.getenv "MOONLOOM_STRESS" ~= nil
local STORY = "Once upon a time"

local model

setup(function()
    isa_helper.rows_alone()
    model = moonloom.current()
end)
teardown(isa_helper.as_before)

-- A generation of `prompt` that has not begun.
local function begin(prompt, parameters, own)
    parameters.max_tokens = parameters.max_tokens or 24
    parameters = require("moonloom.recipe.arguments").check("generate", generate.parameters, parameters)
    for name, value in pairs(own or {}) do parameters[name] = value end
    return generation.new { model = model, session = model:session(), prompt_ids = model:tokenize(prompt),
        prompt = prompt, parameters = parameters, recipe = own and speculative or generate }
end

local function never() end

local function draw(g, wants)
    local candidates = g:advance(wants or "logits")
    return samplers.choose(g.chain, candidates, g:context()), candidates
end

describe("a step", function()
    it("feeds everything that is missing, in one pass or many", function()
        for _, count in ipairs { 2, 3, 64, 65, 200 } do
            local g = begin(STORY, {})
            g:prepare()
            local ids = {}
            for i = 1, count do
                ids[i] = (i * 37) % 1000
                g:push(ids[i])
            end
            local id = draw(g)
            assert.same(g.all, g.session:tokens())
            local alone = model:session():feed(g.prompt_ids):feed(ids)
            assert.equal(#g.prompt_ids + count, g.session.position)
            g:commit(never)
            assert.equal(count, #g.tokens)
            alone:close()
            assert.is_number(id)
        end
    end)

    it("keeps the numbers of the row that a token was chosen from", function()
        local g = begin(STORY, {})
        g:prepare()
        local first = g:verify({}, "logits")[1]
        local logprob = first.logits:logprob(399)
        g:push(399, first)
        local rows = g:verify({ 289, 258 }, "logits")
        assert.equal(3, #rows)
        local second, third = rows[2].logits:logprob(258), rows[3].logits:logprob(385)
        g:push(289, rows[1])
        local token = g:push(385, rows[3]) -- another row than the last one asked for
        assert.is_true(math.abs(g.pending[1].logprob - logprob) < 1e-12)
        assert.is_true(math.abs(token.logprob - third) < 1e-12)
        assert.is_true(math.abs(second - third) > 1e-6)
        assert.is_true(math.abs(g:push(258, rows[2]).logprob - second) < 1e-12)
        -- Rows that a later pass has taken away are refused.
        g:verify({ 1, 2, 3 }, "logits")
        assert.truthy(sentence_of(g.push, g, 5, rows[1]):find("these logits are gone", 1, true))
        local sentence = sentence_of(samplers.choose, g.chain, rows[2], g:context())
        assert.truthy(sentence:find("these logits are gone", 1, true), sentence)
    end)

    it("ends at a stop string anywhere in what it added, and takes back what came behind", function()
        local plain = generate { prompt = STORY, temperature = 0, max_tokens = 24 }
        for _, stop in ipairs { "little", "was a", "e was a little g", "there", "girl named L", "d Lily." } do
            local expected = generate { prompt = STORY, temperature = 0, max_tokens = 24, stop = { "zzz", stop } }
            assert.equal("stop string", expected.stop)
            for _, size in ipairs { 2, 5, 12 } do
                local g = begin(STORY, { temperature = 0, stop = { "zzz", stop } },
                    { drafter = speculative.drafters.nearly(plain.ids, size, 1000) })
                local shown = {}
                g.write = function(text) shown[#shown + 1] = text end
                g:go()
                assert.same({ expected.stop, expected.text, expected.ids }, { g.stop, g.text, g.ids })
                assert.same(expected.session:tokens(), g.session:tokens())
                assert.equal(g.text, table.concat(shown))
                assert.equal(#expected.tokens, #g.tokens)
                assert.equal(tostring(expected:why(#expected.tokens)), tostring(g:why(#g.tokens)))
                assert.has_error(function() g:why(#g.tokens + 1) end)
            end
        end
    end)

    it("ends at the first of several reasons", function()
        local prompt = "<|start|>system<|message|>You tell short stories.\nReasoning: low<|end|>"
            .. "<|start|>user<|message|>Tell me a story about Tom and a boat.<|end|><|start|>assistant"
        local plain = generate { prompt = prompt, temperature = 0, max_tokens = 900 }
        assert.equal("end", plain.stop)
        local behind = { unpack(plain.ids) }
        for _, id in ipairs(model:tokenize(" and then more")) do behind[#behind + 1] = id end
        local drafter = speculative.drafters.nearly(behind, 30, 1000)
        local g = begin(prompt, { temperature = 0, max_tokens = 900, stop = { " more" } }, { drafter = drafter }):go()
        assert.same({ "end", plain.ids, plain.text }, { g.stop, g.ids, g.text })
        g = begin(prompt, { temperature = 0, max_tokens = 40 }, { drafter = drafter }):go()
        assert.same({ "length", 40 }, { g.stop, #g.ids })
        for i = 1, 40 do assert.equal(plain.ids[i], g.ids[i]) end
        assert.same(g.all, g.session:tokens())
    end)

    it("asks finished() about each token, with the tokens behind it out of sight", function()
        local plain = generate { prompt = STORY, temperature = 0, max_tokens = 12 }
        local g, seen = begin(STORY, { temperature = 0, max_tokens = 12 }), {}
        g:prepare()
        for _ = 1, 12 do g:push((draw(g))) end
        assert.equal(0, #g.tokens)
        assert.equal(12, #g.pending)
        local reason = g:commit(function()
            seen[#seen + 1] = #g.tokens .. ":" .. g.tokens[#g.tokens].id .. ":" .. #g.text
            return #seen == 9 and "mine" or nil
        end)
        assert.equal("mine", reason)
        for i = 1, 9 do assert.truthy(seen[i]:find(("^%d:%d:"):format(i, plain.ids[i]))) end
        assert.same({ unpack(plain.ids, 1, 9) }, g.ids)
        assert.equal(#g.prompt_ids + 9, #g.all)
        assert.same(g.all, g.session:tokens())
    end)

    it("counts the time from step to step: what the first step added has taken none of it", function()
        local g = begin(STORY, { temperature = 0 })
        g:prepare()
        for _ = 1, 5 do g:push((draw(g))) end
        g:commit(never)
        assert.is_nil(g:speed())
        for _ = 1, 3 do g:push((draw(g))) end
        g:commit(never)
        assert.equal(3, g.times.steps)
        assert.is_true(g.times.decode_ms > 0)
        assert.is_number(g:speed())
    end)

    it("asks again for the token at which finished() failed, and gives a parser each token once", function()
        for fail = 1, 6 do
            local g, asked, watched = begin(STORY, { temperature = 0 }), {}, {}
            g:prepare()
            g.watch = function(token) watched[#watched + 1] = token.id end
            for _ = 1, 6 do g:push((draw(g))) end
            local ids = { unpack(g.all, #g.prompt_ids + 1) }
            local function finished()
                asked[#asked + 1] = g.tokens[#g.tokens].id
                if #asked == fail then error("broken", 0) end
            end
            assert.equal("broken", sentence_of(g.commit, g, finished))
            assert.equal(fail, #g.tokens)
            assert.is_nil(g:commit(finished))
            assert.same(ids, g.ids)
            assert.same(ids, watched)
            table.insert(ids, fail, ids[fail])
            assert.same(ids, asked)
        end
    end)

    it("cannot resume the generation that it is of", function()
        local g
        g = generate { prompt = STORY, max_tokens = 2, chain = { function(_, context)
            assert.truthy(sentence_of(context.generation.resume, context.generation):find("is being made", 1, true))
        end } }
        assert.equal("length", g.stop)
    end)
end)

describe("session:verify", function()
    it("gives every row the logits of a pass of its own, and keep() forgets what was wrong", function()
        local ids = model:tokenize(("Tom saw a big dog in the park. "):rep(20))
        local one, many = model:session { prefixes = false }, model:session { prefixes = false }
        one:feed { unpack(ids, 1, 40) }
        many:feed { unpack(ids, 1, 40) }
        for _, count in ipairs { 1, 2, 5, 17, 33 } do
            local at = one.position
            local rows = many:verify({ unpack(ids, at + 1, at + count) }, "logits", 1)
            assert.equal(count, #rows)
            for i = 1, count do
                one:step(ids[at + i])
                local expected, found = one:logits(), rows[i]
                for id = 0, #expected - 1, 7 do assert.equal(expected[id], found[id]) end
            end
            many:keep(at + count)
            local best = many:verify({ 7, 8, 9 }, "best", 2)
            assert.equal(2, #best)
            many:keep(at + count)
            assert.same(one:tokens(), many:tokens())
        end
        assert.equal(0, select(2, many:bytes())) -- nothing of it is kept for others
        for _, list in ipairs { {}, { "x" }, { -1 }, { 99999 } } do
            assert.is_false(pcall(many.verify, many, list, "logits"))
        end
        assert.is_false(pcall(many.verify, many, { 1 }, true))
        assert.is_false(pcall(many.keep, many, many.position + 1))
        assert.same(one:tokens(), many:tokens())
        one:close()
        many:close()
    end)

    it("leaves no drafts behind as prefixes", function()
        local function no_end(candidates)
            for id = 1000, 1023 do candidates:ban(id) end
        end
        local g = begin(STORY, { seed = 3, max_tokens = 230, chain = { no_end } },
            { drafter = speculative.drafters.wrong(64) })
        g.session:close()
        g.session = model:session { prefixes = false } -- in a cache of its own, which keeps prefixes all the same:
        ml.check(ml.C.ml_cache_keep(g.session:shared_cache().handle, 2 ^ 30))
        g:go()
        assert.equal(230, #g.ids)
        assert.equal(0, select(2, g.session:bytes()))
    end)
end)

describe("speculative steps give the tokens of plain ones", function()
    local prompts = {
        STORY, "One day, Tom and Sue went to the park. Tom saw a",
        ("The cat sat on the mat. "):rep(6), "Lily had a red ball. Lily had a blue ball. Lily had a",
    }
    local kinds = {
        { temperature = 0.9 }, { temperature = 0.9, repetition_penalty = 1.3 },
        { temperature = 0.9, top_k = 40, stop = { "park", "he sa" } }, { temperature = 0.5, top_p = 0.9 },
    }
    local drafters = {
        speculative.drafters.lookup(8), speculative.drafters.lookup(16), speculative.drafters.wrong(20),
    }

    local function parameters_of(kind, seed)
        local parameters = { seed = seed, max_tokens = 60 }
        for name, value in pairs(kind) do parameters[name] = value end
        return parameters
    end

    local function logprobs(g)
        local list = {}
        for i, token in ipairs(g.tokens) do list[i] = token.logprob end
        return list
    end

    -- Compares one plain generation with those of all drafters. Returns how many.
    local function compare(prompt, kind, seed, chain)
        local plain = begin(prompt, parameters_of(kind, seed))
        if chain then plain.chain = chain end
        plain:go()
        local expected = { plain.ids, plain.text, plain.stop, logprobs(plain), plain.session:tokens() }
        for _, drafter in ipairs(drafters) do
            local g = begin(prompt, parameters_of(kind, seed), { drafter = drafter })
            if chain then g.chain = chain end
            g:go()
            assert.same(expected, { g.ids, g.text, g.stop, logprobs(g), g.session:tokens() })
            assert.same(g.all, g.session:tokens())
            g.session:close()
        end
        plain.session:close()
        return #drafters
    end

    it("for many seeds, prompts and chains: ids, text, reason, log-probabilities and session", function()
        local cases = 0
        for seed = 1, DEEP and 50 or 2 do
            for _, prompt in ipairs(prompts) do
                for _, kind in ipairs(kinds) do cases = cases + compare(prompt, kind, seed) end
            end
        end
        for _, prompt in ipairs(prompts) do cases = cases + compare(prompt, { temperature = 0 }, 1) end
        assert.equal((DEEP and 50 or 2) * 4 * 4 * 3 + 4 * 3, cases)
    end)

    it("running every position's chain once, in order, so that samplers with a state work", function()
        local seen = {}
        local function counting(candidates, context)
            seen[#seen + 1] = context.position
            candidates:add(#seen % 50 + 100, 3) -- what it does depends on how often it was called
        end
        local plain = begin(prompts[3], { seed = 2, max_tokens = 60, chain = { counting } }):go()
        local expected = seen
        seen = {}
        local g = begin(prompts[3], { seed = 2, max_tokens = 60, chain = { counting } }, { drafter = drafters[1] }):go()
        assert.same(expected, seen)
        assert.same(plain.ids, g.ids)
    end)

    it("in why(), in a fork, and where it goes on", function()
        local kind = { temperature = 0.9, top_k = 40, seed = 4, max_tokens = 60 }
        local plain = begin(prompts[2], parameters_of(kind, 6)):go()
        assert.equal(60, #plain.ids)
        local g = begin(prompts[2], parameters_of(kind, 6), { drafter = drafters[1] }):go()
        for i = 1, 60 do assert.equal(tostring(plain:why(i)), tostring(g:why(i))) end
        assert.same(plain:fork(20, { seed = 9 }).ids, g:fork(20, { seed = 9 }).ids)
        assert.same(plain:resume({ max_tokens = 20 }).ids, g:resume({ max_tokens = 20 }).ids)
    end)

    it("with far fewer passes where the draft is right", function()
        local plain, steps = generate { prompt = STORY, temperature = 0, max_tokens = 60 }, 0
        local inner = speculative.drafters.nearly(plain.ids, 9, 7)
        local g = begin(STORY, { temperature = 0, max_tokens = 60 }, { drafter = function(...)
            steps = steps + 1
            return inner(...)
        end }):go()
        assert.same(plain.ids, g.ids)
        assert.is_true(steps <= 60 / 7 + 3, steps .. " steps")
    end)

    it("under a policy that rounds, in caches of their own: a pass ends where numbers would change", function()
        local function later(state)
            return { bits = state.position < 40 and 16 or 4, hot_tokens = state.position < 90 and 64 or 0 }
        end
        for _, kv in ipairs { { bits = 4, hot_tokens = 0 }, { bits = 4, hot_tokens = 64 }, { bits = 4,
            hot_tokens = 100 }, { at = later } } do
            local results = {}
            for i, drafter in ipairs { false, drafters[1], drafters[3] } do
                local g = begin(prompts[3], { seed = 7, max_tokens = DEEP and 300 or 150 },
                    drafter and { drafter = drafter } or nil)
                g.session:close()
                g.session = model:session { kv = kv }
                g:go()
                results[i] = { g.ids, logprobs(g) }
                g.session:close()
            end
            assert.same(results[1], results[2])
            assert.same(results[1], results[3])
        end
    end)

    it("under a policy that rounds, too, where an error stopped them", function()
        local kv = { bits = 4, hot_tokens = 0 }
        local reporter = recipe.reporter
        recipe.reporter = function() end
        for _, drafter in ipairs { false, drafters[1] } do
            local expected
            for at = 0, 66, DEEP and 1 or 6 do
                local broken = at > 0
                local g = begin(prompts[2], { seed = 5, max_tokens = 80, chain = { function(candidates, context)
                    for id = 1000, 1023 do candidates:ban(id) end
                    if broken and context.position == context.generation.first + at then error("broken", 0) end
                end } }, drafter and { drafter = drafter } or nil)
                g.first = #g.prompt_ids
                g.session:close()
                g.session = model:session { kv = kv }
                g:go()
                if broken then
                    assert.same({ "error", at }, { g.stop, #g.ids })
                    broken = false
                    g:resume()
                end
                expected = expected or { g.ids, logprobs(g) }
                assert.same(expected, { g.ids, logprobs(g) })
                g.session:close()
            end
        end
        recipe.reporter = reporter
    end)

    it("up to the end of the context", function()
        local path = rewritten(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf", "short.gguf",
            { ["gpt-oss.context_length"] = { "u32", 90 } }, {})
        local short = moonloom.load(path)
        local expected
        for _, drafter in ipairs { false, drafters[1], drafters[3] } do
            local g = begin(prompts[2], { seed = 1, max_tokens = 1000, chain = { function(candidates)
                for id = 1000, 1023 do candidates:ban(id) end
            end } }, drafter and { drafter = drafter } or nil)
            g.session:close()
            g.model, g.session = short, short:session()
            g:go()
            assert.same({ "length", 90, 90 }, { g.stop, #g.all, g.session.position })
            expected = expected or g.ids
            assert.same(expected, g.ids)
            assert.truthy(sentence_of(g.resume, g):find("context ends at 90", 1, true))
            g.session:close()
        end
        short:close()
        folder.remove()
    end)

    it("after an error at any position in the middle of a step, once it is mended", function()
        local expected = begin(prompts[2], { seed = 1, max_tokens = 55 }):go()
        local told = {}
        local reporter = recipe.reporter
        recipe.reporter = function(problem) told[#told + 1] = problem end
        for at = 1, 54, DEEP and 1 or 6 do
            local broken = true
            local g = begin(prompts[2], { seed = 1, max_tokens = 55, chain = { function(_, context)
                if broken and context.position == #expected.prompt_ids + at then error("broken", 0) end
            end } }, { drafter = drafters[1] })
            local fine = pcall(g.go, g)
            assert.is_true(fine)
            assert.equal("error", g.stop)
            assert.equal("broken", g.problem)
            assert.same({ unpack(expected.ids, 1, at) }, g.ids)
            assert.same(g.all, g.session:tokens())
            broken = false
            assert.same(expected.ids, g:resume().ids)
            assert.is_nil(g.problem)
        end
        recipe.reporter = reporter
        local sentence = ("stopped after %d tokens: broken"):format(DEEP and 2 or 7)
        assert.truthy(told[2]:find(sentence, 1, true), told[2])
    end)
end)

describe("recipes/loop.lua", function()
    it("fits on a slide", function()
        local lines = 0
        for _ in io.lines(MOONLOOM_HOME .. "/recipes/loop.lua") do lines = lines + 1 end
        assert.is_true(lines <= 45)
        assert.is_function(loop.next)
    end)
end)
