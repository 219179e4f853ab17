-- The prompt, driven as a person would drive it: on a pseudo terminal.
local prompts = require "helpers.prompt"

if not prompts.available then
    it("the prompt", function() pending("no pseudo terminals here: is /dev/pts mounted?") end)
    return
end

local home, program, shell = MOONLOOM_HOME, prompts.program, prompts.shell

describe("the prompt", function()
    local prompt, folder, session

    local function start(more)
        session = prompt:start(more)
        return session
    end

    local function answer(line)
        return prompt:answer(line)
    end

    before_each(function()
        prompt = prompts.new()
        folder = prompt.folder
    end)

    after_each(function()
        prompt:close()
    end)

    it("greets with three lines", function()
        session = prompt:run { program }
        local greeting = session:expect("^(.-)moon> ")
        local _, lines = greeting:gsub("\n", "\n")
        assert.equal(3, lines)
        assert.truthy(greeting:find("?", 1, true))
    end)

    it("shows the value of an expression, and keeps it in _", function()
        start()
        assert.equal("42", answer("6 * 7"))
        assert.equal("43", answer("_ + 1"))
        assert.equal([[{ 1, "two", name = { 3 } }]], answer([[{ 1, "two", name = { 3 } }]]))
        assert.equal("", answer("x = 5"))
        assert.equal("5", answer("x"))
    end)

    it("reads a chunk of several lines", function()
        start()
        session:enter("function twice(n)")
        session:expect("%.%.%.%.> ")
        session:enter("return 2 * n")
        session:expect("%.%.%.%.> ")
        assert.equal("", answer("end"))
        assert.equal("42", answer("twice(21)"))
    end)

    it("takes a pasted block as one chunk", function()
        start()
        session:send("\27[200~local a = 20\nlocal b = 22\na + b\27[201~\r")
        session:expect("42\n")
    end)

    it("gives up an unfinished chunk on Ctrl-C", function()
        start()
        session:enter("for i = 1, 10 do")
        session:expect("%.%.%.%.> ")
        session:send("\3")
        session:expect("moon> ")
        assert.equal("1", answer("1"))
        session:send("\3")
        session:expect("Ctrl%-D")
    end)

    it("completes globals, fields, methods and paths", function()
        start()
        session:enter("a_long_name = { inner_field = 7, method_of = function() return 8 end }")
        session:expect("moon> ")
        session:send("a_lon\t")
        session:expect("a_long_name")
        session:send(".inn\t")
        session:expect("inner_field")
        session:enter("")
        session:expect("7\n")
        session:send("a_long_name:met\t")
        session:expect("method_of")
        session:enter("()")
        session:expect("8\n")
        session:send(("io.open('%s/data/tiny\t"):format(home)) -- closes the string too
        session:expect("gpt%-oss.gguf'")
        session:enter(") ~= nil")
        session:expect("true\n")
        session:send("ml.kv('tiny_m\t")
        session:expect("tiny_memory'")
        session:enter(")")
        session:expect("\"tiny_memory\"")
        session:send("?ml_weights_o\t")
        session:expect("ml_weights_open")
        session:enter("")
        session:expect("Maps the model file")
    end)

    it("remembers what was typed in an earlier session", function()
        start()
        answer("'first of all'")
        session:enter("if true then")
        session:expect("%.%.%.%.> ")
        answer("earlier = 'line\\\\two' end")
        session:send("\4")
        assert.equal(0, session:wait())
        start()
        session:send("\27[A") -- arrow up: the newest, of two lines
        session:expect("earlier = ")
        session:enter("")
        session:expect("moon> ")
        assert.equal([["line\\two"]], answer("earlier"))
        session:send("\18first of") -- Ctrl-R
        session:expect("'first of all'")
        session:enter("")
        session:expect('"first of all"\n')
    end)

    it("starts where its history cannot be read or written", function()
        os.execute(("mkdir -p %s/state/moonloom/history"):format(folder))
        start()
        assert.equal("2", answer("1 + 1"))
    end)

    it("helps", function()
        start()
        session:enter("?")
        session:expect("Type Lua")
        session:expect("%%time")
        session:expect("moon> ")
        session:enter("?ml_interrupt_set")
        session:expect("void ml_interrupt_set%(int on%);")
        session:expect("Asks running calls to stop")
        session:expect("moon> ")
        session:enter("??ml_version")
        session:expect("%d+  const char %*ml_version")
        session:expect("moon> ")
        answer("function mine() return 1 end")
        session:enter("??mine")
        session:expect("1  function mine%(%) return 1 end")
        session:expect("moon> ")
        assert.truthy(answer("?pritn"):find("did you mean 'print'", 1, true))
        for _, call in ipairs { "help(generate)", "help(5)", "help{}" } do
            assert.equal('error: help takes a name, such as help("generate")', answer(call))
        end
    end)

    it("runs commands of the shell, and takes time", function()
        start()
        assert.equal("hi", answer("!echo hi"))
        assert.truthy(answer("!exit 3"):find("code 3", 1, true))
        assert.truthy(answer("%time 1 + 1"):find("^2\n[%d.]+ [um]s$"))
        assert.truthy(answer("%tiem 1"):find("no command", 1, true))
    end)

    it("shows the line of an error, with a hint", function()
        start()
        assert.truthy(answer("x = = 2"):find("x = = 2\n%s+%^"))
        local text = answer("pritn('x')")
        assert.truthy(text:find("no global 'pritn'", 1, true))
        assert.truthy(text:find("\n%s+%^^^^^\n"))
        assert.truthy(text:find("did you mean 'print'?", 1, true))
        answer("local gone = 1")
        assert.truthy(answer("gone + 1"):find("local to the line", 1, true))
        answer("t = nil")
        assert.truthy(answer("error({})"):find("error", 1, true))
        assert.truthy(answer("%trace"):find("traceback", 1, true))
        assert.truthy(answer("local function f() return 1 + f() end f()"):find("stack overflow", 1, true))
        assert.equal("3", answer("3"))
        assert.falsy(session.text:find("traceback.*traceback"))
    end)

    it("shows the line of a file that fails", function()
        local file = io.open(folder .. "/broken.lua", "w")
        file:write("local x\n\nprint(x.y)\n")
        file:close()
        start()
        local text = answer(("dofile('%s/broken.lua')"):format(folder))
        assert.truthy(text:find("broken.lua:3", 1, true))
        assert.truthy(text:find("3 | print(x.y)", 1, true))
    end)

    it("stops a runaway loop on Ctrl-C, and goes on", function()
        start()
        for _, loop in ipairs { "while true do end", "repeat local s = ('x'):rep(10) until false" } do
            session:enter("print('go') " .. loop)
            session:expect("\ngo\n")
            session:send("\3")
            session:expect("stopped")
            session:expect("moon> ")
            assert.equal("2", answer("1 + 1"))
        end
        session:enter("print('go') while true do pcall(function() while true do end end) end")
        session:expect("\ngo\n")
        for _ = 1, 5 do -- two that come at once count as one
            session:watch(300)
            session:send("\3")
            if session:watch(300):find("still busy", 1, true) then break end
        end
        session:expect("still busy")
        session:expect("stopped")
        session:expect("moon> ")
        assert.equal("2", answer("1 + 1"))
    end)

    it("reads the user's own file first", function()
        os.execute(("mkdir -p %s/config/moonloom && echo 'mine = 77' >%s/config/moonloom/init.lua")
            :format(folder, folder))
        start()
        assert.equal("77", answer("mine"))
    end)

    it("leaves with Ctrl-D and quit(), and puts the terminal back", function()
        session = prompt:run { "/bin/sh", "-c", ("stty -a >%s/before; %s; echo code $?; stty -a >%s/after; echo over")
            :format(folder, program, folder) }
        session:expect("moon> ")
        session:send("\4")
        session:expect("code 0")
        session:expect("over")
        assert.equal(shell("cat " .. folder .. "/before"), shell("cat " .. folder .. "/after"))
        start()
        session:enter("quit(7)")
        assert.equal(7, session:wait())
    end)

    it("puts the terminal back when it is ended by a signal", function()
        session = prompt:run { "/bin/sh", "-c", ("stty -a >%s/before; %s; stty -a >%s/after; echo over")
            :format(folder, program, folder) }
        session:expect("moon> ")
        session:enter("!kill -TERM $PPID")
        session:expect("over")
        assert.equal(shell("cat " .. folder .. "/before"), shell("cat " .. folder .. "/after"))
    end)

    it("uses no colours with NO_COLOR or on a dumb terminal", function()
        for _, more in ipairs { { NO_COLOR = "1" }, { TERM = "dumb" } } do
            start(more)
            answer("'text'")
            answer("no_such_thing.x")
            assert.falsy(session.raw:find("\27%[[%d;]*m"))
        end
        start()
        answer("'text'")
        assert.truthy(session.raw:find("\27[32m", 1, true))
    end)
end)
