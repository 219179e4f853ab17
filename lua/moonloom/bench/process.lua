--- Programs that are run to their end, with what they printed.
local interrupt = require "moonloom._core.interrupt"

local M = {}

local SIGINT, STOPPED = 2, 130 -- how a program ends at Ctrl-C: by the signal, or with this code

--- Words as one command for the shell.
function M.quote(words)
    local quoted = {}
    for i, word in ipairs(words) do quoted[i] = "'" .. tostring(word):gsub("'", "'\\''") .. "'" end
    return table.concat(quoted, " ")
end

local function take(path)
    local file = io.open(path, "rb")
    local text = file and file:read("*a") or ""
    if file then file:close() end
    os.remove(path)
    return text
end

--- Runs a command of the shell. Returns its standard output, the sentence of its standard error (what moonloom says
--- went wrong; else the last line), and its exit code (128 and the signal that ended it). Ctrl-C is meant for the
--- program and for us: it raises an interrupt.
function M.run(command)
    local out, err = os.tmpname(), os.tmpname()
    local status = os.execute(("{ %s\n} >%s 2>%s </dev/null"):format(command, out, err))
    local text, said = take(out), take(err):gsub("%s+$", "")
    local problem = said:match("^moonloom: ([^\n]*)") or said:match("[^\n]*$")
    local signal = status % 256
    if signal == SIGINT or status == STOPPED * 256 then error(interrupt.error, 0) end
    return text, problem, signal ~= 0 and 128 + signal or status / 256
end

return M
