-- Talking to the model at the prompt: streaming, Ctrl-C, resume, recipes edited meanwhile, chat.
local prompts = require "helpers.prompt"

if not prompts.available then
    it("talking at the prompt", function() pending("no pseudo terminals here: is /dev/pts mounted?") end)
    return
end

local home = MOONLOOM_HOME

local function read(path)
    local file = assert(io.open(path, "r"))
    local text = file:read("*a")
    file:close()
    return text
end

local function write(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
end

describe("talking at the prompt", function()
    local prompt, session

    before_each(function()
        prompt = prompts.new()
    end)

    after_each(function()
        prompt:close()
    end)

    it("streams a generation, and shows one line about it instead of its text again", function()
        session = prompt:start()
        local text = prompt:answer('generate{ prompt = "Once upon a time", max_tokens = 10, temperature = 0 }')
        assert.truthy(text:find("^Once upon a time, there was a little girl named Lily"))
        assert.truthy(text:find("\n10 tokens %(length%)[^\n]*$"))
        local _, times = text:gsub("Once upon", "")
        assert.equal(1, times)
        assert.truthy(prompt:answer("_"):find("^Once upon a time, there was a little girl"))
        text = prompt:answer("resume{ max_tokens = 5 }")
        assert.truthy(text:find("\n15 tokens %(length%)"))
        assert.falsy(text:find("Once upon", 1, true))
    end)

    it("completes and explains recipes", function()
        session = prompt:start()
        session:send("gener\t")
        session:expect("generate")
        session:send("{ max_t\t")
        session:expect("max_tokens=")
        session:send("3, prom\t")
        session:expect("prompt")
        session:send("=")
        session:enter("'Once' }")
        session:expect("3 tokens")
        session:expect("moon> ")
        session:send("model:tok\t")
        session:expect("tokenize")
        session:enter('("Once")')
        session:expect("{ %d+ }\n")
        session:expect("moon> ")
        local text = prompt:answer("?generate")
        assert.truthy(text:find("max_tokens = 256", 1, true))
        assert.truthy(text:find("temperature = 1", 1, true))
        session:enter("??samplers")
        session:expect("recipes/samplers.lua\n")
        session:expect("%d+  function M.greedy")
        session:expect("moon> ")
        text = prompt:answer("generate{ prompt = 'x', max_token = 3 }")
        assert.truthy(text:find("did you mean 'max_tokens'?", 1, true))
    end)

    -- samplers.lua of moonloom, made to wait before each token and, with `word`, to choose nothing but that word
    local function samplers(word)
        local text = read(home .. "/recipes/samplers.lua")
        local choice = word and (" do return context.generation.model:tokenize(%q)[1] end"):format(word) or ""
        local changed, times = text:gsub("(function M%.choose%(chain, candidates, context%)\n)", function(line)
            return line .. "    require('luv').sleep(20)\n" .. choice .. "\n"
        end)
        assert.equal(1, times)
        return changed
    end

    it("takes up an edited sampler while it talks, keeps it when an edit is broken, stops on Ctrl-C and resumes",
        function()
            local path = prompt.folder .. "/recipes/samplers.lua"
            session = prompt:start()
            prompt:answer('generate{ prompt = "Once", max_tokens = 1 }') -- with moonloom's own samplers
            write(path, samplers(" dog")) -- before which a copy of the user's takes precedence
            session:enter('g = generate{ prompt = "Once upon a time", max_tokens = 100000 }')
            session:expect("Once upon a time dog dog dog")
            write(path, samplers(" cat"))
            session:expect(" cat cat")
            write(path, samplers(" cat") .. "\nthis is = broken\n")
            session:expect("samplers.lua:%d+:")
            session:expect("this is = broken")
            session:expect("version before")
            session:expect(" cat cat cat")
            session:send("\3")
            session:expect("moon> ")
            assert.equal('"interrupted"', prompt:answer("g.stop"))
            assert.equal("true", prompt:answer("#g.tokens > 6"))
            write(path, samplers(" sun"))
            local text = prompt:answer("resume{ max_tokens = 4 }")
            assert.truthy(text:find("sun sun sun sun", 1, true), text)
            assert.truthy(text:find("(length)", 1, true))
            assert.equal("true", prompt:answer("g.text:find(' dog cat.* cat sun sun sun sun$') ~= nil"))
        end)

    it("stops a recipe that never ends while it is loaded", function()
        local path = prompt.folder .. "/recipes/hello.lua"
        write(path, "return { run = function() return 'hello' end }\n")
        session = prompt:start()
        assert.equal('"hello"', prompt:answer("hello{}"))
        write(path, "os.execute('echo go') while true do end\n")
        session:enter("hello{}")
        session:expect("\ngo\n")
        session:send("\3")
        session:expect("hello.lua was interrupted while it was loaded\n +the version before stays in use")
        session:expect('"hello"')
        session:expect("moon> ")
        assert.equal("2", prompt:answer("1 + 1"))
    end)

    it("shows the value of an interrupted generation, and goes on", function()
        write(prompt.folder .. "/recipes/samplers.lua", samplers(" dog"))
        session = prompt:start()
        session:enter('generate{ prompt = "Once upon a time", max_tokens = 100000 }')
        session:expect("dog dog dog")
        session:send("\3")
        session:expect("%(interrupted%)[^\n]*resume")
        session:expect("moon> ")
        session:enter("resume()")
        session:expect("dog dog dog")
        session:send("\3")
        session:expect("%(interrupted%)[^\n]*resume")
        session:expect("moon> ")
        assert.equal("2", prompt:answer("1 + 1"))
    end)

    it("talks in the current chat", function()
        session = prompt:start()
        local text = prompt:answer("> Tell me a story about Tom and a boat.")
        assert.truthy(text:find("[analysis]", 1, true))
        assert.truthy(text:find("\n%d+ tokens %(%a+%)"))
        assert.falsy(text:find("<|", 1, true))
        assert.equal("true", prompt:answer("#_.final > 0"))
        prompt:answer("> And one about a cat.")
        assert.equal("2", prompt:answer("#ml.chat().turns"))
        text = prompt:answer("ml.chat():say(nil)")
        assert.truthy(text:find("^error: a chat is told a text, not nil\n +1 | ml.chat%(%):say%(nil%)\n"), text)
        assert.equal("2", prompt:answer("#moonloom.chat().turns"))
    end)

    it("stops a reply on Ctrl-C, and goes on with it", function()
        write(prompt.folder .. "/recipes/samplers.lua", samplers())
        session = prompt:start()
        session:enter("> Tell me a story about Tom and a boat.")
        session:expect("%[analysis%] %a+")
        session:send("\3")
        session:expect("%(interrupted%)[^\n]*resume")
        session:expect("moon> ")
        local text = prompt:answer("resume{ max_tokens = 3 }")
        assert.truthy(text:find("%d+ tokens %(%a+%)"), text)
        assert.falsy(text:find("<|", 1, true))
        assert.equal("1", prompt:answer("#ml.chat().turns"))
    end)

    it("tells of a broken edit before the next prompt, and finds a new recipe at once", function()
        local path = prompt.folder .. "/recipes/mine.lua"
        session = prompt:start()
        assert.truthy(prompt:answer("mine"):find("nil", 1, true))
        write(path, "return { name = 'mine', summary = 's', parameters = {}, run = function() return 11 end }\n")
        assert.equal("11", prompt:answer("mine{}"))
        write(path, "return { name = 'mine', summary = 's', parameters = {}, run = function() return 222 end }\n")
        assert.equal("222", prompt:answer("mine{}"))
        write(path, "return { name = 'mine',\n summary = ,\n")
        assert.truthy(prompt:answer("1"):find("mine.lua:2", 1, true))
        assert.equal("222", prompt:answer("mine{}"))
    end)
end)
