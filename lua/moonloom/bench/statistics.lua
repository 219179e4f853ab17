--- Mean, standard deviation and median of a list of numbers that is not empty, and what may be said of the median of
--- what the list is a sample of. Nothing is assumed of its distribution.
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

local function sorted_copy(list)
    local sorted = {}
    for i, value in ipairs(list) do sorted[i] = value end
    table.sort(sorted)
    return sorted
end

--- The middle one; of an even number, halfway between the two in the middle.
function M.median(list)
    local sorted = sorted_copy(list)
    local half = math.floor(#sorted / 2)
    return #sorted % 2 == 1 and sorted[half + 1] or (sorted[half] + sorted[half + 1]) / 2
end

--- How likely at most `k` of `n` fair coins show heads; n up to 1000.
function M.at_most(k, n)
    local term, sum = 0.5 ^ n, 0
    for i = 0, math.min(k, n) do
        sum = sum + term
        term = term * (n - i) / (i + 1)
    end
    return sum
end

--- An interval that holds the median with a confidence of at least `level`, such as 0.95: low, high, and the confidence
--- it has. Its ends are the k-th smallest and the k-th largest number, for the largest k that will do: the sign test
--- turned round (W. R. Thompson, On confidence ranges for the median, Annals of Mathematical Statistics 7, 1936). Fewer
--- than six numbers cannot give 0.95: all of them then, with the confidence that this has.
function M.median_interval(list, level)
    local sorted, k = sorted_copy(list), 1
    local n = #sorted
    while 2 * (k + 1) <= n and 1 - 2 * M.at_most(k, n) >= level do k = k + 1 end
    return sorted[k], sorted[n + 1 - k], math.max(1 - 2 * M.at_most(k - 1, n), 0)
end

--- The sign test, two-sided: how likely `less` and `more` of as many coins would be this far apart or farther.
function M.sign_test(less, more)
    return math.min(1, 2 * M.at_most(math.min(less, more), less + more))
end

return M
