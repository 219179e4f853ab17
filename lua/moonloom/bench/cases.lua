--- What bench measures: a case is `tokens` tokens for each of `batch` sequences that hold `depth` tokens already, in
--- passes of `rows` tokens of each.
local moonloom = require "moonloom"

local M = {}

local MOST = 2 ^ 20 -- tokens of a list item
local PASS_ROWS = 2048 -- of a prefill pass at most
local VERIFY_PASSES = 8 -- of a sample: a single one is short

-- kind -> function(n) -> the fields of a case that are its own
local kinds = {
    pp = function(n) return { tokens = n, rows = math.min(n, PASS_ROWS), last_logits = true } end,
    tg = function(n) return { tokens = n, rows = 1 } end,
    greedy = function(n) return { tokens = n, rows = 1, want = "best" } end,
    verify = function(n) return { tokens = n * VERIFY_PASSES, rows = n, verify = n } end,
}

--- The case of a test such as "pp512", "tg32", "greedy32", "verify4"; nil if there is no such test.
function M.new(test, depth, batch, threads)
    local kind, n = test:match("^(%a+)(%d+)$")
    if not kinds[kind] then return nil end
    local case = kinds[kind](tonumber(n))
    case.test, case.depth, case.batch, case.threads = test, depth, batch, threads
    if case.want == nil then case.want = true end
    return case
end

local function whole_numbers(args, name, least)
    for _, value in ipairs(args[name]) do
        if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > MOST then
            moonloom.wrong_usage("bench: %s takes whole numbers from %d to %d, not '%s'", name, least, MOST,
                tostring(value))
        end
    end
    return args[name]
end

-- 1, 2, 4 ... and the threads in use; or those alone.
local function thread_counts(scaling)
    local most, list = moonloom.threads(), {}
    local count = scaling and 1 or most
    while count < most do
        list[#list + 1], count = count, count * 2
    end
    list[#list + 1] = most
    return list
end

--- The cases that the arguments of bench ask for, in the order of the table: depths ascending, each prefilled once.
function M.list(args)
    local pp, tg = whole_numbers(args, "pp", 0), whole_numbers(args, "tg", 0)
    local greedy = whole_numbers(args, "greedy", 0)
    local verify, batches = whole_numbers(args, "verify", 1), whole_numbers(args, "batch", 1)
    local depths, cases = { unpack(whole_numbers(args, "depth", 0)) }, {}
    table.sort(depths)
    local function add(kind, n, depth, batch)
        if n == 0 then return end
        for _, threads in ipairs(thread_counts(args.scaling)) do
            cases[#cases + 1] = M.new(kind .. n, depth, batch, threads)
        end
    end
    local function add_generation(kind, counts, depth)
        for _, n in ipairs(counts) do
            for _, batch in ipairs(batches) do add(kind, n, depth, batch) end
        end
    end
    for i, depth in ipairs(depths) do
        if depth ~= depths[i - 1] then
            for _, n in ipairs(pp) do add("pp", n, depth, 1) end
            add_generation("tg", tg, depth)
            add_generation("greedy", greedy, depth)
            if #verify > 0 then add("verify", 1, depth, 1) end -- what the others are compared with
            for _, n in ipairs(verify) do
                if n > 1 then add("verify", n, depth, 1) end
            end
        end
    end
    if #cases == 0 then
        moonloom.wrong_usage("bench: nothing to measure: give pp, tg, greedy or verify, and a depth")
    end
    return cases
end

return M
