--- Lists of samplers, policies and the like: rows as a value, which prints a line each.
local arguments = require "moonloom.recipe.arguments"
local words = require "moonloom.recipe.words"

local M = {}

-- The list `rows`, printed with the signature of each in front of its summary.
local function shown(rows)
    return setmetatable(rows, { __tostring = function(self)
        local lines = {}
        for i, row in ipairs(self) do lines[i] = { row.signature, row.summary } end
        return table.concat(words.columns(lines), "\n")
    end })
end

--- The files of those names as rows { name, signature, summary, source, path }; `describe(name)` gives the table of one
--- and the path of its file, or raises where it cannot be loaded, which its row then says.
function M.of_files(names, describe)
    local rows = {}
    for i, name in ipairs(names) do
        local fine, value, path = pcall(describe, name)
        rows[i] = fine and { name = name, signature = arguments.signature(name, value.parameters),
            summary = value.summary or "", source = value.source, path = path }
            or { name = name, signature = name, summary = "(its file cannot be loaded)" }
    end
    return shown(rows)
end

return M
