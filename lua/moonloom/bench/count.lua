--- The passes of a case, so many times: a script that instructions.lua runs under perf in each build that is compared.
---
---     moonloom -m FILE count.lua FOLDER TEST DEPTH BATCH THREADS TIMES
---
--- FOLDER is where this stands. The build may be an older one, so this script, cases.lua and passes.lua get along with
--- `require "moonloom"` and what models, sessions and batches can do.
local folder, test, depth, batch, threads, times = ...
local moonloom = require "moonloom"
local cases, passes = dofile(folder .. "/cases.lua"), dofile(folder .. "/passes.lua")

moonloom.threads(tonumber(threads))
moonloom.tuning("spin", false) -- how long threads wait is no property of the program
local model = moonloom.current()
local vocabulary = model:config().vocabulary

local function ids(count, stream)
    local list = {}
    for i = 1, count do list[i] = (i * 7919 + stream * 104729) % vocabulary end
    return list
end

local case = cases.new(test, tonumber(depth), tonumber(batch), tonumber(threads))
local base = model:session { prefixes = false }
if case.depth > 0 then base:feed(ids(case.depth, 0)) end
local stage = passes.stage(case, base, function(stream) return ids(case.tokens, stream) end)
for _ = 1, times do passes.all(case, stage, function() end) end
