-- Bench compare: which of two builds is faster, or a build or a peer.
--
--     moonloom bench compare --build before/build --build build --pairs 15 -- -m big.gguf --pp 512 --tg 32 --reps 1
--     moonloom bench compare --build build --peer "llama-bench -m big.gguf -p 512 -n 32 -o json" -- -m big.gguf
--
-- Both are run in pairs, first A then B, in the next pair first B then A: a machine that others use too is not equally
-- fast from one minute to the next, but nearly so within a pair.
local comparisons = require "moonloom.bench.comparison"
local contestants = require "moonloom.bench.contestants"
local instructions = require "moonloom.bench.instructions"
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local progress = require "moonloom._core.progress"

local M = {
    name = "bench_compare",
    summary = "compare the speed of two builds, or of a build and another program, in pairs of runs",
    parameters = {
        { name = "build", type = "list", split = false, required = true, doc = "folder with a moonloom in it: the "
            .. "first is A, the second B" },
        { name = "peer", type = "string", doc = "instead of the second: a command that prints what llama-bench -o "
            .. "json does" },
        { name = "pairs", type = "integer", default = 15, min = 1, max = 1000, doc = "runs of each" },
        { name = "count", type = "boolean", default = true, doc = "count instructions a token, where perf can" },
        { name = "words", type = "list", split = false, positional = true, default = {}, doc = "for bench, after --" },
    },
}

-- What this moonloom was asked for, as words for the bench of another one.
local function options_here(model)
    if moonloom.store() then moonloom.wrong_usage("bench compare: --kv-store has no effect on bench") end
    local path = type(model) == "table" and model.path or model or moonloom.path()
    local words = { "-m", path, "--threads", moonloom.threads(), "--load", moonloom.loading(),
        "--numa", (moonloom.numa()), "--precision", moonloom.precision() }
    local function add(name, value)
        words[#words + 1], words[#words + 2] = name, value
    end
    if type(moonloom.kv()) == "table" then moonloom.wrong_usage("bench compare: kv must be a name or a file") end
    if moonloom.kv() then add("--kv", moonloom.kv()) end
    if moonloom.kv_memory() > 0 then add("--kv-memory", ("%d"):format(moonloom.kv_memory())) end
    return words
end

-- Instructions a token of both builds in each test.
local function count(comparison, sides, options)
    for _, key in ipairs(comparison:keys()) do
        local row, counted = comparison.runs[1][1].rows[key], {}
        for i, side in ipairs(row.off and {} or sides) do
            counted[i], comparison.not_counted = instructions.per_token(side.program, options, row)
            if not counted[i] then return end
        end
        if counted[2] then comparison.instructions[key] = counted end
    end
end

-- All pairs, then the counting.
local function compare(comparison, sides, args, words)
    local bar, done = progress.start { label = "comparing", total = 2 * args.pairs, unit = "runs" }, 0
    interrupt.finally(function()
        bar:update(0)
        for pair = 1, args.pairs do
            comparison:add(contestants.pair(sides, pair % 2 == 0, function()
                done = done + 1
                bar:update(done)
            end))
        end
        if args.count and comparison.not_counted == nil then count(comparison, sides, (contestants.options(words))) end
    end, function() bar:done() end)
end

function M.run(args)
    local words = options_here(args.model)
    for _, word in ipairs(args.words) do words[#words + 1] = tostring(word) end
    local sides = contestants.open(args.build, args.peer, words)
    local comparison = comparisons.new(sides)
    if args.count and args.peer then
        comparison.not_counted = "a peer's tests cannot be run one by one"
    elseif args.count then
        comparison.not_counted = select(2, instructions.available())
    end
    -- Ctrl-C ends it with the pairs that are complete.
    comparison.interrupted = not interrupt.catch(compare, comparison, sides, args, words)
    return comparison
end

return M
