-- moonloom without a prompt: -e, files, standard input, exit codes, pipes, Ctrl-C.
local home = MOONLOOM_HOME
local program = (os.getenv("MOONLOOM_BUILD") or home .. "/build") .. "/moonloom"

describe("moonloom as a command", function()
    local folder

    local function read(path)
        local file = assert(io.open(path, "rb"))
        local text = file:read("*a")
        file:close()
        return text
    end

    -- Runs a shell command line, %s standing for the program. Returns its output, its errors, and its exit code.
    local function run(line)
        local file = io.open(folder .. "/line", "w")
        file:write((line:gsub("%%s", program)))
        file:close()
        local status = os.execute(("env TERM=xterm HOME=%s sh %s/line >%s/out 2>%s/err </dev/null")
            :format(folder, folder, folder, folder))
        return read(folder .. "/out"), read(folder .. "/err"), math.floor(status / 256)
    end

    local function write(name, text)
        local file = assert(io.open(folder .. "/" .. name, "w"))
        file:write(text)
        file:close()
        return folder .. "/" .. name
    end

    before_each(function()
        folder = io.popen("mktemp -d"):read("*l")
    end)

    after_each(function()
        os.execute("rm -rf " .. folder)
    end)

    it("ends with a sentence where a model's file is cut short while it is in use", function()
        local model = folder .. "/model.gguf"
        os.execute(("cp %s/data/tiny-gpt-oss.gguf %s"):format(home, model))
        local script = write("cut.lua", ([[
            local session = require("moonloom").load(%q):session()
            os.execute(%q)
            session:feed("Once upon a time")]]):format(model, "truncate -s 8192 " .. model))
        local out, err, code = run("%s " .. script)
        assert.same({ "", 1 }, { out, code })
        assert.equal("moonloom: a file in use, a model or a saved session, became shorter or cannot be read any more\n",
            err)
    end)

    it("runs -e, in order, and shows an expression", function()
        local out, err, code = run([[%s -e 'x = 20' -e 'print(x + 1)' -e 'x + 22']])
        assert.equal("21\n42\n", out)
        assert.equal("", err)
        assert.equal(0, code)
    end)

    it("runs a file with arguments, and standard input", function()
        local path = write("script.lua", "#!/usr/bin/env moonloom\nprint(arg[0]:match('[^/]+$'), ...)\n")
        assert.equal("script.lua\ta\tb c\n", (run("%s " .. path .. " a 'b c'")))
        assert.equal("piped\n", (run("echo 'print(\"piped\")' | %s")))
        assert.equal("piped\tx\n", (run("echo 'print(\"piped\", ...)' | %s - x")))
    end)

    it("tells errors on standard error, with the line, and code 1", function()
        local path = write("broken.lua", "local t\n\nt.x = 1\n")
        local out, err, code = run("%s " .. path)
        assert.equal("", out)
        assert.truthy(err:find("broken.lua:3", 1, true))
        assert.truthy(err:find("3 | t.x = 1", 1, true))
        assert.falsy(err:find("traceback", 1, true))
        assert.equal(1, code)
        out, err, code = run("%s -e 'x = ='")
        assert.equal("", out)
        assert.truthy(err:find("x = =", 1, true))
        assert.equal(1, code)
        out, err, code = run("%s -e 'error(\"one\")' -e 'print(2)'")
        assert.equal("", out)
        assert.truthy(err:find("one", 1, true))
        assert.equal(1, code)
    end)

    it("refuses wrong usage with code 2 and a suggestion", function()
        local cases = {
            ["%s --verson"] = "'--version'", ["%s -e"] = "-e needs CODE", ["%s no_such_file.lua"] = "no file",
            ["%s no_such_recipe"] = "no recipe", ["%s --threads many"] = "--threads must be a whole number, not 'many'",
            ["%s --threads -3"] = "threads",
        }
        for line, part in pairs(cases) do
            local out, err, code = run(line)
            assert.equal("", out)
            assert.truthy(err:find(part, 1, true), line .. ": " .. err)
            assert.equal(2, code, line)
        end
    end)

    it("tells its version and its help", function()
        assert.truthy((run("%s --version")):find("^moonloom %d+%.%d+%.%d+"))
        local out, _, code = run("%s --help")
        assert.truthy(out:find("usage: moonloom", 1, true))
        assert.equal(0, code)
    end)

    it("writes no escape sequences into pipes", function()
        local out, err = run([[%s -e '{ 1, "a", nil, x = print }'; %s -e 'y.z = 1']])
        assert.falsy(out:find("\27", 1, true))
        assert.falsy(err:find("\27", 1, true))
        assert.truthy(out:find('{ 1, "a", x = function (built in) }', 1, true))
    end)

    it("reads lines without a prompt when -i has no terminal", function()
        local out, _, code = run("printf '1 + 1\\nfunction f()\\nreturn 7\\nend\\nf()\\n' | %s -i -e 'x = 1'")
        assert.equal("2\n7\n", out)
        assert.equal(0, code)
    end)

    it("runs where standard input, output or error is closed", function()
        local words = "%s generate Once --max-tokens 3 --temperature 0"
        for _, closed in ipairs { " <&-", " 2>&-" } do
            local out, _, code = run(words .. closed)
            assert.same({ "Once upon a time\n", 0 }, { out, code })
        end
        local _, err, code = run(words .. " >&-")
        assert.truthy(err:find("moonloom: standard output: Bad file descriptor", 1, true), err)
        assert.equal(1, code)
    end)

    it("ends quietly when the reader of its pipe goes", function()
        local out, err, code = run("%s -e 'require \"luv\" for i = 1, 1e6 do print(i) end' | head -n 1")
        assert.equal("1\n", out)
        assert.equal("", err)
        assert.equal(0, code)
    end)

    -- Runs moonloom with these words, and stops it a little after it wrote "go" on standard error.
    local function run_and_stop(words)
        return run(([[
            %%s %s 2>%s/told &
            while ! grep -q go %s/told; do sleep 0.05; done
            sleep 0.2
            kill -INT $!
            wait $!
            code=$?
            cat %s/told >&2
            exit $code
        ]]):format(words, folder, folder, folder))
    end

    it("stops with code 130 on Ctrl-C, in interpreted and in compiled loops", function()
        local compiled = write("compiled.lua", "io.stderr:write('go\\n') local n = 0 while true do n = n + 1 end\n")
        for _, how in ipairs { "-e 'io.stderr:write(\"go\\n\") while true do end'", compiled } do
            local _, err, code = run_and_stop(how)
            assert.equal(130, code)
            assert.falsy(err:find("traceback", 1, true))
        end
    end)

    it("gives what there is at Ctrl-C, and code 130", function()
        os.execute(("mkdir -p %s/.config/moonloom/recipes"):format(folder))
        write(".config/moonloom/recipes/samplers.lua", ([[
            local M = dofile("%s/recipes/samplers.lua")
            local choose = M.choose
            function M.choose(...)
                io.stderr:write("go\n")
                require("luv").sleep(20)
                return choose(...)
            end
            return M
        ]]):format(home))
        for _, words in ipairs { "generate 'Once upon a time' --max-tokens 100000", "chat Hello" } do
            local out, err, code = run_and_stop(words .. " --temperature 0 --json")
            assert.equal(130, code, err)
            assert.truthy(out:find('"stop":"interrupted"', 1, true), out)
        end
    end)

    it("refuses a number of threads that is none", function()
        for _, word in ipairs { "1.5", "nan", "1e300", "-1", "x" } do
            local _, err, code = run("%s --threads " .. word .. " -e 1")
            assert.equal(2, code)
            assert.truthy(err:find("^moonloom: [^\n]*threads[^\n]*" .. word:gsub("e", "e.?") .. "[^\n]*\n$"), err)
        end
    end)
end)
