--- Two contestants (see contestants.lua) beside each other: what was measured in pairs of runs, and what that says.
---
--- A pair is a run of each, one right after the other: what else happens on the machine hits both alike. Of each test
--- and quantity there are the medians of A and of B; the median of the ratios B / A of the pairs, with an interval that
--- holds it with 95 % confidence or more (statistics.lua); in how many pairs B had less, and how likely coins are to be
--- as far from even (the sign test): below 0.05 the two differ.
local columns = require "moonloom._core.columns"
local statistics = require "moonloom.bench.statistics"

local M = {}

local LEVEL = 0.95

local Comparison = {}
Comparison.__index = Comparison

--- A comparison without pairs, of two contestants.
function M.new(sides)
    return setmetatable({ sides = sides, runs = {}, instructions = {}, interrupted = false }, Comparison)
end

--- Takes up a pair: a run of each.
function Comparison:add(a, b)
    self.runs[#self.runs + 1] = { a, b }
end

--- Keys of the tests that both did, in the order of the table.
function Comparison:keys()
    local keys, first = {}, self.runs[1]
    for _, key in ipairs(first and first[1].order or {}) do
        if first[2].rows[key] then keys[#keys + 1] = key end
    end
    return keys
end

-- What the pairs say of a quantity ("rate", "share") of a test.
local function judge(runs, key, quantity)
    local a, b, ratios, less, more = {}, {}, {}, 0, 0
    for i, pair in ipairs(runs) do
        a[i], b[i] = pair[1].rows[key][quantity], pair[2].rows[key][quantity]
        ratios[i] = b[i] / a[i]
        if b[i] < a[i] then less = less + 1 end
        if b[i] > a[i] then more = more + 1 end
    end
    local low, high, confidence = statistics.median_interval(ratios, LEVEL)
    return { a = statistics.median(a), b = statistics.median(b), ratio = statistics.median(ratios), low = low,
        high = high, confidence = confidence, less = less, more = more, pairs = #runs, ratios = ratios,
        p = statistics.sign_test(less, more) }
end

--- { test, depth, batch, threads, off, speed =, bandwidth =, instructions = } of each test.
function Comparison:rows()
    local rows = {}
    for i, key in ipairs(self:keys()) do
        local first = self.runs[1][1].rows[key]
        local counted = self.instructions[key]
        rows[i] = { test = first.test, depth = first.depth, batch = first.batch, threads = first.threads,
            off = first.off, speed = judge(self.runs, key, "rate"), bandwidth = judge(self.runs, key, "share"),
            instructions = counted and { a = counted[1], b = counted[2], ratio = counted[2] / counted[1] } }
    end
    return rows
end

-- The lines of a test: one for each quantity.
local function lines_of(row)
    local list = { { "t/s", row.speed, columns.short }, { "bandwidth", row.bandwidth, columns.percent } }
    if row.instructions then
        list[3] = { "Minstr/t", row.instructions, function(value) return columns.short(value / 1e6) end }
    end
    for i, line in ipairs(list) do
        list[i] = { row = i == 1 and row or {}, what = line[1], judged = line[2], show = line[3] }
    end
    return list
end

local function table_of(rows)
    local scaled, ablated = false, false
    for _, row in ipairs(rows) do
        scaled, ablated = scaled or row.threads ~= rows[1].threads, ablated or row.off ~= nil
    end
    local list = {
        { "test", -8, function(line) return line.row.test end },
        { "depth", 6, function(line) return line.row.depth end },
        { "batch", 5, function(line) return line.row.batch end },
        { "", -9, function(line) return line.what end },
        { "A", 8, function(line) return line.show(line.judged.a) end },
        { "B", 8, function(line) return line.show(line.judged.b) end },
        { "B / A", 6, function(line) return ("%.3f"):format(line.judged.ratio) end },
        { "interval", 14, function(line)
            return line.judged.low and ("%.3f to %.3f"):format(line.judged.low, line.judged.high)
        end },
        { "B less", 7, function(line)
            return line.judged.less and ("%d of %d"):format(line.judged.less, line.judged.pairs)
        end },
        { "p", 5, function(line) return line.judged.p and ("%.3f"):format(line.judged.p) end },
    }
    if ablated then
        table.insert(list, 4, { "off", -8, function(line) return line.row.test and (line.row.off or "-") end })
    end
    if scaled then table.insert(list, 4, { "threads", 7, function(line) return line.row.threads end }) end
    return columns.new(list)
end

-- Who is compared, a line each.
function Comparison:header()
    local lines = {}
    for i, side in ipairs(self.sides) do
        local run = self.runs[1] and self.runs[1][i]
        local machine, model = run and run.machine, run and run.model
        lines[i] = ("%s  %s%s%s"):format(side.name, side.what, model and (": " .. model.name) or "",
            machine and (", %s, threads: %d"):format(machine.isa, machine.threads) or "")
    end
    return table.concat(lines, "\n")
end

-- "1 pair", "15 pairs".
local function pairs_of(comparison)
    return ("%d pair%s"):format(#comparison.runs, #comparison.runs == 1 and "" or "s")
end

function Comparison:__tostring()
    local rows, lines = self:rows(), { self:header(), "" }
    if #rows > 0 then
        local shown = table_of(rows)
        lines[#lines + 1] = shown:heading()
        for _, row in ipairs(rows) do
            for _, line in ipairs(lines_of(row)) do lines[#lines + 1] = shown:line(line) end
        end
        lines[#lines + 1] = ("\n%s; the interval holds the median ratio with %.1f %%"):format(pairs_of(self),
            rows[1].speed.confidence * 100)
    else
        lines[#lines + 1] = "no pair is complete"
    end
    if self.not_counted then lines[#lines + 1] = "instructions: not counted, " .. self.not_counted end
    if self.interrupted then lines[#lines + 1] = "(interrupted)" end
    return table.concat(lines, "\n")
end

function Comparison:summary()
    return pairs_of(self) .. (self.interrupted and ", interrupted" or "")
end

function Comparison:json()
    local sides = {}
    for i, side in ipairs(self.sides) do
        local run = self.runs[1] and self.runs[1][i] or {}
        sides[i] = { name = side.name, what = side.what, machine = run.machine, model = run.model }
    end
    return { sides = sides, pairs = #self.runs, rows = self:rows(), not_counted = self.not_counted,
        interrupted = self.interrupted }
end

return M
