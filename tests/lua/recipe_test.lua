-- The recipe engine: folders, arguments, live values, reloading; without any model.
local door = require "moonloom.recipe.door"
local recipe = require "moonloom.recipe.live"
local arguments = require "moonloom.recipe.arguments"
local json = require "moonloom.file.json"
local suggest = require "moonloom._core.suggest"

local folder
local clock = 1e9 -- file times that never repeat, whatever the clock of the machine does

local function save(name, text)
    local path = folder .. "/" .. name
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    clock = clock + 10
    assert(require("luv").fs_utime(path, clock, clock))
    return path
end

local function message_of(f, ...)
    local fine, problem = pcall(f, ...)
    assert.is_false(fine)
    return tostring(problem), problem
end

local ECHO = [[
return {
    name = "echo", summary = "gives back what it gets",
    parameters = {
        { name = "text", type = "string", positional = true, doc = "what to say" },
        { name = "times", type = "integer", default = 1, min = 1, max = 9, doc = "how often" },
        { name = "rate", type = "number", default = 0.5 },
        { name = "loud", type = "boolean", default = false },
        { name = "ids", type = "list" },
        { name = "kind", type = "string", default = "a", choices = { "a", "b" } },
        { name = "hook", type = "function", from_lua = true },
    },
    version = 1,
    run = function(args) return args end,
}
]]

describe("recipes", function()
    setup(function()
        folder = os.tmpname()
        os.remove(folder)
        assert(require("luv").fs_mkdir(folder, 448))
        assert(require("luv").fs_mkdir(folder .. "/parts", 448))
        local folders = recipe.folders
        recipe.folders = function() return { folder, unpack(folders()) } end
        save("echo.lua", ECHO)
    end)

    teardown(function()
        os.execute("rm -r '" .. folder .. "'")
    end)

    it("fill in defaults, take one value in place of a table, and are the same by require", function()
        local echo = recipe.get("echo")
        local got = echo { text = "hi", loud = true }
        assert.same({ text = "hi", times = 1, rate = 0.5, loud = true, kind = "a" }, got)
        assert.equal("hi", echo("hi").text)
        assert.equal(echo, require "recipes.echo")
        assert.equal("recipe echo: gives back what it gets", tostring(echo))
        assert.equal(7, #door.describe(echo).parameters)
        assert.is_nil(door.describe({}))
        assert.is_nil(recipe.find("no_such_recipe"))
    end)

    it("refuse wrong arguments in one sentence that names them", function()
        local echo = recipe.get("echo")
        local function refused(given, words)
            local text, problem = message_of(echo, given)
            assert.is_true(arguments.is_usage(problem))
            assert.truthy(text:find(words, 1, true), text)
            assert.is_nil(text:find("\n"))
        end
        refused({ txet = "x" }, "echo has no parameter 'txet'; did you mean 'text'?")
        refused({ times = 1.5 }, "times must be a whole number, not 1.5")
        refused({ times = 0 }, "times must be at least 1, not 0")
        refused({ times = 10 }, "times must be at most 9")
        refused({ times = "x" }, "times must be a whole number, not 'x'")
        refused({ rate = 0 / 0 }, "rate must be a number")
        refused({ loud = 1 }, "loud must be true or false")
        refused({ ids = 5 }, "ids must be a list")
        refused({ kind = "c" }, "kind must be one of a, b, not 'c'")
        refused({ hook = "x" }, "hook must be a function")
        assert.truthy(message_of(recipe.get, "ecko"):find("did you mean 'echo'?", 1, true))
    end)

    it("take up a saved file, and keep the old one with a message when it is broken", function()
        local echo = recipe.get("echo")
        save("echo.lua", (ECHO:gsub("version = 1", "version = 2")))
        assert.same({}, recipe.refresh())
        assert.equal(2, echo.version)
        local path = save("echo.lua", "return {\n  name = = 3\n}")
        local problems = recipe.refresh()
        assert.equal(1, #problems)
        assert.truthy(problems[1]:find(path .. ":2:", 1, true), problems[1])
        assert.truthy(problems[1]:find("2 | name = = 3", 1, true), problems[1])
        assert.equal(2, echo.version)
        assert.same({}, recipe.refresh()) -- told once
        save("echo.lua", "error('not now')")
        assert.truthy(recipe.refresh()[1]:find("not now", 1, true))
        save("echo.lua", (ECHO:gsub("version = 1", "version = 3")))
        assert.same({}, recipe.refresh())
        assert.equal(3, echo.version)
    end)

    it("see the new code of a part that they require while they run", function()
        save("parts/step.lua", "return { next = function(n) return n + 1 end }")
        save("count.lua", [[
            local step = require "recipes.parts.step"
            return { name = "count", summary = "", parameters = { { name = "hook", type = "function" } },
                run = function(args)
                    local seen, n = {}, 0
                    for i = 1, 3 do
                        n = step.next(n)
                        seen[i] = n
                        if i == 1 then args.hook() end
                    end
                    return seen
                end }]])
        local seen = recipe.get("count") { hook = function()
            save("parts/step.lua", "return { next = function(n) return n + 100 end }")
            recipe.refresh()
        end }
        assert.same({ 1, 101, 201 }, seen)
    end)

    it("report a file that cannot be loaded at its first use, and load it once it is mended", function()
        save("sick.lua", "local x = \nreturn {")
        assert.truthy(message_of(recipe.get, "sick"):find("sick.lua:2:", 1, true))
        save("sick.lua", "return 5")
        assert.truthy(message_of(recipe.get, "sick"):find("returns a number", 1, true))
        save("sick.lua", "return { run = print, parameters = { { name = 'a', type = 'strnig' } } }")
        assert.truthy(message_of(recipe.get, "sick"):find("unknown type 'strnig'", 1, true))
        save("sick.lua", "return { name = 'sick', run = function() return 'well' end }")
        assert.equal("well", recipe.get("sick") {})
        os.remove(folder .. "/sick.lua")
    end)

    it("report the line of the file that is broken, also where another one requires it", function()
        save("parts/bad.lua", "local x = 1\nlocal y = = 2\nreturn {}")
        save("wants.lua", "local a = 1\nlocal b = require 'recipes.parts.bad'\nreturn { run = print }")
        local expected = folder .. "/parts/bad.lua:2: unexpected symbol near '='\n    2 | local y = = 2"
        assert.equal(expected, message_of(recipe.get, "wants"))
        save("parts/bad.lua", "local x = 1\nx = x.y.z\nreturn {}")
        assert.truthy(message_of(recipe.get, "wants"):find("parts/bad.lua:2: [^\n]+\n    2 | x = x.y.z$"))
        os.remove(folder .. "/wants.lua")
    end)

    it("of a loop and a schedule have what is called", function()
        save("loop.lua", "return { next = print }")
        save("schedule.lua", "return {}")
        require "moonloom.generation"
        require "moonloom.pool"
        local problems = recipe.refresh() -- of what is in use already
        for _, name in ipairs { "loop", "schedule" } do
            local _, problem = pcall(recipe.get, name)
            problems[#problems + 1] = tostring(problem)
        end
        local text = table.concat(problems, "\n")
        assert.truthy(text:find("loop.lua: a loop returns { loop = function(g) } at least", 1, true), text)
        assert.truthy(text:find("schedule.lua: a schedule returns { next = function(list, rows) }", 1, true), text)
        os.remove(folder .. "/loop.lua")
        os.remove(folder .. "/schedule.lua")
    end)

    it("are listed without parts, the user's before moonloom's", function()
        local names = table.concat(recipe.names(), " ")
        assert.truthy(names:find("count", 1, true))
        assert.truthy(names:find("echo", 1, true))
        assert.is_nil(names:find("step", 1, true))
    end)

    it("run interpreted, so that Ctrl-C reaches a runaway loop", function()
        save("spin.lua", "return { name = 'spin', run = function() local n = 0 while true do n = n + 1 end end }")
        local spin = recipe.get("spin")
        local count = 0
        debug.sethook(function()
            count = count + 1
            if count == 50 then error("stopped", 0) end
        end, "", 1000)
        local text = message_of(spin, {})
        debug.sethook()
        assert.equal("stopped", text)
    end)
end)

describe("JSON", function()
    it("writes arrays, objects, numbers and text as they are", function()
        assert.equal('{"a":[],"b":{},"c":null,"d":[1,2.5,null]}',
            json.encode { a = {}, b = json.object {}, c = json.null, d = { 1, 2.5, 0 / 0 } })
        assert.equal("[12109566560,0.1,1e+300,-0.333333333333333315]",
            (json.encode { 12109566560, 0.1, 1e300, -1 / 3 }:gsub("%-0%.33+%d*", "-0.333333333333333315")))
        assert.equal('["9007199254740993"]', '["' .. json.encode(9007199254740993LL) .. '"]')
        assert.equal('"a\\n\\"\\\\\\u0001é\239\191\189"', json.encode("a\n\"\\\1é\255"))
        for _, value in ipairs { 1 / 3, 2 ^ 60, -1e-7, math.pi } do
            assert.equal(value, tonumber(json.encode(value)))
        end
        assert.same({ 1, { x = "y" } }, json.decode('[1,{"x":"y"}]'))
    end)

    it("replaces exactly the broken bytes of UTF-8", function()
        assert.equal("ok €😀", json.utf8("ok €😀"))
        local mark = "\239\191\189"
        assert.equal(mark .. "a", json.utf8("\192a"))
        assert.equal(mark:rep(3), json.utf8("\237\160\128")) -- a surrogate
        assert.equal(mark:rep(3), json.utf8("\240\159\152"))
        assert.equal(mark:rep(2) .. "x", json.utf8("\224\128x"))
    end)
end)

describe("did you mean", function()
    it("finds near names and leaves far ones", function()
        local names = { "temperature", "top_k", "top_p", "max_tokens" }
        assert.equal("temperature", suggest.nearest("temprature", names))
        assert.equal("max_tokens", suggest.nearest("max_token", names))
        assert.equal("temperature", suggest.nearest("temp", names))
        assert.is_nil(suggest.nearest("zzzzz", names))
    end)
end)
