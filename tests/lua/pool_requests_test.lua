-- Loops side by side: twenty of the unchanged generate recipe in one pool give what each gives alone.
local folder = require "helpers.folder"
local interrupt = require "moonloom._core.interrupt"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local random = require "moonloom._core.random"
local recipe = require "moonloom.recipe.live"
local sentence_of = require "helpers.sentence"
local speculative = require "helpers.speculative"
local generate = recipe.get "generate"

local DEEP = os.getenv "MOONLOOM_STRESS" ~= nil
local COUNT = 20

-- Twenty requests of different lengths, chains, seeds and ends.
local function requests(changes)
    local list = {}
    local prompts = { "Once upon a time", "One day, Tom and Sue went to the park.", "The cat", "Lily had a red ball." }
    for i = 1, COUNT do
        local ask = { prompt = prompts[i % 4 + 1], seed = i, max_tokens = 6 + i * 3 % 40 }
        if i % 5 == 1 then ask.temperature = 0.7 end
        if i % 5 == 2 then ask.repetition_penalty = 1.3 end
        if i % 5 == 3 then ask.top_k = 20 end
        if i % 5 == 4 then ask.temperature = 0 end
        if i % 6 == 0 then ask.stop = { " the", "." } end
        for name, value in pairs(changes or {}) do ask[name] = value end
        list[i] = ask
    end
    return list
end

local function copy(ask)
    local result = {}
    for name, value in pairs(ask) do result[name] = value end
    return result
end

local function of(g)
    return { ids = g.ids, text = g.text, stop = g.stop }
end

local function alone(list)
    local results = {}
    for i, ask in ipairs(list) do results[i] = of(generate(copy(ask))) end
    return results
end

local function pool_of(list)
    local pool = moonloom.pool()
    for i, ask in ipairs(list) do assert.equal(i, pool:add(generate, copy(ask))) end
    return pool
end

describe("a pool", function()
    local list, expected

    setup(function()
        isa_helper.rows_alone()
        list = requests()
        expected = alone(list)
    end)

    teardown(isa_helper.as_before)

    it("gives each of twenty requests what it gets alone, in passes of up to twenty rows", function()
        local pool = pool_of(list)
        local values = pool:run()
        local rows = 0
        for i = 1, COUNT do
            assert.same(expected[i], of(values[i]))
            assert.same(values[i].all, values[i].session:tokens())
            rows = rows + #values[i].ids
        end
        assert.equal(COUNT, pool.most)
        local longest = 0
        for _, result in ipairs(expected) do longest = math.max(longest, #result.ids) end
        assert.is_true(pool.passes <= longest + 2 and rows > 15 * longest / 2, pool.passes .. " passes")
        assert.is_true(pool.rows <= rows + COUNT)
        assert.equal(COUNT, #values:json())
        assert.truthy(tostring(values):find("[20] " .. tostring(values[20]), 1, true))
        assert.truthy(pool:summary():find(("20 requests in %d passes"):format(pool.passes), 1, true))
    end)

    it("also where half of them guess several tokens a step, within a number of rows", function()
        for _, rows in ipairs { 64, 7 } do
            local pool = moonloom.pool { rows = rows }
            for i, ask in ipairs(list) do
                pool:add(function()
                    local g
                    if i % 2 == 0 then return generate(copy(ask)) end
                    local parameters = require("moonloom.recipe.arguments").check("generate", generate.parameters, ask)
                    parameters.drafter = speculative.drafters[i % 4 == 1 and "lookup" or "wrong"](5)
                    local model = moonloom.current()
                    g = require("moonloom.generation").new { model = model, session = model:session(),
                        prompt_ids = model:tokenize(ask.prompt), prompt = ask.prompt, parameters = parameters,
                        recipe = speculative }
                    return g:go()
                end)
            end
            local values = pool:run()
            for i = 1, COUNT do assert.same(expected[i], of(values[i])) end
            assert.is_true(pool.most <= rows and pool.most > rows / 2, pool.most)
        end
    end)

    it("under a policy that rounds, in caches of their own", function()
        local lossy = requests { kv = { bits = 4, hot_tokens = 0 }, max_tokens = 70 }
        for i = 6, COUNT do lossy[i] = nil end
        local before = alone(lossy)
        local pool = pool_of(lossy)
        for i, g in ipairs(pool:run()) do assert.same(before[i], of(g)) end
        assert.equal(1, pool.most)
        assert.is_nil(moonloom.kv())
    end)

    it("lets an error stop its own request", function()
        local pool = pool_of(list)
        local broken = true
        local at = pool:add(generate, { prompt = "Once upon a time", seed = 3, max_tokens = 20, chain = {
            function(_, context)
                if broken and #context.tokens == 13 then error("broken", 0) end
            end,
        } })
        local function fail() error("early", 0) end
        local early = pool:add(generate, { prompt = "Once", max_tokens = 3, chain = { fail } })
        local other = pool:add(function() error("no generation", 0) end)
        local token = pool:add(function() return moonloom.current():session():feed("Once upon"):step(99999) end)
        local values = pool:run()
        for i = 1, COUNT do assert.same(expected[i], of(values[i])) end
        local g = values[at]
        assert.same({ "error", "broken", 9 }, { g.stop, g.problem, #g.ids })
        broken = false
        assert.same(generate({ prompt = "Once upon a time", seed = 3, max_tokens = 20 }).ids, g:resume().ids)
        assert.equal("early", tostring(values[early]))
        pool:resume() -- what has no generation begins anew, and is as broken as before
        assert.equal("early", tostring(values[early]))
        assert.equal("length", values[at].stop)
        assert.same({ stop = "error", problem = "no generation" }, values[other]:json())
        assert.truthy(values[other].trace)
        assert.truthy(values[token].problem:find("99999", 1, true), values[token].problem)
    end)

    it("keeps a generation that cannot go on, and shows what stopped it", function()
        local pool, broken = moonloom.pool(), true
        local function fail(_, context)
            if broken and #context.tokens == 7 then error("broken", 0) end
        end
        pool:add(generate, { prompt = "Once upon a time", seed = 3, max_tokens = 20, chain = { fail } })
        local g = pool:run()[1]
        assert.truthy(tostring(pool.values):find("\n    error: broken", 1, true))
        local problem = sentence_of(pool.resume, pool, { max_tokns = 5 })
        assert.truthy(problem:find("did you mean 'max_tokens'?", 1, true), problem)
        for _ = 1, 2 do -- before its first new token it raises, each time
            assert.equal(g, pool:resume()[1])
            assert.same({ "error", "broken", 3 }, { g.stop, g.problem, #g.ids })
        end
        broken = false
        assert.equal(g, pool:resume()[1])
        assert.same({ "length", 20 }, { g.stop, #g.ids })
        assert.is_nil(tostring(pool.values):find("error", 1, true))
    end)

    it("tells how much it did", function()
        local pool = moonloom.pool()
        assert.equal("0 requests, not begun", pool:summary())
        pool:add(function() end)
        pool:run()
        assert.truthy(pool:summary():find("^1 request in 0 passes of 0.0 rows, "), pool:summary())
    end)

    it("stops all for Ctrl-C at any moment, and each goes on alone to what it gives alone", function()
        local moments, inside, all = DEEP and 50 or 12, 0, 0
        for moment = 1, moments do
            local steps, at = 0, math.floor(random.uniform(moment, 1, 0) * 300) + 1
            local shared = copy(list)
            local pool = moonloom.pool()
            for _, ask in ipairs(shared) do
                ask = copy(ask)
                ask.chain = require("recipes.samplers").usual(require("moonloom.recipe.arguments").check("generate",
                    generate.parameters, ask))
                ask.temperature, ask.repetition_penalty, ask.top_k = nil, nil, nil
                table.insert(ask.chain, 1, function()
                    steps = steps + 1
                    if steps ~= at then return end
                    inside = inside + moment % 2
                    ml.C.ml_interrupt_set(1) -- the next pass sees it; or it is raised here, as by the hook
                    if moment % 2 == 1 then error(interrupt.error, 0) end
                end)
                pool:add(generate, ask)
            end
            local values = pool:run()
            assert.equal(0, ml.C.ml_interrupt_pending())
            local stopped = 0
            for i = 1, COUNT do
                local g = values[i]
                assert.same(g.all, g.session:tokens(), "request " .. i)
                if g.stop == "interrupted" then stopped = stopped + 1 else assert.same(expected[i], of(g)) end
            end
            assert.equal("interrupted", pool.stop)
            assert.is_true(stopped > 0)
            all = all + (stopped == COUNT and 1 or 0)
            assert.equal(pool, moonloom.last)
            if moment % 3 == 0 then
                moonloom.resume()
            else
                for i = 1, COUNT do
                    if values[i].stop == "interrupted" then values[i]:resume() end
                end
            end
            for i = 1, COUNT do assert.same(expected[i], of(values[i])) end
        end
        assert.is_true(all > 0 and inside > 0)
    end)

    it("stops all that have a part in a pass in which Ctrl-C comes, with their texts", function()
        local model = moonloom.current()
        for at = 1, 12, 4 do
            local pool, passes = pool_of(list), 0
            model.grown_batch = function(self, old, rows)
                passes = passes + 1
                if passes == at then ml.C.ml_interrupt_set(1) end
                return getmetatable(self).grown_batch(self, old, rows)
            end
            local fine, values = pcall(pool.run, pool)
            model.grown_batch = nil
            assert(fine, values)
            for i = 1, COUNT do
                local g = values[i]
                assert.same({ unpack(expected[i].ids, 1, #g.ids) }, g.ids)
                assert.is_true(g.stop == "interrupted" or #g.ids == #expected[i].ids)
                assert.is_true(#g.ids <= at)
                if #g.ids > 0 then assert.same(g.all, g.session:tokens()) end -- else it was in its prompt
            end
            for _, value in ipairs(pool:resume()) do assert.truthy(value.stop ~= "interrupted") end
            for i = 1, COUNT do assert.same(expected[i], of(values[i])) end
        end
    end)

    it("cancels one, from another one", function()
        local pool = moonloom.pool()
        local long = pool:add(generate, { prompt = "One day", seed = 1, max_tokens = 400 })
        local steps = 0
        pool:add(generate, { prompt = "One day", seed = 2, max_tokens = 9, chain = { function()
            steps = steps + 1
            if steps == 5 then pool:cancel(long) end
        end } })
        pool:add(generate, { prompt = "One day", seed = 3, max_tokens = 9 })
        local values = pool:run()
        assert.equal("interrupted", values[long].stop)
        assert.is_true(#values[long].ids > 2 and #values[long].ids < 9)
        assert.same({ 9, 9 }, { #values[2].ids, #values[3].ids })
        assert.is_nil(pool.stop)
        assert.truthy(sentence_of(pool.cancel, pool, 9):find("there is no request 9", 1, true))
        local own = moonloom.pool()
        own:add(generate, { prompt = "One day", seed = 2, max_tokens = 9, chain = { function() own:cancel(1) end } })
        assert.same({ "interrupted", 1 }, { own:run()[1].stop, #own.values[1].ids })
    end)

    it("keeps what a call sets for itself with that call", function()
        local pool, seen = moonloom.pool(), {}
        local before = generate { prompt = "Once", max_tokens = 2 }
        local function watch(name)
            return { function()
                seen[#seen + 1] = ("%s %s"):format(name, tostring(moonloom.kv()))
                moonloom.current():session():close()
            end }
        end
        moonloom.interactive = true
        pool:add(generate, { prompt = "Once", max_tokens = 4, kv = "8", chain = watch "a" })
        pool:add(generate, { prompt = "Once", max_tokens = 4, chain = watch "b" })
        local fine, values = pcall(pool.run, pool)
        assert.is_true(moonloom.interactive)
        moonloom.interactive = false
        assert(fine, values)
        assert.is_false(values[1].streamed)
        assert.same({ "a 8", "b nil" }, { seen[1], seen[2] })
        assert.equal(8, #seen)
        for _, line in ipairs(seen) do assert.truthy(line == "a 8" or line == "b nil", line) end
        assert.is_nil(moonloom.kv())
        assert.equal(before, moonloom.last)
        local sentence = sentence_of(pool.add, pool, generate, { prompt = "Once", threads = 1 })
        assert.equal("threads is of the whole pool, not of a request: set it before", sentence)
        assert.is_false(pcall(pool.add, pool, 5))
    end)

    it("asks a recipe who goes next, and goes on where that is broken", function()
        local schedule, reporter, told = require "recipes.schedule", recipe.reporter, {}
        local next_of, most = schedule.next, 0
        schedule.next = function(waiting, capacity)
            assert(capacity == 64)
            most = math.max(most, waiting[1].waited)
            return { waiting[1], waiting[2] }
        end
        local pool = pool_of { list[1], list[2], list[3], list[5] }
        local values = pool:run()
        for i, at in ipairs { 1, 2, 3, 5 } do assert.same(expected[at], of(values[i])) end
        assert.equal(2, pool.most)
        assert.is_true(most >= 1)
        recipe.reporter = function(problem) told[#told + 1] = problem end
        local broken = { function() error("who?", 0) end, function() return {} end, function() return 5 end }
        for _, f in ipairs(broken) do
            schedule.next = f
            pool = pool_of { list[1], list[2] }
            values = pool:run()
            for i = 1, 2 do assert.same(expected[i], of(values[i])) end
        end
        schedule.next, recipe.reporter = next_of, reporter
        assert.equal(3, #told)
        assert.truthy(told[1]:find("recipes/schedule.lua cannot be used: who?", 1, true), told[1])
    end)

    it("lets a sampler look ahead with passes of its own", function()
        local function ahead(_, context)
            local g = context.generation
            local fork = g.session:fork(math.min(g.session.position, #context.tokens))
            fork:sync(context.tokens)
            fork:step(5):step(6)
            fork:close()
        end
        local asks = {}
        for i = 1, 6 do asks[i] = { prompt = "One day", seed = i, max_tokens = 12, chain = { ahead } } end
        local before = alone(asks)
        local pool = pool_of(asks)
        for i, g in ipairs(pool:run()) do assert.same(before[i], of(g)) end
        assert.is_true(pool.most == 6)
    end)

    it("takes greedy requests, which want the best token alone, with the others", function()
        local asks = {}
        for i = 1, 10 do asks[i] = { prompt = "One day", seed = i, max_tokens = 20, temperature = i % 2 } end
        local before = alone(asks)
        local values = pool_of(asks):run()
        for i = 1, 10 do
            assert.same(before[i], of(values[i]))
            assert.equal(i % 2 == 0, rawget(values[i].tokens[9], "logprob") == nil)
        end
    end)

    it("makes passes of different models, and of plain functions, and may be added to and run again", function()
        local path = folder.path "other.gguf"
        recipe.get "synth" { output = path, shape = "tiny", vocab_size = 1024, seed = 7, type = "q8_0" }
        local other = moonloom.load(path)
        local pool = moonloom.pool()
        local function greedy(model)
            return function(count)
                local session, ids = model:session { prefixes = false }, {}
                session:feed { 5, 6, 7 }
                for i = 1, count do
                    ids[i] = session:logits():argmax()
                    session:step(ids[i])
                end
                session:close()
                return ids
            end
        end
        for i = 1, 3 do
            for _, model in ipairs { moonloom.current(), other } do pool:add(greedy(model), 5 + i) end
        end
        pool:add(function() coroutine.yield() return nil end)
        local values = pool:run()
        for i = 1, 3 do
            assert.same(greedy(moonloom.current())(5 + i), values[2 * i - 1])
            assert.same(greedy(other)(5 + i), values[2 * i])
        end
        assert.is_true(values[7])
        pool:add(function() return "more" end)
        assert.equal("more", pool:run()[8])
        assert.same(greedy(other)(6), values[2])
        other:close()
        folder.remove()
    end)

    it("gives an error of a pass to the one whose it is", function()
        local pool, model = moonloom.pool(), moonloom.current()
        for i = 1, 4 do
            pool:add(function()
                local session = model:session():feed("Once upon a time")
                for k = 1, 5 do session:step(i == 3 and k == 4 and 5000 or 11) end
                return session.position
            end)
        end
        local values = pool:run()
        assert.same({ 9, 9, 9 }, { values[1], values[2], values[4] })
        assert.truthy(values[3].problem:find("5000", 1, true), values[3].problem)
    end)

    it("stops only those for whom there is no memory left", function()
        local asks, before = {}, {}
        for i = 1, 6 do
            asks[i] = { prompt = "One day, " .. i, seed = i, max_tokens = 60 + 70 * (i % 3), stop = { "<none>" } }
            before[i] = generate(copy(asks[i])).ids
        end
        moonloom.kv_memory(2 ^ 20)
        local fine, problem = pcall(function()
            local small = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
            for _, ask in ipairs(asks) do ask.model = small end
            local stopped = 0
            for i, g in ipairs(pool_of(asks):run()) do
                assert.same({ unpack(before[i], 1, #g.ids) }, g.ids)
                if g.stop == "error" then
                    stopped = stopped + 1
                    assert.truthy(g.problem:find("budget", 1, true), g.problem)
                    assert.is_true(#g.ids > 10)
                else
                    assert.equal(#before[i], #g.ids)
                end
                g.session:close()
            end
            assert.is_true(stopped > 0 and stopped < 6, stopped .. " stopped")
            small:close()
        end)
        moonloom.kv_memory(0)
        assert(fine, problem)
    end)

    it("cannot be run from within, and a pool of its own can", function()
        local pool = moonloom.pool()
        pool:add(function() return sentence_of(pool.run, pool) end)
        pool:add(function()
            local inner = pool_of { list[1], list[2] }
            local values = inner:run()
            return { of(values[1]), of(values[2]) }
        end)
        local values = pool:run()
        assert.truthy(values[1]:find("this pool is running", 1, true))
        assert.same({ expected[1], expected[2] }, values[2])
    end)
end)
