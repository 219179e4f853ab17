--- Timing the cases of bench (see cases.lua): samples of all their passes, with the yardsticks of the machine around.
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local passes = require "moonloom.bench.passes"
local prepare = require "moonloom.bench.prepare"
local progress = require "moonloom._core.progress"
local random = require "moonloom._core.random"
local tuning = require "moonloom._core.tuning"

local M = {}

local SEED = 1

-- `count` token ids, the same in every run; another `stream` gives others.
local function random_ids(model, count, stream)
    local vocabulary, ids = model:config().vocabulary, {}
    for i = 1, count do ids[i] = math.floor(random.uniform(SEED, i, stream) * vocabulary) end
    return ids
end

local function ids_for(model, count)
    return function(stream) return random_ids(model, count, stream) end
end

-- All passes once: { seconds, weight_bytes, cache_bytes, operations }.
local function sample(case, stage, each)
    local sum, began = { weight_bytes = 0, cache_bytes = 0, operations = 0 }, moonloom.now()
    passes.all(case, stage, function(batch)
        local work = batch:work()
        for name in pairs(sum) do sum[name] = sum[name] + work[name] end
        each()
    end)
    sum.seconds = (moonloom.now() - began) / 1000
    return sum
end

--- Takes the samples of a case for each of the variants (see ablation.lua), in turns; their base sessions hold
--- the depth. Each sample has the yardsticks before and after it.
function M.case(case, variants, reps, sticks)
    moonloom.threads(case.threads)
    local steps = math.ceil(case.tokens / case.rows)
    local bar = progress.start { label = case.test, total = reps * #variants * steps }
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
                    stages[base] = passes.stage(case, base, ids_for(base.model, case.tokens))
                    passes.pass(case, stages[base], 1) -- warms up: pages of the KV cache, the weights in memory
                    passes.rewind(case, stages[base])
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

--- Brings the base session to a depth.
function M.deepen(base, depth)
    local ids, position = random_ids(base.model, depth, 0), base.position
    local more = {}
    for i = position + 1, depth do more[#more + 1] = ids[i] end
    prepare.read(base, more)
end

return M
