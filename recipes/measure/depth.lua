-- Depth: what a long context costs a token. Decodes behind many random tokens with plain, 8-bit and 4-bit pages, and
-- beside it with an empty cache, in turns, since the bandwidth of a shared machine changes by the minute.
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local prepare = require "moonloom.bench.prepare"
local progress = require "moonloom._core.progress"
local random = require "moonloom._core.random"

local M = {
    name = "depth",
    summary = "decode behind a long context, in plain, 8-bit and 4-bit pages, beside an empty cache, in turns",
    parameters = {
        { name = "tokens", type = "integer", default = 32768, min = 1, max = 2 ^ 24,
            doc = "of the context; random, not computed" },
        { name = "rounds", type = "integer", default = 15, min = 1, doc = "in each of which all take a turn" },
        { name = "passes", type = "integer", default = 6, min = 1, doc = "tokens of a turn" },
    },
}

local BANDWIDTH_MS = 40

local FORMATS = { { name = "16 bits", empty = true }, { name = "16 bits" }, { name = "8 bits", bits = 8 },
    { name = "4 bits", bits = 4 } }

local function begin(model, format, tokens)
    local session = model:session { kv = format.bits and { bits = format.bits } or false, prefixes = false }
    if format.empty then return session end
    prepare.fill(session, tokens, format.name)
    return session
end

-- Milliseconds a token and bytes a token of one turn, from the same position each time.
local function turn(batch, session, args, round)
    local position, bytes, began = session.position, 0, moonloom.now()
    for i = 1, args.passes do
        batch:clear()
        batch:add(session, math.floor(random.uniform(round, i, 0) * session.model:config().vocabulary), true)
        batch:forward()
        local work = batch:work()
        bytes = bytes + work.weight_bytes + work.cache_bytes
    end
    local ms = (moonloom.now() - began) / args.passes
    session:rewind(position)
    return ms, bytes / args.passes
end

local function median(samples)
    table.sort(samples)
    return samples[math.floor((#samples + 1) / 2)]
end

local Shown = {}
Shown.__index = Shown

function Shown:__tostring()
    local lines = { ("cache     depth   ms a token   t/s  bandwidth  beside depth 0  (medians of %d turns of %d)")
        :format(self.rounds, self.passes) }
    for _, row in ipairs(self.rows) do
        lines[#lines + 1] = ("%-8s %6d %12.2f %5.1f %8.1f %% %15.3f"):format(row.cache, row.depth, row.ms,
            1e3 / row.ms, row.bandwidth_share * 100, row.beside_empty)
    end
    return table.concat(lines, "\n")
end

function M.run(args)
    local model = moonloom.current(args.model)
    local batch, rows, sessions = model:batch(1), {}, {}
    local bar
    interrupt.finally(function()
        for i, format in ipairs(FORMATS) do
            sessions[i] = begin(model, format, args.tokens)
            rows[i] = { cache = format.name, depth = sessions[i].position, ms = {}, bandwidth_share = {},
                beside_empty = {} }
            turn(batch, sessions[i], args, 0)
        end
        bar = progress.start { label = "decoding", total = args.rounds, unit = "rounds" }
        for round = 1, args.rounds do
            for i, row in ipairs(rows) do
                local before = moonloom.bandwidth(BANDWIDTH_MS)
                local ms, bytes = turn(batch, sessions[i], args, round)
                local bandwidth = math.max(before, moonloom.bandwidth(BANDWIDTH_MS))
                row.ms[round] = ms
                row.bandwidth_share[round] = bytes / ms * 1e3 / bandwidth
                row.beside_empty[round] = rows[1].ms[round] / ms
            end
            bar:update(round)
        end
    end, function()
        if bar then bar:done() end
        for _, session in ipairs(sessions) do session:close() end
    end)
    for _, row in ipairs(rows) do
        for _, field in ipairs { "beside_empty", "bandwidth_share", "ms" } do row[field] = median(row[field]) end
    end
    return setmetatable({ tokens = args.tokens, rounds = args.rounds, passes = args.passes, rows = rows }, Shown)
end

return M
