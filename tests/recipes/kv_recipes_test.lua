-- Policies by name: recipes/policies/NAME.lua, files, bits, policies that change as a session goes on or when their
-- file does.
local folder = require "helpers.folder"
local moonloom = require "moonloom"
local policy = require "moonloom.cache.policy"
local recipe = require "moonloom.recipe.live"
local run = require "helpers.command"
local slice = require "helpers.slice"

local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "

describe("policies by name", function()
    local model, ids, layers

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        layers = model:config().layers
        ids = model:tokenize(TEXT:rep(60))
        assert.is_true(#ids > 1300)
    end)

    teardown(function()
        model:close()
        folder.remove()
    end)

    local function first(count)
        return slice(ids, 1, count)
    end

    local function quantised(session)
        return select(2, session:pages())
    end

    local function write(name, text)
        local path = folder.path(name)
        local file = assert(io.open(path, "w"))
        file:write(text)
        file:close()
        return path
    end

    it("are the files recipes/policies/*.lua, each with a line about it", function()
        local names = table.concat(policy.names(), " ")
        for _, name in ipairs { "balanced", "example", "fastest", "max_context", "tiny_memory" } do
            assert.truthy(names:find(name, 1, true), name)
            assert.equal("string", type(policy.describe(name).summary))
        end
    end)

    it("keep less and less memory, from fastest to tiny_memory", function()
        local before, counts = math.huge, {}
        for _, name in ipairs { "fastest", "balanced", "max_context", "tiny_memory" } do
            local session = model:session { kv = name, prefixes = false }
            session:feed(first(1300))
            local bytes = session:bytes()
            assert.is_true(bytes < before, name)
            assert.equal(name, session:policy().name)
            before, counts[name] = bytes, quantised(session)
            session:close()
        end
        assert.same({ fastest = 0, balanced = 3 * layers, max_context = 17 * layers, tiny_memory = 20 * layers },
            counts)
    end)

    it("can be given later, as true, as bits, and taken back", function()
        local session = model:session { kv = true, prefixes = false }
        assert.equal("balanced", session:policy().name)
        session:feed(first(640))
        assert.equal(0, quantised(session))
        assert.equal(16, session:policy("8,4"):policy().value_bits * 4)
        assert.equal(6 * layers, quantised(session))
        session:policy("4")
        assert.same({ name = "4", key_bits = 4, value_bits = 4 }, session:policy())
        session:close()
        local plain = model:session { kv = false }
        assert.is_nil(plain:policy())
        plain:close()
    end)

    it("share prefixes among the sessions that have the same", function()
        local one = model:session { kv = "max_context" }
        one:feed(first(900))
        local bytes = one:bytes()
        local two = model:session { kv = "max_context" }
        two:feed(first(900))
        assert.equal(899, two.adopted)
        assert.is_true(two:bytes() - bytes <= layers * 64 * 1024)
        local other = model:session { kv = "balanced" }
        other:feed(first(900))
        assert.equal(0, other.adopted)
        for _, session in ipairs { one, two, other } do session:close() end
    end)

    it("change as the session goes on", function()
        local session = model:session { kv = "example" }
        session:feed(first(255))
        assert.equal(16, session:policy().bits)
        assert.equal(0, quantised(session))
        session:sync(first(500))
        assert.equal(8, session:policy().bits)
        assert.is_true(quantised(session) > 0)
        local eight = session:bytes() / session.position
        session:sync(first(900))
        assert.equal(4, session:policy().value_bits)
        assert.is_true(session:bytes() / session.position < eight)
        session:close()
        local calls = {}
        session = model:session { kv = { bits = 16, at = function(now)
            calls[#calls + 1] = now.position
            return { hot_tokens = now.position }
        end } }
        session:feed(first(3)):step(5):step(6)
        assert.same({ 0, 3, 4, 5 }, calls)
        assert.equal(5, session:policy().hot_tokens)
        session:close()
    end)

    it("are taken up between two tokens when their file changes", function()
        local path = write("mine.lua", "return { bits = 16, window = 'keep' }")
        local session = model:session { kv = path }
        session:feed(first(640))
        assert.equal(0, quantised(session))
        write("mine.lua", "return { bits = 8, hot_tokens = 64, first_tokens = 64, window = 'keep' }")
        recipe.refresh()
        session:step(5)
        assert.equal(8 * layers, quantised(session))

        local told, reporter = {}, recipe.reporter
        recipe.reporter = function(problem) told[#told + 1] = problem end
        write("mine.lua", "return { bits = 5, hot_tokens = 0, first_tokens = 0 }")
        recipe.refresh()
        session:step(5):step(6)
        recipe.reporter = reporter
        assert.equal(1, #told)
        assert.truthy(told[1]:find("16, 8 or 4, not 5", 1, true))
        assert.equal(8, session:policy().bits)
        assert.equal(643, session.position)
        session:close()
    end)

    it("tell of a problem in their function once, and go on", function()
        local told, reporter = {}, recipe.reporter
        recipe.reporter = function(problem) told[#told + 1] = problem end
        local session = model:session { kv = { bits = 8, at = function(now)
            if now.position > 0 then error("no more", 0) end
        end } }
        session:feed(first(4)):step(5):step(6)
        recipe.reporter = reporter
        assert.equal(1, #told)
        assert.truthy(told[1]:find("no more", 1, true))
        assert.equal(6, session.position)
        session:close()
    end)

    it("take other values where they are named", function()
        local session = model:session { kv = "balanced(hot_tokens=512, memory=1G)" }
        assert.equal("balanced(hot_tokens=512, memory=1G)", session:policy().name)
        assert.same({ 512, "1G", 8 }, { session:policy().hot_tokens, session:policy().memory, session:policy().bits })
        session:policy { "balanced", hot_tokens = 64 }
        assert.equal(64, session:policy().hot_tokens)
        assert.equal(1.75e9, session:policy().memory)
        session:policy { "example", eight_from = 2, four_from = 3 }:step(5):step(6):step(7)
        assert.equal(4, session:policy().value_bits)
        session:close()
    end)

    it("keep the version before when a saved one has no such value", function()
        local told, reporter = {}, recipe.reporter
        recipe.reporter = function(problem) told[#told + 1] = problem end
        local path = write("values.lua", "return { parameters = { { name = 'bits', default = 8 } } }")
        local session = model:session { kv = { path, bits = 4 } }
        session:step(5)
        write("values.lua", "return { parameters = { { name = 'hot_tokens', default = 5 } } }")
        recipe.refresh()
        session:step(5)
        assert.equal(1, #told)
        assert.truthy(told[1]:find("has no parameter 'bits'", 1, true), told[1])
        assert.equal(4, session:policy().bits)
        session:close()
        recipe.reporter = reporter
    end)

    it("are refused by a sentence", function()
        local function refused(kv, words)
            local fine, problem = pcall(model.session, model, { kv = kv })
            assert.is_false(fine)
            assert.truthy(tostring(problem):find(words, 1, true), tostring(problem))
        end
        refused("balancd", "did you mean 'balanced'?")
        refused("/no/such.lua", "there is no file /no/such.lua")
        refused(write("none.lua", "return 5"), "returns a number")
        refused(write("odd.lua", "return { hots = 5 }"), "there is no 'hots'")
        refused("5", "16, 8 or 4, not 5")
        refused("balanced(hot=5)", "kv policy balanced has no parameter 'hot'; did you mean 'hot_tokens'?")
        refused({ "balanced", hot_tokens = -1 }, "hot_tokens must be at least 0, not -1")
        refused("fastest(1)", "kv policy fastest: takes 0 values, not 1")
        refused("balanced(hot_tokens=5", "a ) is missing at the end")
        refused("balanced=5,fastest", "one policy is needed, not 2")
        refused(print, "a table or a name is needed")
        assert.has_error(function() moonloom.kv("nothing") end)
        assert.is_nil(moonloom.kv())
    end)

    it("hold for a whole command, and at the prompt for one call", function()
        local show = "print(require('moonloom').current():session():policy().name)"
        local out, err, code = run { "--kv", "tiny_memory", "-e", show }
        assert.same({ "tiny_memory\n", "", 0 }, { out, err, code })
        out, err, code = run { "generate", "Once upon a time", "--max-tokens", "4", "--temperature", "0", "--kv",
            "balanced", "--json" }
        assert.equal(0, code, err)
        assert.truthy(out:find('"ids"', 1, true))
        out, err, code = run { "generate", "Once", "--kv", "tini" }
        assert.equal("", out)
        assert.truthy(err:find("there is no policy 'tini'", 1, true))
        assert.equal(2, code)
        assert.truthy(select(2, run { "--kv", "8,", "-e", "1" }) == "")
        local perplexity = recipe.get("perplexity")
        local plain = perplexity { text = TEXT:rep(20) }
        local named = perplexity { text = TEXT:rep(20), kv = "tiny_memory" }
        assert.is_true(named.nll ~= plain.nll and math.abs(named.nll - plain.nll) < 0.1)
        assert.is_nil(moonloom.kv())
        moonloom.kv("fastest")
        local session = model:session()
        moonloom.kv(false)
        assert.equal("fastest", session:policy().name)
        session:close()
    end)
end)
