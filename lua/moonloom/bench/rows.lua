--- The rows of bench's table, made of the samples of a case (see measure.lua).
local ablation = require "moonloom.bench.ablation"
local statistics = require "moonloom.bench.statistics"
local yardsticks = require "moonloom.bench.yardsticks"

local M = {}

local function row_of(case, variant, peer)
    local row = { test = case.test, depth = case.depth, batch = case.batch, threads = case.threads, off = variant.off,
        samples = {} }
    local lists = { bandwidth_share = {}, peak_share = {}, weight_bytes = {}, cache_bytes = {}, operations = {} }
    for i, s in ipairs(variant.samples) do
        local bandwidth, peak = yardsticks.best(s.before, s.after)
        row.samples[i] = case.tokens * case.batch / s.seconds
        lists.bandwidth_share[i] = (s.weight_bytes + s.cache_bytes) / s.seconds / bandwidth
        lists.peak_share[i] = s.operations / s.seconds / peak
        for _, name in ipairs { "weight_bytes", "cache_bytes", "operations" } do lists[name][i] = s[name] end
    end
    for name, list in pairs(lists) do row[name] = statistics.median(list) end
    row.mean, row.sd = statistics.mean(row.samples), statistics.sd(row.samples)
    row.median = statistics.median(row.samples)
    local theirs = peer and not variant.off and peer:find(case)
    if theirs then row.peer_mean, row.peer_ratio = theirs.mean, row.mean / theirs.mean end
    return row
end

-- The time of a pass that verifies several rows, as a multiple of the time of one row.
local function add_cost(row, case, singles)
    local key = ("%d %d"):format(case.depth, case.threads)
    if case.verify == 1 then singles[key] = row.median end
    row.cost = case.verify * singles[key] / row.median
end

--- The rows of a case, as far as there are samples of it: with everything on, then without each switch.
--- `singles` is kept from case to case: what the cost of verifying several rows is a multiple of.
function M.of(case, variants, peer, singles)
    local rows = {}
    for _, variant in ipairs(variants) do
        if #variant.samples > 0 then rows[#rows + 1] = row_of(case, variant, peer) end
    end
    if rows[1] and case.verify then add_cost(rows[1], case, singles) end
    for i = 2, #rows do rows[i].loss = ablation.loss(rows[1].samples, rows[i].samples) end
    return rows
end

return M
