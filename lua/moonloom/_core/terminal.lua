--- What standard output and standard error are, and a few colours for them.
local uv = require "luv"

local M = {}

--- Whether descriptor `fd` (1 output, 2 errors) is a terminal.
function M.is_terminal(fd)
    return uv.guess_handle(fd) == "tty"
end

--- Whether colours are wanted there: a terminal that knows them, and NO_COLOR (no-color.org) is not set.
function M.has_colour(fd)
    local no_colour, term = os.getenv("NO_COLOR"), os.getenv("TERM")
    return M.is_terminal(fd) and (no_colour or "") == "" and term ~= nil and term ~= "dumb"
end

--- `text` in dim letters.
function M.dim(text)
    return "\27[2m" .. text .. "\27[22m"
end

-- From sure to unsure: plain, soft green, straw, ochre, soft red.
local scale = { { 0.9, nil }, { 0.5, 151 }, { 0.2, 187 }, { 0.05, 179 }, { 0, 174 } }

--- `text` tinted by the probability `p` of its token, if that is known; each line on its own, so that a pager may cut
--- between lines.
function M.tint(text, p)
    if not p then return text end
    for _, step in ipairs(scale) do
        if p >= step[1] then
            if not step[2] then return text end
            return (text:gsub("[^\n]+", ("\27[38;5;%dm%%0\27[39m"):format(step[2])))
        end
    end
    return text
end

--- `text` in quotes on one line, control characters and broken UTF-8 made visible.
function M.quote(text)
    local shown = require("moonloom.file.json").utf8(text):gsub("[%c\\\"]", function(char)
        local names = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }
        return names[char] or ("\\%d"):format(char:byte())
    end)
    return '"' .. shown .. '"'
end

return M
