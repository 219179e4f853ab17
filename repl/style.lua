--- Colours of the prompt: on a terminal only, never with NO_COLOR or TERM=dumb.
local native = require "repl.native"

local M = {}

local codes = {
    string = "32", number = "36", constant = "35", name = "34", dim = "2", error = "1;31", hint = "33", mark = "31",
    prompt = "1;34", strong = "1",
}

--- Whether escape sequences may be written to file descriptor `fd` (1 output, 2 errors).
function M.allowed(fd)
    local term = os.getenv("TERM")
    return native.is_terminal(fd) and not os.getenv("NO_COLOR") and term ~= nil and term ~= "dumb"
end

--- A function paint(kind, text) that colours if `on`, and else returns the text as it is.
function M.painter(on)
    return function(kind, text)
        if not on or text == "" then return text end
        return "\27[" .. codes[kind] .. "m" .. text .. "\27[0m"
    end
end

--- Characters that `text` takes on the screen, escape sequences not counted.
function M.width(text)
    local bare = text:gsub("\27%[[%d;]*m", "")
    local _, continuation = bare:gsub("[\128-\191]", "")
    return #bare - continuation
end

return M
