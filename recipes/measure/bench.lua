-- Bench: how fast the model runs, in tokens per second and as a share of what the machine can do.
--
-- A row of the table is a case: `tokens` random tokens for each of `batch` sequences that hold `depth` tokens already,
-- in passes of `rows` tokens of each. A sample times all its passes; then the sequences are rewound to the depth.
local ablation = require "moonloom.bench.ablation"
local cases = require "moonloom.bench.cases"
local interrupt = require "moonloom._core.interrupt"
local measure = require "moonloom.bench.measure"
local moonloom = require "moonloom"
local peers = require "moonloom.bench.peer"
local results = require "moonloom.bench.result"
local rows = require "moonloom.bench.rows"
local tuning = require "moonloom._core.tuning"
local yardsticks = require "moonloom.bench.yardsticks"

local M = {
    name = "bench",
    summary = "measure speed: tokens per second, shares of the read bandwidth and of the multiply peak",
    parameters = {
        { name = "pp", type = "list", default = { 512 }, doc = "prompt lengths; 0 for none (default 512)" },
        { name = "tg", type = "list", default = { 32 }, doc = "tokens to generate; 0 for none (default 32)" },
        { name = "greedy", type = "list", default = {}, doc = "the same, with the best token alone, not all logits" },
        { name = "depth", type = "list", default = { 0 }, doc = "tokens before that (default 0)" },
        { name = "batch", type = "list", default = { 1 }, doc = "sequences that generate at once (default 1)" },
        { name = "verify", type = "list", default = {}, doc = "rows of one sequence in a pass, and what that costs" },
        { name = "reps", type = "integer", default = 5, min = 1, max = 1000, doc = "samples of each row" },
        { name = "scaling", type = "boolean", default = false, doc = "every row with 1, 2, 4 ... threads" },
        { name = "ablate", type = "list", default = {}, bare = { "all" }, doc = "every row with optimisations "
            .. "switched off one after the other: these, or all" },
        { name = "peer", type = "path", doc = "what llama-bench -o json wrote, to compare with" },
    },
}

-- Measures case after case into the result, telling each row.
local function measure_all(result, list, reps, say)
    local sticks, singles = yardsticks.new(), {}
    local function look() -- the yardsticks of the whole run: the median
        result.machine.read_bandwidth, result.machine.multiply_peak = sticks:median(result.machine.threads)
    end
    sticks:now()
    look()
    say(result:header())
    for _, case in ipairs(list) do
        for _, variant in ipairs(result.variants) do
            variant.samples = {}
            if case.depth > variant.base.position then
                tuning.without(variant.off, function() measure.deepen(variant.base, case.depth) end)
            end
        end
        interrupt.finally(function() measure.case(case, result.variants, reps, sticks) end, function()
            look()
            for _, row in ipairs(rows.of(case, result.variants, result.peer, singles)) do
                result.rows[#result.rows + 1] = row
                say(result.columns:line(row))
            end
        end)
    end
end

function M.run(args, door)
    local list, variants, began = cases.list(args), ablation.variants(args.ablate), moonloom.now()
    local model = moonloom.current(args.model)
    local result = results.new(args, model, variants)
    if args.peer then
        result.peer = peers.open(args.peer)
        result.peer:check(list)
    end
    result.streamed = moonloom.interactive or door.command and not door.json
    local function say(line)
        if not result.streamed then return end
        io.stdout:write(line, "\n")
        io.stdout:flush()
    end
    interrupt.finally(function()
        ablation.open(variants, model)
        -- Ctrl-C ends it with what is there.
        result.interrupted = not interrupt.catch(measure_all, result, list, args.reps, say)
    end, function()
        ablation.close(variants)
        moonloom.threads(result.machine.threads) -- as it was before --scaling
    end)
    result.seconds = (moonloom.now() - began) / 1000
    if result.interrupted then say("(interrupted)") end
    return result
end

return M
