--- Mean, standard deviation and median of a list of numbers that is not empty.
local M = {}

function M.mean(list)
    local sum = 0
    for _, value in ipairs(list) do sum = sum + value end
    return sum / #list
end

--- The standard deviation of what the list is a sample of (n - 1 in the denominator); 0 for a single number.
function M.sd(list)
    if #list == 1 then return 0 end
    local mean, sum = M.mean(list), 0
    for _, value in ipairs(list) do sum = sum + (value - mean) ^ 2 end
    return math.sqrt(sum / (#list - 1))
end

--- The middle one; of an even number, halfway between the two in the middle.
function M.median(list)
    local sorted = {}
    for i, value in ipairs(list) do sorted[i] = value end
    table.sort(sorted)
    local half = math.floor(#sorted / 2)
    return #sorted % 2 == 1 and sorted[half + 1] or (sorted[half] + sorted[half + 1]) / 2
end

return M
