--- Lines that are no Lua: `? name`, `?? name`, `! command`, `> text`, `%time x`, `%trace`, `%help`.
local errors = require "repl.errors"

local M = {}

--- Rows for the overview, in the order in which a new user wants them.
M.rows = {
    { "> text", "say text to the model in the current chat" },
    { "?name", "help on a name; ? alone shows this page" },
    { "??name", "source of a function or a recipe" },
    { "!command", "run a command of the shell" },
    { "%time x", "run x, show its value and the time it took" },
    { "%trace", "the call stack of the last error" },
    { "%help", "this page" },
}

local percent = {
    time = function(shell, rest)
        shell.run(rest, true)
    end,
    trace = function(shell)
        shell.write((errors.last and errors.last.trace or "no error yet") .. "\n")
    end,
    help = function(shell)
        shell.help()
    end,
}

--- Names of the commands that begin with %.
function M.names()
    return { "help", "time", "trace" }
end

local function execute(shell, command)
    local status = os.execute(command)
    local signal = status % 128
    if signal ~= 0 then
        shell.complain(("signal %d ended the command"):format(signal))
    elseif status ~= 0 then
        shell.complain(("the command ended with code %d"):format(math.floor(status / 256)))
    end
end

--- Runs `text` if it is a command. Returns whether it was one.
function M.run(shell, text)
    local line = text:match("^%s*(.-)%s*$")
    local first = line:sub(1, 1)
    if first == "?" then
        local marks, name = line:match("^(%?%??)%s*(.*)$")
        shell.help(name:match("^[%w_.:%[%]\"']*"):gsub("[.:]+$", ""), marks == "??")
    elseif first == "!" then
        execute(shell, line:sub(2))
    elseif first == ">" then
        local said = line:match("^>%s*(.*)$")
        if said == "" then shell.complain("there is nothing to say behind >") else shell.say(said) end
    elseif first == "%" then
        local name, rest = line:match("^%%(%a*)%s*(.*)$")
        if percent[name] then
            percent[name](shell, rest)
        else
            shell.complain(("there is no command %%%s; %%help lists them"):format(name))
        end
    else
        return false
    end
    return true
end

return M
