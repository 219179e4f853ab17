-- Bench: how fast the model runs, in tokens per second and as a share of what the machine can do.
--
--     ./build.sh bench -m gpt-oss-20b.gguf                     pp512 and tg32, five samples of each
--     ./build.sh bench -m gpt-oss-20b.gguf --pp 512,2048 --tg 32 --depth 0,4096 --batch 1,20 --threads 2 --json
--
-- A row of the table is a case: `tokens` random tokens for each of `batch` sequences that hold `depth` tokens already,
-- in passes of `rows` tokens of each. A sample times all its passes; then the sequences are rewound to the depth, which
-- was read once. A pass that does not count goes first. Tokens are random, the same in every run. A row is there as
-- soon as it is measured; Ctrl-C keeps the rows that are there, and the exit code is 130.
--
--     test        pp512: a prompt of 512 tokens, logits of the last. tg32: 32 tokens one by one. greedy32: the same
--                 tokens, with the best next one alone instead of all logits. verify4: passes of 4 rows of one
--                 sequence, logits of all, as speculative decoding needs them
--     depth       tokens in the cache before that
--     batch       sequences that go through each pass together (tg and greedy only): forks of one, with own tokens
--     t/s, +- sd  tokens a second of all sequences together: mean and standard deviation of the samples
--     bandwidth   bytes of weights and cache that the passes read, a matrix or expert once a pass however many rows
--                 it served, per second, as a share of the read bandwidth
--     peak        multiplications and additions of matrices and attention, per second, as a share of the multiply peak
--     threads     with --scaling: every row with 1, 2, 4 ... threads
--     cost        with --verify: the time of a pass, as a multiple of the time of one row
--     off, loss   with --ablate: what was switched off, and how much slower that was
--     peer t/s, ratio   with --peer: what the peer measured, and how many times faster moonloom is
--
-- Decoding is bound by the bandwidth, prefill by the peak. Both are measured with the same threads in the same run,
-- again and again: each sample is compared with the better of the measurements just before and just after it (they are
-- up to two seconds old), and the column shows the median. On a shared machine this tells more than tokens a second do.
-- What comes out of the processor's caches comes faster than from memory: a small model, and the depth that the forks
-- of a batch share. Attention's reads count once for each row, though the rows of a prompt may share them. In --json
-- the rows also hold every sample, their median, and the bytes and operations of a sample.
--
-- --ablate switches the optimisations off, one after the other, and adds a row for each; all take turns, and `loss` is
-- the median over the rounds. --ablate integers,share takes only these; moonloom.tuning() says what each of them is.
-- Prefetches of weights are inside the kernels' loops and cannot be switched off; `huge` has sessions of its own;
-- `sketch` matters to greedy only. What makes no difference to a row shows the noise of the machine: `share` and
-- `flash` only matter to few and to many rows, and `share` from a depth of some hundred tokens on.
--
-- To compare with llama.cpp, let its own benchmark measure the same file with the same tests, depths and threads, on
-- the machine as it is now:
--
--     llama-bench -m gpt-oss-20b.gguf -p 512,2048 -n 32 -d 0,4096 -t 2 -r 5 -o json > peer.json
--     ./build.sh bench -m gpt-oss-20b.gguf --pp 512,2048 --tg 32 --depth 0,4096 --threads 2 --peer peer.json
--
-- Two builds, or a build and a peer in turns: `moonloom bench compare`. What was measured: BENCHMARKS.md.
local ablation = require "moonloom.bench.ablation"
local cases = require "moonloom.bench.cases"
local desk = require "moonloom.desk"
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
    result.streamed = desk.interactive or door.command and not door.json
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
