--- "Did you mean": the known name that is nearest to a mistyped one.
local M = {}

-- Edits (insert, delete, replace, swap of neighbours) between two words: Damerau and Levenshtein's distance.
local function distance(a, b)
    local row, previous, before = {}
    for j = 0, #b do row[j] = j end
    for i = 1, #a do
        row, previous, before = { [0] = i }, row, previous
        for j = 1, #b do
            local same = a:byte(i) == b:byte(j)
            local cost = math.min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (same and 0 or 1))
            if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
                cost = math.min(cost, before[j - 2] + 1)
            end
            row[j] = cost
        end
    end
    return row[#b]
end

--- The name in `names` that `word` was probably meant to be, or nil.
function M.nearest(word, names)
    local best, fewest = nil, math.max(1, math.floor(#word / 3)) + 1
    for _, name in ipairs(names) do
        local edits = distance(word, name)
        if edits < fewest or #word >= 3 and name:sub(1, #word) == word and not best then
            best, fewest = name, math.min(edits, fewest)
        end
    end
    return best
end

--- "; did you mean 'x'?" or "".
function M.sentence(word, names)
    local nearest = M.nearest(word, names)
    return nearest and ("; did you mean '%s'?"):format(nearest) or ""
end

return M
