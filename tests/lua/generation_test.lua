-- generate and what it returns: seeds, stops, why, fork, resume, edits while it runs.
local files = require "helpers.folder"
local moonloom = require "moonloom"
local ml = require "moonloom._core.ffi"
local generate = require "recipes.generate"
local recipe = require "moonloom.recipe.live"
local sentence_of = require "helpers.sentence"

describe("generate", function()
    local STORY = "Once upon a time, there was a little girl named Lily."

    it("tells a story, which is a value", function()
        local g = generate { prompt = "Once upon a time", max_tokens = 12, temperature = 0 }
        assert.equal(STORY, tostring(g):sub(1, #STORY))
        assert.equal("length", g.stop)
        assert.equal(12, #g.ids)
        assert.equal("Once upon a time", g.prompt)
        assert.same({ 401, 402, 258, 380 }, g.prompt_ids)
        assert.equal(g, moonloom.last)
        local token = g.tokens[1]
        assert.same({ 11, "," }, { token.id, token.text })
        assert.is_true(token.logprob <= 0 and token.p > 0.5)
        assert.equal(20, #token.top)
        assert.equal(11, token.top[1].id)
        assert.equal(generate("Once upon a time").prompt, "Once upon a time")
    end)

    it("gives the same text for the same seed, also in pieces", function()
        local whole = generate { prompt = "One day", max_tokens = 40, seed = 5 }
        local pieces = generate { prompt = "One day", max_tokens = 10, seed = 5 }
        assert.are_not.equal(whole.text, pieces.text)
        pieces:resume { max_tokens = 30 }
        assert.same(whole.ids, pieces.ids)
        assert.equal(whole.text, pieces.text)
        assert.are_not.equal(whole.text, generate { prompt = "One day", max_tokens = 40, seed = 6 }.text)
        assert.are_not.equal(generate { prompt = "One day", max_tokens = 40 }.seed, whole.seed)
    end)

    it("stops at an interrupt and goes on as if nothing had been", function()
        local whole = generate { prompt = "One day", max_tokens = 30, seed = 5 }
        for _, at in ipairs { 1, 7 } do
            local count = 0
            local g = generate { prompt = "One day", max_tokens = 30, seed = 5, chain = {
                function()
                    count = count + 1
                    if count == at then ml.C.ml_interrupt_set(1) end
                end,
            } }
            assert.equal("interrupted", g.stop)
            assert.equal(at, #g.ids)
            assert.equal(0, ml.C.ml_interrupt_pending())
            assert.equal(g, moonloom.resume())
            assert.equal("length", g.stop)
            assert.same(whole.ids, g.ids)
        end
        -- In the prompt itself.
        ml.C.ml_interrupt_set(1)
        local g = generate { ids = whole.prompt_ids, max_tokens = 30, seed = 5 }
        assert.same({ "interrupted", 0 }, { g.stop, #g.ids })
        assert.same(whole.ids, g:resume().ids)
    end)

    it("stops at the end token, and at stop strings without showing them", function()
        local g = generate { temperature = 0, max_tokens = 900, prompt = "<|start|>system<|message|>"
            .. "You tell short stories.\nReasoning: low<|end|><|start|>user<|message|>"
            .. "Tell me a story about Tom and a boat.<|end|><|start|>assistant" }
        assert.equal("end", g.stop)
        assert.equal(1017, g.ids[#g.ids]) -- <|return|>
        assert.is_nil(g.text:find("<|return|>", 1, true))
        assert.has_error(function() g:resume() end)
        local plain = generate { prompt = "Once upon a time", max_tokens = 30, temperature = 0 }
        for _, stop in ipairs { "little", "a little girl", "l named L", "." } do
            local shown = {}
            g = generate { prompt = "Once upon a time", max_tokens = 30, temperature = 0, stop = { stop, "zzz" } }
            assert.equal("stop string", g.stop)
            assert.equal(plain.text:sub(1, plain.text:find(stop, 1, true) - 1), g.text)
            g._written = nil
            g:stream(function(text) shown[#shown + 1] = text end, true)
            assert.equal(g.text, table.concat(shown))
        end
    end)

    it("streams whole characters, in order, holding back what may be a stop string", function()
        for _, stop in ipairs { {}, { "Lily. She" }, { "Lily. Xhe" } } do
            local g = generate { prompt = "Once upon a time", max_tokens = 1, temperature = 0, stop = stop }
            local shown = ""
            g.write = function(text, token)
                assert.is_true(token.p > 0)
                shown = shown .. text
                assert.is_nil(shown:find("Lily. She", 1, true) and stop[1] == "Lily. She" or nil)
            end
            g:resume { max_tokens = 25 }
            assert.equal(g.text, shown)
        end
    end)

    it("explains a token and forks another way from it", function()
        local g = generate { prompt = "Once upon a time", max_tokens = 12, temperature = 0.9, top_k = 5, seed = 1 }
        local why = g:why(7)
        assert.is_true(#why >= 20 and why[1].p >= why[2].p)
        local sum = 0
        for _, entry in ipairs(why) do sum = sum + entry.after end
        assert.is_true(math.abs(sum - 1) < 1e-5)
        assert.truthy(tostring(why):find("token 7", 1, true))
        assert.has_error(function() g:why(13) end)

        local before = g.session.position
        local other = g:fork(7, { text = " dragon", max_tokens = 8 })
        assert.equal(before, g.session.position)
        for i = 1, 6 do assert.equal(g.ids[i], other.ids[i]) end
        assert.truthy(tostring(other):find("dragon", 1, true))
        assert.equal(14, #other.ids)
        local id = why[2].id
        assert.equal(id, g:fork(7, { id = id }).ids[7])
        assert.same(g:fork(7, { seed = 9 }).ids, g:fork(7, { seed = 9 }).ids)
        assert.same(g.ids, g:fork(7, { seed = 1 }).ids) -- the same draws again
        assert.equal(0, g:fork(7, { temperature = 0 }).parameters.temperature)
        assert.has_error(function() g:fork(40) end)
        assert.has_error(function() g:fork(2, { temprature = 1 }) end,
            "fork has no parameter 'temprature'; did you mean 'temperature'?")
        assert.has_error(function() g:resume { max_tokens = "x" } end,
            "resume: max_tokens must be a whole number, not 'x'")
        -- The session may have gone elsewhere meanwhile.
        g.session:rewind(2):step(5)
        assert.same(g.ids, g:fork(7, { seed = 1 }).ids)
        assert.equal(12 + 4, #g:resume { max_tokens = 4 }.ids)
    end)

    it("goes on in a session, and from ids", function()
        local model = moonloom.current()
        local session = model:session()
        session:feed("Once upon")
        local g = generate { session = session, prompt = " a time", max_tokens = 8, temperature = 0 }
        assert.equal(" there was a little girl named Lily", g.text:sub(2))
        assert.same({ 401, 402, 258, 380 }, g.prompt_ids)
        assert.same(g.ids, generate { ids = { 401, 402, 258, 380 }, max_tokens = 8, temperature = 0 }.ids)
        assert.has_error(function() generate {} end, "generate needs one of prompt, prompt_file and ids")
        assert.has_error(function() generate { prompt = "" } end, "the prompt is empty: there is nothing to go on from")
        assert.has_error(function() generate { ids = { 1, "x" } } end, "'x' is no token id")
        assert.has_error(function() generate { prompt = "a", prompt_file = "b" } end)
        for _, other in ipairs { 5, "x", g, {} } do
            assert.equal("generate: session must be a session, such as g.session or model:session()",
                sentence_of(generate, { session = other }))
        end
        for _, other in ipairs { { "model", model }, { "kv", "balanced" } } do
            assert.equal(("generate: %s has no effect beside session, which has one"):format(other[1]),
                sentence_of(generate, { session = session, [other[1]] = other[2] }))
        end
    end)

    it("refuses changes that have no effect on what has begun", function()
        local g = generate { prompt = "Once", max_tokens = 3, seed = 1 }
        for _, name in ipairs { "prompt", "ids", "session", "cache", "kv", "model", "threads" } do
            local words = (": %s has no effect on what has begun"):format(name)
            assert.equal("fork" .. words, sentence_of(g.fork, g, 2, { [name] = 1 }))
            assert.equal("resume" .. words, sentence_of(g.resume, g, { [name] = 1 }))
        end
        assert.equal("resume has no parameter 'text'", sentence_of(g.resume, g, { text = " a" }):match("^[^;]+"))
        assert.truthy(sentence_of(g.fork, g, 2, { text = 5 }):find("fork: text must be a string", 1, true))
        assert.truthy(sentence_of(g.fork, g, 2, { text = " a", id = 5 }):find("id or text, not both", 1, true))
        assert.equal(3, #g.ids)
    end)

    it("has every token that is on the screen in its session, which others go on from", function()
        local plain = generate { prompt = "Once upon a time", max_tokens = 24, temperature = 0 }
        for _, ask in ipairs { { max_tokens = 8 }, { stop = { "little" }, max_tokens = 24 }, { max_tokens = 8, seed = 3,
            temperature = 1 } } do
            ask.prompt, ask.temperature = "Once upon a time", ask.temperature or 0
            local g = generate(ask)
            assert.same(g.all, g.session:tokens())
            assert.equal(#g.prompt_ids + #g.ids, g.session.position)
            assert.same(g.all, g.session:fork():tokens())
            local path = os.tmpname()
            g.session:save(path)
            local saved = moonloom.restore(path)
            assert.same(g.all, saved:tokens())
            os.remove(path)
            -- Without a prompt it goes on where the session ends; with one, right behind it.
            local on = generate { session = saved, max_tokens = 16, temperature = 0 }
            assert.same(g.all, on.prompt_ids)
            if ask.max_tokens == 8 and ask.temperature == 0 then
                for i = 1, 16 do assert.equal(plain.ids[8 + i], on.ids[i]) end
            end
            local text = g.session:text()
            on = generate { session = g.session:fork(), prompt = " Then", max_tokens = 3 }
            assert.equal(text .. " Then" .. on.text, on.session:text())
        end
        assert.has_error(function() generate { session = moonloom.current():session() } end,
            "generate needs one of prompt, prompt_file and ids")
        ml.C.ml_interrupt_set(1)
        assert.equal("interrupted", generate({ session = plain.session:fork(), max_tokens = 3 }).stop)
    end)

    describe("stopped by an error", function()
        local told, reporter

        before_each(function()
            told, reporter = {}, recipe.reporter
            recipe.reporter = function(problem) told[#told + 1] = problem end
        end)

        after_each(function() recipe.reporter = reporter end)

        it("keeps the text, says where, and goes on with that generation once it is mended", function()
            local path = files.write("shout.lua", "return {\n  shout = function(candidates, context)\n"
                .. "    if #context.tokens == 12 then nothing.here() end\n  end\n}")
            local module = recipe.find(path)
            local before = generate { prompt = "Once", max_tokens = 2 }
            local whole = generate { prompt = "One day", max_tokens = 20, seed = 4 }
            local g = generate { prompt = "One day", max_tokens = 20, seed = 4, chain = { module.shout } }
            assert.equal("error", g.stop)
            assert.equal(10, #g.ids)
            assert.equal(path .. ":3: attempt to index global 'nothing' (a nil value)", g.problem)
            assert.equal(g.problem, g:json().problem)
            assert.same({ "stopped after 10 tokens: " .. g.problem .. "\n    3 | if #context.tokens == 12 then "
                .. "nothing.here() end" }, told)
            assert.same(g.all, g.session:tokens())
            assert.equal(g, moonloom.last)
            assert.has_error(function() moonloom.resume() end) -- it is still broken, and says so
            assert.same({ "error", 10 }, { g.stop, #g.ids })
            files.write("shout.lua", "return { shout = function() end }")
            assert.same({}, recipe.refresh())
            assert.equal(g, moonloom.resume())
            assert.same({ "length", whole.ids, whole.text }, { g.stop, g.ids, g.text })
            assert.is_nil(g.problem)
            assert.equal(2, #before.ids)
            files.remove()
        end)

        it("in lua/ is told with the line of the recipe that led there", function()
            local path = files.write("add.lua", "return {\n  add = function(candidates, context)\n"
                .. "    if #context.tokens == 2 then candidates:add(7, context.nothing) end\n  end\n}")
            local g = generate { prompt = "Once", max_tokens = 9, chain = { recipe.find(path).add } }
            local words = "attempt to perform arithmetic on local 'bias' (a nil value) (in lua/moonloom/candidates.lua:"
            assert.equal(path .. ":3: " .. words, g.problem:match("^(.*:)%d+%)$"))
            assert.truthy(told[1]:find("^stopped after 1 token: .*\n    3 | if #context.tokens == 2 "), told[1])
            files.remove()
        end)

        it("before the first token raises, and resume() goes on with nothing else", function()
            local broken = true
            generate { prompt = "Once", max_tokens = 2 }
            assert.has_error(function()
                generate { prompt = "One day", max_tokens = 5, seed = 4, chain = { function()
                    if broken then error("not yet", 0) end
                end } }
            end, "not yet")
            assert.same({}, told)
            broken = false
            local g = moonloom.resume()
            assert.same(generate({ prompt = "One day", max_tokens = 5, seed = 4 }).ids, g.ids)
        end)

        it("in the question whether to stop asks that token again", function()
            local loop = require "recipes.loop"
            local finished, count = loop.finished, 0
            local whole = generate { prompt = "One day", max_tokens = 20, seed = 4 }
            loop.finished = function(g)
                count = count + 1
                if count >= 7 and count <= 8 then error("broken", 0) end
                return finished(g)
            end
            local g = generate { prompt = "One day", max_tokens = 20, seed = 4 }
            assert.same({ "error", 7 }, { g.stop, #g.ids })
            assert.same(g.all, g.session:tokens())
            g:resume()
            loop.finished = finished
            assert.same(whole.ids, g.ids)
        end)
    end)

    it("uses a function out of a live module as it was saved last", function()
        local path = files.write("mine.lua", "return { ban = function(c) c:ban(11) end }")
        local ban, clock = recipe.find(path).ban, 0
        local function save(text)
            files.write("mine.lua", text .. (" "):rep(clock)) -- another size: another version
            clock = clock + 1
            assert.same({}, recipe.refresh())
        end
        local function edit(_, context)
            if #context.tokens ~= 7 or clock > 0 then return end
            save "return { ban = function(c) for i = 0, 1023 do c:ban(i) end end }"
        end
        local reporter = recipe.reporter
        recipe.reporter = function() end
        local g = generate { prompt = "Once upon a time", max_tokens = 9,
            chain = { edit, ban, "greedy" } }
        recipe.reporter = reporter
        assert.same({ "error", 3, "the samplers left no candidate" }, { g.stop, #g.ids, g.problem })
        save "return { other = 5 }"
        local sentence = sentence_of(g.resume, g)
        assert.truthy(sentence:find("has no function 'ban' any more", 1, true), sentence)
        save "return { ban = function() end }"
        assert.equal(12, #g:resume({ max_tokens = 9, chain = { ban } }).ids) -- a function of a version long gone
        files.remove()
    end)

    it("uses an edited sampler for the next token, and the old one while the new is broken", function()
        local uv = require "luv"
        local folder = assert(uv.fs_mkdtemp("/tmp/moonloom-test-XXXXXX"))
        local source = assert(io.open(MOONLOOM_HOME .. "/recipes/samplers.lua")):read("*a")
        local clock = 2e9
        local function save(text)
            local file = assert(io.open(folder .. "/samplers.lua", "w"))
            file:write(text)
            file:close()
            clock = clock + 10
            assert(uv.fs_utime(folder .. "/samplers.lua", clock, clock))
        end
        -- A fresh engine, so that the samplers of this run are not touched.
        save(source)
        local script = folder .. "/run.lua"
        local file = assert(io.open(script, "w"))
        file:write(([=[
            local uv = require "luv"
            local moonloom = require "moonloom"
            local recipe = require "moonloom.recipe.live"
            local told = {}
            recipe.reporter = function(problem) told[#told + 1] = problem end
            local function save(text, clock)
                local f = assert(io.open("%s/samplers.lua", "w"))
                f:write(text)
                f:close()
                uv.fs_utime("%s/samplers.lua", clock, clock)
                uv.sleep(60)
            end
            local source = io.open("%s/samplers.lua"):read("*a")
            local changed = source:gsub("function M.choose", "M.choose = function() return 13 end\nlocal function _")
            local count = 0
            local g = require "recipes.generate" { prompt = "Once upon a time", max_tokens = 9, chain = { function()
                count = count + 1
                if count == 3 then save("return {{", 3e9) uv.sleep(60) recipe.poll() uv.sleep(60) recipe.poll() end
                if count == 5 then save(changed, 4e9) end
            end, "greedy" } }
            io.write(#told, " ", told[1]:match("samplers.lua:1:") or "?", " ", table.concat(g.ids, ","))
        ]=]):format(folder, folder, folder))
        file:close()
        local command = ("MOONLOOM_RECIPES=%s %s/moonloom %s"):format(folder,
            os.getenv("MOONLOOM_BUILD") or MOONLOOM_HOME .. "/build", script)
        local pipe = assert(io.popen(command))
        assert.equal("1 samplers.lua:1: 11,399,289,258,385,13,13,13,13", pipe:read("*a"))
        pipe:close()
        os.execute("rm -r " .. folder)
        assert.same({}, recipe.refresh())
    end)
end)
