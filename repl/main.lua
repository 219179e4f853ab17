--- Entry of the moonloom command: reads the arguments, then runs a recipe, a script, or the prompt. Returns the exit
--- code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
local home = MOONLOOM_HOME
package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;"):format(home, home, home) .. package.path

local native = require "repl.native"
local chunk = require "repl.chunk"
local environment = require "repl.environment"
local errors = require "repl.errors"
local ml = require "moonloom"
local interrupt = require "moonloom._core.interrupt"
local pretty = require "repl.pretty"
local recipes = require "repl.recipes"
local style = require "repl.style"
local suggest = require "moonloom._core.suggest"
local talk = require "repl.talk"

local USAGE = [[
usage: moonloom [options]                       the prompt; a script on standard input if that is no terminal
       moonloom [options] RECIPE [arguments]    run a recipe; `moonloom RECIPE --help` tells its arguments
       moonloom [options] FILE.lua [arguments]  run a Lua file (- is standard input)

options:
  -e CODE        run CODE (may be repeated); an expression shows its value
  -i             then go on at the prompt
  -m FILE        the model to use; default: the small one in data/
  --threads N    worker threads; default: the physical cores
  --load HOW     map: weights stay in the file (default); copy: into memory, in huge pages
  --numa HOW     spread: deal threads and memory out over the machine's memory nodes; off (default)
  --precision HOW of products on a matrix unit: bf16 (default) or exact
  --kv-store DIR keep sessions there when they end, and begin with what is there
  --kv NAME      policy for keys and values: balanced, max_context, fastest, tiny_memory, a file, or bits such as 8
  --kv-memory N  bytes that keys and values may have of the memory, such as 2G; default: no limit
  --version      version and instruction set
  --help         this text
]]

local function say_error(sentence)
    io.stderr:write("moonloom: ", sentence, "\n")
end

-- Raises a sentence about wrong usage.
local Usage = {}
local function wrong_usage(format, ...)
    error(setmetatable({ message = format:format(...) }, Usage), 0)
end

local takes_value = { ["-e"] = "CODE", ["-m"] = "FILE", ["--threads"] = "N", ["--load"] = "map or copy",
    ["--numa"] = "off or spread", ["--precision"] = "bf16 or exact",
    ["--kv-store"] = "a folder", ["--kv"] = "a policy", ["--kv-memory"] = "bytes, such as 2G" }

-- Options up to the first other word: { code = {...}, interactive, model, threads, loading, numa, precision, store,
-- kv, version, help }, and its index.
local function read_options(words)
    local options, at = { code = {} }, 1
    while words[at] do
        local word = words[at]
        if word:sub(1, 1) ~= "-" or word == "-" then break end
        local value
        if takes_value[word] then
            at = at + 1
            value = words[at] or wrong_usage("%s needs %s; moonloom --help lists the options", word, takes_value[word])
        end
        if word == "-e" then
            table.insert(options.code, value)
        elseif word == "-m" then
            options.model = value
        elseif word == "--threads" then
            options.threads = tonumber(value) or wrong_usage("--threads needs a number, not '%s'", value)
        elseif word == "--load" then
            options.loading = value
        elseif word == "--numa" then
            options.numa = value
        elseif word == "--precision" then
            options.precision = value
        elseif word == "--kv-store" then
            options.store = value
        elseif word == "--kv" then
            options.kv = value
        elseif word == "--kv-memory" then
            options.kv_memory = value
        elseif word == "-i" then
            options.interactive = true
        elseif word == "--version" then
            options.version = true
        elseif word == "--help" or word == "-h" then
            options.help = true
        elseif word == "--" then
            return options, at + 1
        else
            local known = { "-e", "-i", "-m", "--threads", "--load", "--numa", "--precision", "--kv-store",
                "--kv", "--kv-memory", "--version", "--help" }
            local similar = suggest.nearest(word, known)
            wrong_usage("there is no option '%s'; %s", word,
                similar and ("did you mean '%s'?"):format(similar) or "moonloom --help lists them")
        end
        at = at + 1
    end
    return options, at
end

local function print_usage()
    io.write(USAGE)
    local names = recipes.names()
    if #names == 0 then return end
    io.write("\nrecipes:\n")
    for _, name in ipairs(names) do
        local info, problem = recipes.info(name)
        if info or problem then
            io.write(("  %-14s %s\n"):format(name, info and info.summary or "(its file cannot be loaded)"))
        end
    end
end

local function report_failure(report)
    if interrupt.is_interrupt(report.value) then
        say_error("stopped by Ctrl-C")
        return 130
    elseif getmetatable(report.value) == Usage then
        say_error(report.value.message)
        return 2
    elseif report.value == nil then
        return 1 -- error() without a value means to end in silence, as in lua(1)
    end
    local text = errors.render(report, environment, style.painter(style.allowed(2)))
    io.stderr:write((text:gsub("error: ", "moonloom: ", 1)), "\n")
    return 1
end

-- Runs f(...) under Ctrl-C protection; tells its error. Returns the exit code, and what f returned.
local function guarded(f, ...)
    local fine, value = native.protect(f, errors.capture, ...)
    if not fine then return report_failure(errors.report(value)) end
    return 0, value
end

local function run_code(text, name, arguments)
    local f, result = chunk.compile_script(text, name)
    if not f then return report_failure(errors.from_syntax(result)) end
    local show = result and function(...)
        local value = f(...)
        if value ~= nil then print(talk.display(value) or pretty.show(value)) end
    end
    return (guarded(show or f, unpack(arguments)))
end

local function run_file(path, arguments)
    _G.arg = arguments
    arguments[0] = path
    if path == "-" then return run_code(io.read("*a"), "standard input", arguments) end
    local f, problem = loadfile(path)
    if not f then return report_failure(errors.from_syntax(problem)) end
    return (guarded(f, unpack(arguments)))
end

local function exists(path)
    local file = io.open(path, "r")
    if file then file:close() end
    return file ~= nil
end

local function run_recipe(name, arguments)
    local code, result = guarded(require("moonloom.recipe.command").run, name, arguments)
    return code ~= 0 and code or tonumber(result) or 0
end

-- What the first words name: a recipe (two for one such as bench_compare), else a file.
local function run_word(word, arguments)
    if word == "-" then return run_file(word, arguments) end
    local names, known = recipes.names(), {}
    for _, name in ipairs(names) do known[name] = true end
    local both = word .. "_" .. (arguments[1] or "")
    if known[both] then return run_recipe(both, { unpack(arguments, 2) }) end
    if known[word] then return run_recipe(word, arguments) end
    if exists(word) then return run_file(word, arguments) end
    if word:find("[./]") then wrong_usage("there is no file '%s'", word) end
    local similar = suggest.nearest(word, names)
    wrong_usage("there is no recipe or file '%s'; %s", word,
        similar and ("did you mean '%s'?"):format(similar) or "moonloom --help lists the recipes")
end

local function prepare(options)
    for _, name in ipairs { "threads", "numa", "loading", "precision", "store", "kv", "kv_memory" } do
        local fine, problem = pcall(ml[name], options[name])
        if not fine then wrong_usage("%s", problem) end
    end
    if options.model then talk.set_model(options.model) end
    environment.install()
end

local function run(words)
    local options, at = read_options(words)
    if options.help then return print_usage() end
    if options.version then
        return print(("moonloom %s (%s, %s)"):format(ml.version, ml.isa(), jit.version))
    end
    prepare(options)
    local code = 0
    for i, text in ipairs(options.code) do
        code = run_code(text, i == 1 and "-e" or ("-e %d"):format(i), {})
        if code ~= 0 then break end
    end
    local word = words[at]
    if word and code == 0 then
        code = run_word(word, { unpack(words, at + 1) })
    elseif not word and #options.code == 0 and not options.interactive and not native.is_terminal(0) then
        return run_file("-", {})
    end
    if options.interactive or not word and #options.code == 0 then return require("repl.shell").start() end
    return code
end

native.set_interrupt(interrupt.error)
talk.offer_globals(function(name)
    require("repl.shell").help(name)
end)
local fine, code = pcall(run, arg)
if ml.store() then require("moonloom.session").close_all() end -- they are kept
ml.store(false)
io.stdout:flush()
if fine then return code or 0 end
if getmetatable(code) ~= Usage then error(code, 0) end
say_error(code.message)
return 2
