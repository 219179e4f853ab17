-- Samplers by name: files dropped into a folder, chains and their checks, what is saved meanwhile, the command line.
-- Old names, which a user's own files may hold.
local candidates = require "moonloom.candidates"
local chains = require "moonloom.recipe.chain"
local command = require "helpers.command"
local ffi = require "ffi"
local json = require "moonloom.file.json"
local live = require "moonloom.recipe.live"
local logits_view = require "moonloom.logits"
local notation = require "moonloom.recipe.notation"
local sentence_of = require "helpers.sentence"
local uv = require "luv"
require "moonloom"
local generate = require "recipes.generate"
local samplers = require "recipes.samplers"

local clock = 1e9 -- file times that never repeat, whatever the clock of the machine does

local function save(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    clock = clock + 10
    assert(uv.fs_utime(path, clock, clock))
    return path
end

-- A folder of a user's own recipes, with samplers/ and policies/ in it.
local function own_folder()
    local folder = assert(uv.fs_mkdtemp("/tmp/moonloom-test-XXXXXX"))
    for _, name in ipairs { "samplers", "policies" } do assert(uv.fs_mkdir(folder .. "/" .. name, 448)) end
    return folder
end

local function candidates_of(values)
    local array = ffi.new("float[?]", #values)
    for i, value in ipairs(values) do array[i - 1] = value end
    return candidates.new(logits_view.view(array, #values, { epoch = ffi.new("double[1]"), array = array }))
end

-- The id that a chain chooses of the logits 1, 5, 3.
local function chosen(chain)
    return samplers.choose(chain, candidates_of { 1, 5, 3 }, { tokens = {}, random = function() return 0 end })
end

local ONLY = [[
return {
    summary = "one token and no other", source = "a test",
    parameters = {
        { name = "id", type = "integer", min = 0, required = true, doc = "which" },
        { name = "by", type = "number", default = 50, max = 100, doc = "how much better it gets" },
    },
    apply = function(candidates, p)
        candidates:add(p.id, p.by)
        candidates:keep(1)
    end,
}
]]

describe("the notation of chains", function()
    it("is names with values, in order, and is written as it is read", function()
        assert.same({ { "top_k", 40 }, { "min_p", 0.05 }, { "greedy" } }, notation.read("top_k=40,min_p=0.05,greedy"))
        assert.same({ { "dry", 0.8, "a, b", on = true, list = { 1, "x", {} } } },
            notation.read(" dry ( 0.8 , 'a, b', on = true, list=[1, x, []] ) "))
        for _, text in ipairs { "top_k=40", "greedy", 'x(1, "2", a="b c", c=[1, 2])', "x(a=true)", 'x="true"',
            "x=[]" } do
            assert.equal(text, notation.write(assert(notation.read(text))[1]))
        end
    end)

    it("is refused with what is missing where", function()
        for text, words in pairs {
            ["top_k="] = "a value is missing at the end in 'top_k='", ["top_k=1,"] = "a name is missing at the end",
            [""] = "a name is missing at the end", ["top_k(1"] = "a ) is missing at the end",
            ["a b"] = "a comma is missing before 'b' in 'a b'", ["x=[1"] = "a ] is missing at the end",
            ["x(1,a=)"] = "a value is missing before ')'", ["x(a=1,a=2)"] = "a is given twice in 'x(a=1,a=2)'",
        } do
            local entries, problem = notation.read(text)
            assert.is_nil(entries)
            assert.truthy(problem:find(words, 1, true), problem)
        end
    end)
end)

describe("a sampler in the user's own folder", function()
    local folder, folders

    before_each(function()
        folder, folders = own_folder(), live.folders
        live.folders = function() return { folder, unpack(folders()) } end
    end)

    after_each(function()
        live.folders = folders
        os.execute("rm -r " .. folder)
    end)

    it("is in the list and in chains by name", function()
        save(folder .. "/samplers/only_one.lua", ONLY)
        local row
        for _, one in ipairs(samplers {}) do row = one.name == "only_one" and one or row end
        assert.same({ "only_one(id, by=50)", "one token and no other", "a test" },
            { row.signature, row.summary, row.source })
        assert.truthy(tostring(samplers {}):find("only_one(id, by=50)", 1, true))
        save(folder .. "/samplers/two_defaults.lua", ONLY:gsub("required = true", "default = 3"))
        assert.truthy(tostring(samplers {}):find("two_defaults(id=3, by=50)", 1, true)) -- as values are given in order
        os.remove(folder .. "/samplers/two_defaults.lua")
        assert.equal(2, chosen(samplers.chain { { "only_one", 2 } }))
        assert.equal(0, chosen(samplers.chain { { "only_one", id = 0, by = 9 } }))
        assert.equal(2, chosen(samplers.chain "only_one(2, by=9)"))
        assert.equal("only_one(2, by=9)", tostring(samplers.chain "only_one(2, by=9)"))
        assert.equal(0, chosen(samplers.chain { function(c, context) samplers.only_one(c, 0, context) end }))
        assert.same({ 13, 13, 13 }, generate { prompt = "Once", max_tokens = 3, chain = { { "only_one", 13 } } }.ids)
        assert.same({ 13, 13 },
            generate { prompt = "Once", max_tokens = 2, chain = "repetition_penalty=1,only_one=13" }.ids)
    end)

    it("may stand in for one of moonloom's", function()
        save(folder .. "/samplers/greedy.lua", ONLY:gsub("required = true", "default = 0"))
        live.refresh()
        assert.equal(0, chosen(samplers.chain { "greedy" }))
        assert.equal("logits", samplers.wants(samplers.chain { "greedy" }))
        os.remove(folder .. "/samplers/greedy.lua")
        live.refresh()
        assert.equal(1, chosen(samplers.chain { "greedy" }))
        assert.equal("best", samplers.wants(samplers.chain { "greedy" }))
    end)

    it("is taken up when it is saved, and keeps the version before while it is broken or does not fit", function()
        local told, reporter = {}, live.reporter
        live.reporter = function(problem) told[#told + 1] = problem end
        local path = save(folder .. "/samplers/hot.lua", ONLY)
        local chain = samplers.chain { { "hot", 2 } }
        local function resaved(text)
            save(path, text)
            live.report(live.refresh())
            return chosen(chain)
        end
        assert.equal(2, chosen(chain))
        assert.equal(0, resaved((ONLY:gsub("p%.id, p%.by", "0, p.by"))))
        assert.equal(0, resaved("return {{"))
        assert.truthy(told[1]:find("hot.lua:1:", 1, true), told[1])
        assert.truthy(told[1]:find("the version before stays in use", 1, true), told[1])
        assert.equal(0, resaved("return { summary = 'no function' }"))
        assert.truthy(told[2]:find("hot.lua: a sampler returns { summary, parameters, source, apply", 1, true))
        assert.equal(0, resaved((ONLY:gsub("min = 0", "min = 5"))))
        assert.truthy(told[3]:find("chain (hot): id must be at least 5, not 2\n    the version before", 1, true),
            told[3])
        assert.equal(0, chosen(chain)) -- told once
        assert.equal(3, #told)
        assert.equal(1, resaved((ONLY:gsub("default = 50", "default = -50"):gsub("max = 100", "max = 0"))))
        live.reporter = reporter
    end)

    it("says where its file is wrong", function()
        save(folder .. "/samplers/wrong.lua", "return { apply = print, parameters = { { name = 'a', defualt = 1 } } }")
        local problem = sentence_of(samplers.chain, { "wrong" })
        assert.truthy(problem:find("wrong.lua: parameter a has the unknown field 'defualt'; did you mean 'default'?", 1,
            true), problem)
        assert.truthy(tostring(samplers {}):find("wrong +%(its file cannot be loaded%)"))
    end)

    it("of an older moonloom, the whole file, is refused with where samplers are now", function()
        local path = save(folder .. "/samplers.lua", "return { choose = print, chain = print, usual = print }")
        local problems = live.refresh()
        assert.equal(1, #problems)
        assert.truthy(problems[1]:find(path .. ": it is a copy of an older moonloom's", 1, true))
        assert.truthy(problems[1]:find("samplers/NAME.lua", 1, true))
    end)

    it("has no copy of an older generate beside it, which is told where the loop is now", function()
        local path = save(folder .. "/generate.lua", "return { run = print, next = print, loop = print }")
        local problems = live.refresh()
        assert.equal(1, #problems)
        assert.truthy(problems[1]:find(path .. ": it is a copy of an older moonloom's", 1, true), problems[1])
        assert.truthy(problems[1]:find("recipes/loop.lua", 1, true))
    end)
end)

describe("a chain", function()
    local function refused(words, arguments)
        arguments.prompt = "Once"
        local sentence = sentence_of(generate, arguments)
        assert.truthy(sentence:find(words, 1, true), sentence)
    end

    it("is checked like arguments, with a sentence that says which entry is wrong", function()
        for words, chain in pairs {
            ["generate: chain, entry 2 (top_q): there is no sampler 'top_q'; did you mean 'top_k'?"] =
                { "greedy", { "top_q", 1 } },
            ["entry 1 (top_k) needs k: how many"] = { "top_k" },
            ["entry 1 (top_k): k must be a whole number, not 1.5"] = { { "top_k", 1.5 } },
            ["entry 1 (top_k): k must be at least 0, not -1"] = { { "top_k", k = -1 } },
            ["entry 1 (top_p): p must be at most 1, not 2"] = { { "top_p", 2 } },
            ["entry 1 (repetition_penalty) has no parameter 'lats'; did you mean 'last'?"] =
                { { "repetition_penalty", 1.1, lats = 5 } },
            ["entry 1 (top_k) has no parameter 'threads'"] = { { "top_k", 1, threads = 2 } },
            ["entry 1 (top_k): takes 1 value, not 2"] = { { "top_k", 1, 2 } },
            ["entry 1 (greedy): takes 0 values, not 1"] = { { "greedy", 2 } },
            ["entry 1 (top_k): k is given twice"] = { { "top_k", 1, k = 2 } },
            ["entry 2: a name, { name, values ... } or a function is needed, not 40"] = { { "top_k", 3 }, 40 },
            ["chain: a list of entries has no 'top_k'"] = { top_k = 40 },
            ["entry 1 (top_k): k must be a whole number, not a table"] = { { "top_k", { 5 } } },
            ["entry 1: a name, { name, values ... } or a function is needed, not a table"] = { { {} } },
            ["chain: entry 1 is nil"] = { nil, "greedy" },
            ["chain: entry 2 is nil"] = { "greedy", nil, { "top_k", 3 } },
            ["chain: a list of samplers is needed, not 5"] = 5,
            ["chain: a value is missing at the end in 'top_k='"] = "top_k=",
        } do refused(words, { chain = chain }) end
    end)

    it("refuses an entry behind one that leaves only the best token, but for functions", function()
        refused("chain: entry 2 (top_k) has no effect: greedy before it leaves only the best token",
            { chain = { "greedy", { "top_k", 5 } } })
        refused("entry 3 (min_p) has no effect: temperature=0 before it",
            { chain = { { "top_p", 0.9 }, { "temperature", 0 }, { "min_p", 0.1 } } })
        assert.equal(1, chosen(samplers.chain { { "top_k", 1 }, "greedy", function() end }))
    end)

    it("has no hole where a name is misspelt", function()
        local sentence = sentence_of(function() return { samplers.top_q } end)
        assert.equal("there is no sampler 'top_q'; did you mean 'top_k'?", sentence)
    end)

    it("says whether it only takes the best token", function()
        local function wants(list) return samplers.wants(samplers.chain(list)) end
        assert.equal("best", wants { { "temperature", 0 } })
        assert.equal("best", wants "top_k=1,greedy")
        assert.equal("logits", wants "top_k=2")
        assert.equal("logits", wants { { "temperature", 0.5 } })
        assert.equal("logits", wants { function() end })
        assert.equal("logits", wants {})
    end)

    it("refuses parameters that have no effect beside it", function()
        for name, value in pairs { temperature = 0.5, top_k = 3, top_p = 0.5, min_p = 0.1, repetition_penalty = 1.1 } do
            refused(("generate: %s has no effect beside chain"):format(name), { chain = { "greedy" }, [name] = value })
        end
        assert.equal(2, #generate({ prompt = "Once", max_tokens = 2, chain = { "greedy" }, seed = 4 }).ids)
    end)
end)

describe("sampling parameters", function()
    local function made(arguments)
        arguments.prompt, arguments.max_tokens = "Once", 2
        return pcall(generate, arguments)
    end

    it("are refused where only the best token is taken, if they were given and change something", function()
        for _, alone in ipairs { { temperature = 0 }, { top_k = 1 }, { top_p = 0 } } do
            local word = next(alone)
            for name, value in pairs { temperature = 0.7, top_k = 5, top_p = 0.5, min_p = 0.1 } do
                if name ~= word then
                    local fine, problem = made { [word] = alone[word], [name] = value }
                    assert.is_false(fine)
                    assert.truthy(tostring(problem):find(("%s has no effect beside %s = %d, which takes the best token")
                        :format(name, word, alone[word]), 1, true), problem)
                end
            end
            assert.is_true(made { [word] = alone[word], repetition_penalty = 1.2, seed = 3 })
        end
        assert.is_true(made { temperature = 0, top_k = 0, top_p = 1, min_p = 0 }) -- all off
        assert.is_true(made { temperature = 0, top_k = 1, top_p = 0 }) -- all say the same
    end)

    it("are judged in a fork and in resume beside those in force, of which nothing is said", function()
        local greedy = generate { prompt = "Once", max_tokens = 3, temperature = 0 }
        assert.truthy(sentence_of(greedy.fork, greedy, 2, { top_k = 5 }):find(
            "fork: top_k has no effect beside temperature = 0", 1, true))
        assert.equal(3, #greedy:fork(2, { temperature = 1, top_k = 5 }).ids)
        local some = generate { prompt = "Once", max_tokens = 3, top_k = 7 }
        assert.equal(3, #some:fork(2, { temperature = 0 }).ids)
        local chained = generate { prompt = "Once", max_tokens = 3, chain = { { "top_k", 2 } } }
        assert.truthy(sentence_of(chained.resume, chained, { temperature = 0 }):find(
            "resume: temperature has no effect beside chain", 1, true))
        assert.equal(3, #chained:fork(2, { temperature = 0, chain = false }).ids)
        assert.equal(3, #some:fork(2, { chain = { "greedy" } }).ids)
    end)

    it("are the same in every recipe that samples, and make the chain of that name", function()
        local chat = require("moonloom.recipe.door").describe(live.get "chat")
        local names = {}
        for _, parameter in ipairs(chat.parameters) do names[parameter.name] = true end
        for _, parameter in ipairs(require("recipes.sampling").parameters) do
            assert.is_true(names[parameter.name], parameter.name)
        end
        local words = { prompt = "Once", max_tokens = 12, seed = 9 }
        local function ids(more)
            for name, value in pairs(words) do more[name] = value end
            return generate(more).ids
        end
        assert.same(ids { top_k = 20, min_p = 0.02, temperature = 0.8, repetition_penalty = 1.1 },
            ids { chain = "repetition_penalty=1.1,top_k=20,min_p=0.02,temperature=0.8" })
    end)
end)

describe("samplers on the command line", function()
    local folder

    setup(function()
        folder = own_folder()
        save(folder .. "/samplers/only_one.lua", ONLY)
        save(folder .. "/policies/small.lua", "return { summary = 'my own', bits = 8, hot_tokens = 64 }")
    end)

    teardown(function()
        os.execute("rm -r " .. folder)
    end)

    local function run(words)
        return command(words, nil, { MOONLOOM_RECIPES = folder })
    end

    it("stand in --chain of every recipe that samples, a user's own among them", function()
        for _, words in ipairs {
            { "generate", "Once" }, { "chat", "Hello" },
        } do
            for _, more in ipairs { "--max-tokens", "4", "--json", "--chain",
                "repetition_penalty=1, only_one(13, by=100)" } do
                words[#words + 1] = more
            end
            local out, err, code = run(words)
            assert.equal(0, code, err)
            assert.same({ 13, 13, 13, 13 }, json.decode(out).ids)
        end
    end)

    it("are refused with a sentence and code 2", function()
        for chain, sentence in pairs {
            only_one = "generate: --chain, entry 1 (only_one) needs id: which",
            only_on = "there is no sampler 'only_on'; did you mean 'only_one'?",
            ["only_one(1,by=200)"] = "by must be at most 100, not 200", ["top_k="] = "a value is missing at the end",
        } do
            local out, err, code = run { "generate", "Once", "--chain", chain }
            assert.same({ "", 2 }, { out, code })
            assert.truthy(err:find(sentence, 1, true), err)
        end
        local _, err, code = run { "chat", "Hello", "--chain", "greedy", "--temperature", "0.5" }
        assert.equal(2, code)
        assert.truthy(err:find("chat: temperature has no effect beside chain", 1, true), err)
    end)

    it("are in help and in lists, as policies are", function()
        for _, words in ipairs { { "generate", "--help" }, { "chat", "--help" } } do
            local out = run(words)
            assert.truthy(out:find("--chain CHAIN", 1, true))
            assert.truthy(out:find("greedy, [%w_, ]*only_one, [%w_, ]*repetition_penalty"), out)
            assert.truthy(out:find("max_context, [%w_, ]*small, [%w_, ]*tiny_memory"), out)
        end
        assert.truthy((run { "--help" }):find("max_context, [%w_, ]*small, [%w_, ]*tiny_memory"))
        assert.truthy((run { "samplers" }):find("only_one%(id, by=50%) +one token and no other"))
        assert.truthy((run { "policies" }):find("small +my own"))
        local rows = json.decode((run { "policies", "--json" })).policies
        assert.equal("balanced", rows[1].name)
    end)

    it("point at the line that has the chain", function()
        local script = folder .. "/mine.lua"
        save(script, "local g = 1\n\nrequire 'recipes.generate' { prompt = 'x', chain = { 'top_q' } }\n")
        local _, err, code = run { script }
        assert.equal(1, code)
        assert.truthy(err:find("there is no sampler 'top_q'", 1, true))
        assert.truthy(err:find("mine.lua:3", 1, true), err)
        assert.is_nil(err:find("samplers.lua", 1, true), err)
    end)
end)

describe("old names", function()
    it("of modules are found, and told where they are now", function()
        local moved = require("moonloom._core.moved").names
        local names = {}
        for old, new in pairs(moved) do
            names[#names + 1] = old
            assert.truthy(package.searchpath(new, package.path), new)
        end
        assert.is_true(#names > 25)
        local out, err, code = command { "-e", 'print(require "moonloom.policy" == require "moonloom.cache.policy")',
            "-e", 'print(require "moonloom.policy".choose ~= nil)' }
        assert.same({ "true\ntrue\n", "moonloom: moonloom.policy is moonloom.cache.policy now\n", 0 },
            { out, err, code })
    end)

    it("of policies, kv_NAME.lua, are found, and told where they belong", function()
        local folder = own_folder()
        save(folder .. "/kv_older.lua", "return { bits = 8, summary = 'from before' }")
        local variables = { MOONLOOM_RECIPES = folder }
        local out, err, code = command({ "--kv", "older", "-e",
            "print(model:session():policy().bits, model:session():policy().name)" }, nil, variables)
        assert.same({ "8\tolder\n", 0 }, { out, code })
        assert.equal(1, select(2, err:gsub("move it to policies/older.lua", "")), err)
        out = command({ "policies" }, nil, variables)
        assert.truthy(out:find("older +from before"), out)
        out = command({ "--help" }, nil, variables)
        assert.is_nil(out:find("kv_older", 1, true))
        os.execute("rm -r " .. folder)
    end)
end)

describe("files in recipes/ that are no recipes", function()
    it("are not among the names of recipes, nor an obstacle to them", function()
        for _, name in ipairs(live.names()) do
            assert.is_function(live.get(name).run, name)
        end
        assert.is_nil((table.concat(live.names(), " ") .. " "):find("sampling ", 1, true))
        local _, err, code = command { "sampling" }
        assert.equal(2, code)
        assert.truthy(err:find("sampling is no recipe: it has no run function", 1, true), err)
        assert.is_table(chains.list())
    end)
end)
