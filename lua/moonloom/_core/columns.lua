--- A table of text whose lines are written as they come, so its columns have fixed widths.
--
--     local shown = columns.new { { "test", -8, function(row) return row.test end }, ... }
--     print(shown:heading())
--     print(shown:line(row))
--
-- A column is { heading, width (negative: to the left), function(row) -> text or nil for an empty cell }.
local M = {}

local Columns = {}
Columns.__index = Columns

function M.new(list)
    return setmetatable(list, Columns)
end

local function join(self, cell)
    local cells = {}
    for i, column in ipairs(self) do cells[i] = ("%" .. column[2] .. "s"):format(cell(column)) end
    return (table.concat(cells, "  "):gsub("%s+$", ""))
end

function Columns:heading()
    return join(self, function(column) return column[1] end)
end

function Columns:line(row)
    return join(self, function(column) return column[3](row) or "" end)
end

--- A positive number in about four digits: 12345, 678.9, 12.34.
function M.short(value)
    return (value >= 1000 and "%.0f" or value >= 100 and "%.1f" or "%.2f"):format(value)
end

--- A share as a percentage.
function M.percent(share)
    return ("%.1f %%"):format(share * 100)
end

return M
