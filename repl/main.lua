--- Entry of the moonloom command: reads the arguments, then runs a recipe, a script, or the prompt. Returns the exit
--- code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
local home = MOONLOOM_HOME
package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;"):format(home, home, home) .. package.path

local native = require "repl.native"
local arguments = require "moonloom.recipe.arguments"
local chunk = require "repl.chunk"
local command = require "moonloom.recipe.command"
local environment = require "repl.environment"
local errors = require "repl.errors"
local ml = require "moonloom"
local interrupt = require "moonloom._core.interrupt"
local options = require "moonloom.recipe.options"
local pretty = require "repl.pretty"
local recipes = require "repl.recipes"
local style = require "repl.style"
local suggest = require "moonloom._core.suggest"
local talk = require "repl.talk"
local words_of = require "moonloom.recipe.words"

local USAGE = [[
usage: moonloom [options]                       the prompt; a script on standard input if that is no terminal
       moonloom [options] RECIPE [arguments]    run a recipe; `moonloom RECIPE --help` tells its arguments
       moonloom [options] FILE.lua [arguments]  run a Lua file (- is standard input)

options:
]]

local function say_error(sentence)
    io.stderr:write("moonloom: ", sentence, "\n")
end

local wrong_usage = arguments.fail

-- Reads options up to the first other word. Returns them by name, and the index of that word.
local function read_options(words)
    local given, list, at = {}, options.at("program"), 1
    while words[at] and words_of.is_option(words[at]) do
        if words[at] == "--" then return given, at + 1 end
        at = words_of.take(nil, list, given, words, at) + 1
    end
    return given, at
end

local function print_usage()
    io.write(USAGE, table.concat(words_of.columns(words_of.rows(options.at("program")), 13), "\n"), "\n")
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

local function run_code(text, name, rest)
    local f, result = chunk.compile_script(text, name)
    if not f then return report_failure(errors.from_syntax(result)) end
    local show = result and function(...)
        local value = f(...)
        if value ~= nil then print(talk.display(value) or pretty.show(value)) end
    end
    return (guarded(show or f, unpack(rest)))
end

local function run_file(path, rest)
    _G.arg = rest
    rest[0] = path
    if path == "-" then return run_code(io.read("*a"), "standard input", rest) end
    local f, problem = loadfile(path)
    if not f then return report_failure(errors.from_syntax(problem)) end
    return (guarded(f, unpack(rest)))
end

local function exists(path)
    local file = io.open(path, "r")
    if file then file:close() end
    return file ~= nil
end

local function run_recipe(name, rest)
    local code, result = guarded(command.run, name, rest)
    return code ~= 0 and code or tonumber(result) or 0
end

-- What the first words name: a recipe (two for one such as bench_compare), else a file.
local function run_word(word, rest)
    if word == "-" then return run_file(word, rest) end
    local both = word .. "_" .. (rest[1] or "")
    if recipes.is_there(both) then return run_recipe(both, { unpack(rest, 2) }) end
    if recipes.is_there(word) then return run_recipe(word, rest) end
    if exists(word) then return run_file(word, rest) end
    if word:find("[./]") then wrong_usage("there is no file '%s'", word) end
    local similar = suggest.nearest(word, recipes.names())
    wrong_usage("there is no recipe or file '%s'; %s", word,
        similar and ("did you mean '%s'?"):format(similar) or "moonloom --help lists the recipes")
end

local function run(words)
    local given, at = read_options(words)
    if given.help then return print_usage() end
    if given.version then
        return print(("moonloom %s (%s, %s)"):format(ml.version, ml.isa(), jit.version))
    end
    options.apply(given, true)
    environment.install()
    local code, texts = 0, given.e or {}
    for i, text in ipairs(texts) do
        code = run_code(text, i == 1 and "-e" or ("-e %d"):format(i), {})
        if code ~= 0 then break end
    end
    local word = words[at]
    if word and code == 0 then
        code = run_word(word, { unpack(words, at + 1) })
    elseif not word and #texts == 0 and not given.i and not native.is_terminal(0) then
        return run_file("-", {})
    end
    if given.i or not word and #texts == 0 then return require("repl.shell").start() end
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
if not arguments.is_usage(code) then error(code, 0) end
say_error(tostring(code))
return 2
