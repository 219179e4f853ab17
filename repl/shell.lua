--- The prompt: reads a chunk, runs it, shows its value or its error, and goes on.
local chunk = require "repl.chunk"
local commands = require "repl.commands"
local complete = require "repl.complete"
local environment = require "repl.environment"
local errors = require "repl.errors"
local help = require "repl.help"
local history = require "repl.history"
local interrupt = require "moonloom._core.interrupt"
local native = require "repl.native"
local pretty = require "repl.pretty"
local style = require "repl.style"
local talk = require "repl.talk"

local M = {}

local ffi = require "moonloom._core.ffi"
local on_terminal, coloured -- output is a terminal that knows escape sequences; and wants colours
local edited -- lines are edited: input is a terminal

M.paint = style.painter(false)

function M.write(text)
    io.stdout:write(text)
    io.stdout:flush()
end

-- Goes to a fresh line if something was left unfinished on this one: as many spaces as the terminal is wide wrap only
-- if the cursor is not at the left edge.
local function fresh_line()
    if on_terminal then M.write((" "):rep(native.columns()) .. "\r\27[K") end
end

--- One sentence that something did not work, where there is no error value.
function M.complain(sentence)
    fresh_line()
    M.write(M.paint("error", "error: ") .. sentence .. "\n")
end

local function show_error(report)
    fresh_line()
    if interrupt.is_interrupt(report.value) then
        local hint = talk.can_resume() and "; resume() goes on" or ""
        M.write(M.paint("hint", "stopped") .. hint .. "\n")
        return
    end
    M.write(errors.render(report, environment, M.paint) .. "\n")
end

-- Calls f under Ctrl-C protection; shows its error. Returns whether it went well.
local function guarded(f, ...)
    local fine, report = native.protect(f, errors.capture, ...)
    io.stdout:flush()
    if not fine then show_error(errors.report(report)) end
    return fine
end

local function show_values(count, values)
    for i = 1, count do
        local shown = talk.display(values[i])
            or pretty.show(values[i], { paint = M.paint, columns = native.columns() })
        M.write(shown .. "\n")
    end
end

-- A single name that has no value may be a slip of the fingers.
local function hint_for_nothing(text)
    local name = text:match("^%s*([%a_][%w_]*)%s*$")
    local hint = name and name ~= "nil" and name ~= "_" and not environment.summary(name)
        and errors.hint_for_name(name, environment.names(), environment.locals)
    if hint then M.write(M.paint("hint", " hint: ") .. hint .. "\n") end
end

--- Shows help on `name`, or its source if `source`; everything there is without a name.
function M.help(name, source)
    guarded(function()
        local text, problem
        if name == nil or name == "" then
            text = help.overview(commands.rows, M.paint)
        elseif type(name) ~= "string" then
            problem = 'help takes a name, such as help("generate")'
        else
            text, problem = (source and help.source or help.about)(name, M.paint)
        end
        if not text then return M.complain(problem) end
        M.write((source and text or style.wrap(text, native.columns() - 1, 0)) .. "\n")
    end)
end

local function pack(...)
    return select("#", ...), { ... }
end

--- Compiles and runs complete text; shows the values, and the time if `timed`. Returns whether it went well.
function M.run(text, timed)
    native.take_interrupt()
    local f, name_or_problem = chunk.compile(text)
    if not f then
        show_error(errors.from_syntax(name_or_problem))
        return false
    end
    environment.note_locals(text)
    local count, values, took
    local fine = guarded(function()
        local began = ffi.C.ml_time_now()
        count, values = pack(f())
        took = ffi.C.ml_time_now() - began
    end)
    if not fine then return false end
    fresh_line()
    if count > 0 then
        _G._ = values[1]
        fine = guarded(show_values, count, values)
        if count == 1 and values[1] == nil then hint_for_nothing(text) end
    end
    if timed then M.write(M.paint("dim", talk.duration(took)) .. "\n") end
    return fine
end

--- Says `text` to the model in the current chat.
function M.say(text)
    native.take_interrupt()
    guarded(function()
        local reply = talk.say(text)
        fresh_line()
        show_values(1, { reply })
        _G._ = reply
    end)
end

local pending = "" -- earlier lines of the chunk that is being typed

local function prompt(continued)
    local text = continued and "....> " or "moon> "
    if not coloured then return text end
    return "\1\27[1;34m\2" .. text .. "\1\27[0m\2"
end

-- One line from the editor; or from plain input, where nobody sees a prompt.
local function read_line(continued)
    native.take_interrupt()
    if edited then return native.read_line(prompt(continued)) end
    local line = io.read("*l")
    if line then return line end
    return nil, "end"
end

--- Reads a whole chunk. Returns its text; "" if it was given up; nil at the end of input.
local function read_chunk()
    pending = ""
    while true do
        local line, why, typed = read_line(pending ~= "")
        if why == "interrupt" then
            local given_up = pending .. typed
            history.add(given_up)
            if given_up == "" then M.write(M.paint("dim", "Ctrl-D or quit() leaves") .. "\n") end
            return ""
        elseif not line then
            if pending == "" then return nil end
            if edited then M.write("\n") end
            history.add((pending:gsub("\n$", "")))
            return edited and "" or pending
        end
        local text = pending .. line
        if pending == "" and line:find("^%s*[?!>%%]") or not chunk.is_unfinished(text) then
            history.add(text)
            return text
        end
        pending = text .. "\n"
    end
end

local function greet()
    local fine, line = pcall(talk.about_model)
    M.write((fine and line or M.paint("error", "error: ") .. tostring(line)) .. "\n" .. talk.first_steps)
end

local function run_user_file()
    local config, home = os.getenv("XDG_CONFIG_HOME"), os.getenv("HOME")
    local folder = config and config:sub(1, 1) == "/" and config or home and home .. "/.config"
    local path = folder and folder .. "/moonloom/init.lua"
    local file = path and io.open(path, "r")
    if not file then return end
    file:close()
    local f, problem = loadfile(path)
    if f then guarded(f) else show_error(errors.from_syntax(problem)) end
end

--- Runs the prompt until the input ends. Returns the exit code.
function M.start()
    native.set_interactive()
    on_terminal = native.is_terminal(1) and (os.getenv("TERM") or "dumb") ~= "dumb"
    coloured = style.allowed(1)
    edited = native.is_terminal(0)
    M.paint = style.painter(coloured)
    native.set_completer(function(text)
        return complete.candidates(text, pending)
    end)
    if edited then history.open() end
    if native.is_terminal(1) then
        talk.be_interactive(M.complain)
        greet()
    end
    run_user_file()
    while true do
        guarded(talk.refresh) -- runs what was saved: Ctrl-C must reach it
        local text = read_chunk()
        if not text then break end
        guarded(talk.refresh) -- a recipe may have been saved since the prompt stood there
        if text:find("%S") and not commands.run(M, text) then M.run(text) end
    end
    if edited then M.write("\n") end
    return 0
end

return M
