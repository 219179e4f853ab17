-- Bench: how fast the model runs, in tokens per second and as a share of what the machine can do.
--
-- A row of the table is a case: `tokens` random tokens for each of `batch` sequences that hold `depth` tokens already,
-- in passes of `rows` tokens of each. A sample times all its passes; then the sequences are rewound to the depth.
local ablation = require "moonloom.bench.ablation"
local columns = require "moonloom._core.columns"
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local peers = require "moonloom.bench.peer"
local progress = require "moonloom._core.progress"
local random = require "moonloom._core.random"
local statistics = require "moonloom.bench.statistics"
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

local MOST = 2 ^ 20 -- tokens of a list item
local PASS_ROWS = 2048 -- of a prefill pass at most
local VERIFY_PASSES = 8 -- of a sample: a single one is short
local SEED = 1

-- ---- what to measure

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

--- The cases that the arguments ask for, in the order of the table: depths ascending, each prefilled once.
function M.cases(args)
    local pp, tg = whole_numbers(args, "pp", 0), whole_numbers(args, "tg", 0)
    local greedy = whole_numbers(args, "greedy", 0)
    local verify, batches = whole_numbers(args, "verify", 1), whole_numbers(args, "batch", 1)
    local depths, cases = { unpack(whole_numbers(args, "depth", 0)) }, {}
    table.sort(depths)
    local function add(case)
        for _, threads in ipairs(thread_counts(args.scaling)) do
            local one = { threads = threads, batch = 1, want = true }
            for name, value in pairs(case) do one[name] = value end
            if one.tokens > 0 then cases[#cases + 1] = one end
        end
    end
    local function add_generation(name, counts, depth, want)
        for _, n in ipairs(counts) do
            for _, batch in ipairs(batches) do
                add { test = name .. n, depth = depth, tokens = n, rows = 1, batch = batch, want = want }
            end
        end
    end
    local function add_verify(depth, n)
        add { test = "verify" .. n, depth = depth, tokens = n * VERIFY_PASSES, rows = n, verify = n }
    end
    for i, depth in ipairs(depths) do
        if depth ~= depths[i - 1] then
            for _, n in ipairs(pp) do
                add { test = "pp" .. n, depth = depth, tokens = n, rows = math.min(n, PASS_ROWS), last_logits = true }
            end
            add_generation("tg", tg, depth)
            add_generation("greedy", greedy, depth, "best")
            if #verify > 0 then add_verify(depth, 1) end -- what the others are compared with
            for _, n in ipairs(verify) do
                if n > 1 then add_verify(depth, n) end
            end
        end
    end
    if #cases == 0 then
        moonloom.wrong_usage("bench: nothing to measure: give pp, tg, greedy or verify, and a depth")
    end
    return cases
end

-- ---- measuring

-- `count` token ids, the same in every run; another `stream` gives others.
local function random_ids(model, count, stream)
    local vocabulary, ids = model:config().vocabulary, {}
    for i = 1, count do ids[i] = math.floor(random.uniform(SEED, i, stream) * vocabulary) end
    return ids
end

-- What the passes of a case need: forks of a session that holds the depth, their next tokens, a batch.
local function new_stage(case, base)
    local stage = { sessions = {}, ids = {}, batch = base.model:batch(case.rows * case.batch) }
    for s = 1, case.batch do
        stage.sessions[s], stage.ids[s] = base:fork(), random_ids(base.model, case.tokens, s)
    end
    return stage
end

-- One pass: the next tokens of each sequence, from the one at `first` on. Returns what it read and multiplied.
local function pass(case, stage, first)
    local last, batch = math.min(first + case.rows - 1, case.tokens), stage.batch:clear()
    for s, session in ipairs(stage.sessions) do
        for i = first, last do
            batch:add(session, stage.ids[s][i], (not case.last_logits or i == case.tokens) and case.want)
        end
    end
    return batch:forward():work()
end

local function rewind(sessions, depth)
    for _, session in ipairs(sessions) do session:rewind(depth) end
end

-- All passes once: { seconds, weight_bytes, cache_bytes, operations }.
local function sample(case, stage, each)
    local sum, began = { weight_bytes = 0, cache_bytes = 0, operations = 0 }, moonloom.now()
    for first = 1, case.tokens, case.rows do
        local work = pass(case, stage, first)
        for name in pairs(sum) do sum[name] = sum[name] + work[name] end
        if case.verify then rewind(stage.sessions, case.depth) end
        each()
    end
    sum.seconds = (moonloom.now() - began) / 1000
    rewind(stage.sessions, case.depth)
    return sum
end

--- Takes the samples of a case for each of the variants (see moonloom.ablation), in turns; their base sessions hold
--- the depth. Each sample has the yardsticks before and after it.
function M.measure(case, variants, reps, sticks)
    moonloom.threads(case.threads)
    local passes = math.ceil(case.tokens / case.rows)
    local bar = progress.start { label = case.test, total = reps * #variants * passes }
    local stages, done = {}, 0
    local function each()
        done = done + 1
        bar:update(done)
    end
    interrupt.finally(function()
        bar:update(0)
        sticks:now() -- first, because it sweeps the processor's caches
        for _, variant in ipairs(variants) do
            local base = variant.base
            if not stages[base] then
                tuning.without(variant.off, function()
                    stages[base] = new_stage(case, base)
                    pass(case, stages[base], 1) -- warms up: pages of the KV cache, the weights in memory
                    rewind(stages[base].sessions, case.depth)
                end)
            end
        end
        for i = 1, reps do
            for _, variant in ipairs(variants) do
                local before, stage = sticks:now(), stages[variant.base]
                local taken = tuning.without(variant.off, function() return sample(case, stage, each) end)
                taken.before, taken.after = before, before
                variant.samples[i] = taken
                taken.after = sticks:now()
            end
        end
    end, function()
        bar:done()
        for _, stage in pairs(stages) do
            for _, session in ipairs(stage.sessions) do session:close() end
        end
    end)
end

-- Brings the base session to a depth.
local function deepen(base, depth)
    local ids, position = random_ids(base.model, depth, 0), base.position
    local more, bar = {}, progress.start { label = "reading", total = depth - position, unit = "tokens" }
    for i = position + 1, depth do more[#more + 1] = ids[i] end
    interrupt.finally(function()
        base:feed(more, { progress = function(fed) bar:update(fed) end })
    end, function() bar:done() end)
end

-- ---- rows

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

-- The rows of a case that has been measured, as far as there are samples: with everything on, then without each switch.
local function rows_of(case, variants, peer, singles)
    local rows = {}
    for _, variant in ipairs(variants) do
        if #variant.samples > 0 then rows[#rows + 1] = row_of(case, variant, peer) end
    end
    if rows[1] and case.verify then add_cost(rows[1], case, singles) end
    for i = 2, #rows do rows[i].loss = ablation.loss(rows[1].samples, rows[i].samples) end
    return rows
end

-- ---- the result

local Result = {}
Result.__index = Result

local short, percent = columns.short, columns.percent

-- The columns of the table; those at the end only where they were asked for.
local function columns_of(args)
    local list = {
        { "test", -8, function(row) return row.test end },
        { "depth", 7, function(row) return row.depth end },
        { "batch", 5, function(row) return row.batch end },
        { "t/s", 8, function(row) return short(row.mean) end },
        { "+- sd", 8, function(row) return short(row.sd) end },
        { "bandwidth", 9, function(row) return percent(row.bandwidth_share) end },
        { "peak", 8, function(row) return percent(row.peak_share) end },
    }
    if args.scaling then table.insert(list, 4, { "threads", 7, function(row) return row.threads end }) end
    if #args.ablate > 0 then
        table.insert(list, 4, { "off", -8, function(row) return row.off or "-" end })
        list[#list + 1] = { "loss", 7, function(row) return row.loss and percent(row.loss) end }
    end
    if #args.verify > 0 then
        list[#list + 1] = { "cost", 7, function(row) return row.cost and ("%.2f x"):format(row.cost) end }
    end
    if args.peer then
        list[#list + 1] = { "peer t/s", 8, function(row) return row.peer_mean and short(row.peer_mean) end }
        list[#list + 1] = { "ratio", 7, function(row) return row.peer_ratio and ("%.2f x"):format(row.peer_ratio) end }
    end
    return columns.new(list)
end

-- What was measured, and on what.
function Result:header()
    local model, machine = self.model, self.machine
    local lines = { ("model    %s: %s, %.2f million parameters, %s; a token reads %s"):format(model.name,
        model.architecture, model.parameters / 1e6, progress.amount(model.bytes, "B"),
        progress.amount(model.bytes_per_token, "B")),
        ("machine  %s, %s, threads: %d"):format(machine.cpu, machine.isa, machine.threads) }
    if machine.read_bandwidth then
        lines[2] = lines[2] .. ("; reads %.1f GB/s, multiplies %.1f GFLOP/s"):format(machine.read_bandwidth / 1e9,
            machine.multiply_peak / 1e9)
    end
    if self.peer then lines[#lines + 1] = "peer     " .. tostring(self.peer) end
    for _, variant in ipairs(self.variants) do
        if variant.off then lines[#lines + 1] = ("%-8s %s"):format(variant.off, variant.meaning) end
    end
    return table.concat(lines, "\n") .. "\n\n" .. self.columns:heading()
end

function Result:__tostring()
    local lines = { self:header() }
    for _, row in ipairs(self.rows) do lines[#lines + 1] = self.columns:line(row) end
    return table.concat(lines, "\n") .. (self.interrupted and "\n(interrupted)" or "")
end

function Result:summary()
    return ("%d rows in %.1f s%s"):format(#self.rows, self.seconds, self.interrupted and ", interrupted" or "")
end

function Result:json()
    return { machine = self.machine, model = self.model, rows = self.rows, interrupted = self.interrupted }
end

local function new_result(args, model, variants)
    local parameters = 0
    for _, tensor in ipairs(model.weights:tensors()) do
        local elements = 1
        for _, extent in ipairs(tensor.shape) do elements = elements * extent end
        parameters = parameters + elements
    end
    return setmetatable({
        machine = { cpu = moonloom.cpu(), isa = moonloom.isa(), threads = moonloom.threads() },
        model = {
            name = model.name, architecture = model:config().architecture, parameters = parameters,
            bytes = model.weights:bytes(), bytes_per_token = model:bytes_per_token(),
        },
        rows = {}, variants = variants, columns = columns_of(args), interrupted = false,
    }, Result)
end

-- Measures case after case into the result, telling each row.
local function measure_all(result, cases, reps, say)
    local sticks, singles = yardsticks.new(), {}
    local function look() -- the yardsticks of the whole run: the median
        result.machine.read_bandwidth, result.machine.multiply_peak = sticks:median(result.machine.threads)
    end
    sticks:now()
    look()
    say(result:header())
    for _, case in ipairs(cases) do
        for _, variant in ipairs(result.variants) do
            variant.samples = {}
            if case.depth > variant.base.position then
                tuning.without(variant.off, function() deepen(variant.base, case.depth) end)
            end
        end
        interrupt.finally(function() M.measure(case, result.variants, reps, sticks) end, function()
            look()
            for _, row in ipairs(rows_of(case, result.variants, result.peer, singles)) do
                result.rows[#result.rows + 1] = row
                say(result.columns:line(row))
            end
        end)
    end
end

function M.run(args, door)
    local cases, variants, began = M.cases(args), ablation.variants(args.ablate), moonloom.now()
    local model = moonloom.current(args.model)
    local result = new_result(args, model, variants)
    if args.peer then
        result.peer = peers.open(args.peer)
        result.peer:check(cases)
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
        result.interrupted = not interrupt.catch(measure_all, result, cases, args.reps, say)
    end, function()
        ablation.close(variants)
        moonloom.threads(result.machine.threads) -- as it was before --scaling
    end)
    result.seconds = (moonloom.now() - began) / 1000
    if result.interrupted then say("(interrupted)") end
    return result
end

return M
