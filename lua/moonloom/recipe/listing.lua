--- Lists of samplers, policies and the like: rows as a value, which prints a line each.
local words = require "moonloom.recipe.words"

local M = {}

--- The list `rows`, printed with the field `key` of each in front of its summary.
function M.of(rows, key)
    return setmetatable(rows, { __tostring = function(self)
        local lines = {}
        for i, row in ipairs(self) do lines[i] = { row[key], row.summary } end
        return table.concat(words.columns(lines), "\n")
    end })
end

return M
