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
    return native.is_terminal(fd) and (os.getenv("NO_COLOR") or "") == "" and term ~= nil and term ~= "dumb"
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

--- Breaks lines of `text` that are wider than `columns` between words; what follows a break is set in by `indent`
--- more than the line began.
function M.wrap(text, columns, indent)
    local out = {}
    for line in (text .. "\n"):gmatch("(.-)\n") do
        local lead, lines = line:match("^%s*"), {}
        local current, width = lead, #lead
        for gap, word in line:sub(#lead + 1):gmatch("(%s*)(%S+)") do
            if width + #gap + M.width(word) > columns and current:find("%S") then
                lines[#lines + 1] = current
                current, gap = lead .. (" "):rep(indent), ""
                width = #current
            end
            current = current .. gap .. word
            width = width + #gap + M.width(word)
        end
        lines[#lines + 1] = current
        out[#out + 1] = table.concat(lines, "\n")
    end
    return table.concat(out, "\n")
end

return M
