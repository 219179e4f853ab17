-- Forks: goes back to random positions of a long timeline, by a fork and by a rewind. What that takes, how many pages
-- the first token of the new branch adds, and whether the logits are those of reading the beginning anew.
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local prepare = require "moonloom.bench.prepare"
local progress = require "moonloom._core.progress"
local random = require "moonloom._core.random"
local read_file = require "moonloom._core.read_file"

local M = {
    name = "forks",
    summary = "fork and rewind at random positions of a long timeline: time, memory, and the logits there",
    parameters = {
        { name = "tokens", type = "integer", default = 32768, min = 2, max = 2 ^ 24, doc = "length of the timeline" },
        { name = "positions", type = "integer", default = 100, min = 1, doc = "how many" },
        { name = "file", type = "path", doc = "text of the timeline, over and over; default: data/text.txt" },
        { name = "fill_random", type = "boolean", default = false,
            doc = "random tokens instead, which are not computed: no logits then" },
        { name = "seed", type = "integer", default = 1, doc = "of the positions" },
    },
}

local function read_ids(args, model)
    local path = args.file or moonloom.home .. "/data/text.txt"
    local found = model:tokenize(read_file(path, "the text"), { special = false })
    if #found == 0 then error(path .. " is empty", 0) end
    local ids = {}
    for i = 1, args.tokens do ids[i] = found[(i - 1) % #found + 1] end
    return ids
end

-- The timeline, under the policy of the day.
local function begin(args, model, ids)
    local session = model:session()
    if ids then prepare.read(session, ids) else prepare.fill(session, args.tokens) end
    return session
end

local function positions(args)
    local list = {}
    for i = 1, args.positions do list[i] = 1 + math.floor(random.uniform(args.seed, i, 0) * (args.tokens - 1)) end
    table.sort(list)
    return list
end

local TRIES = 3 -- of which the shortest counts: a machine has other things to do, too

-- Milliseconds of action(make()), which makes a session that nobody needs.
local function best_time(make, action)
    local best = math.huge
    for _ = 1, TRIES do
        local session = make()
        local began = moonloom.now()
        local made = action(session)
        best = math.min(best, moonloom.now() - began)
        made:close()
    end
    return best
end

-- The largest difference of two sets of logits, as tensors.
local function distance(a, b)
    local difference = a:sub(b)
    return math.max(math.abs(difference:max()), math.abs(difference:min()))
end

-- Goes back to `at` both ways. `fresh` holds the tokens before it, computed anew, or is nil.
local function go_back(result, session, at, fresh)
    local pages, layers = session:pages(), session.model:config().layers
    local fork_ms = best_time(function() return session end, function() return session:fork(at) end)
    local rewind_ms = best_time(function() return session:fork() end, function(whole) return whole:rewind(at) end)
    result.fork_ms, result.rewind_ms = math.max(result.fork_ms, fork_ms), math.max(result.rewind_ms, rewind_ms)
    local fork, whole = session:fork(at), session:fork():rewind(at)
    result.pages = math.max(result.pages, (session:pages() - pages) / layers)
    if fresh then
        local logits = fresh:logits():tensor()
        result.fork_apart = math.max(result.fork_apart or 0, distance(fork:logits():tensor(), logits))
        result.rewind_apart = math.max(result.rewind_apart or 0, distance(whole:logits():tensor(), logits))
    end
    whole:close()
    fork:close()
    pages = session:pages()
    fork = session:fork(at)
    fork:step(session:tokens()[at + 1])
    result.branch_pages = math.max(result.branch_pages, (session:pages() - pages) / layers)
    fork:close()
end

local Shown = {}
Shown.__index = Shown

function Shown:__tostring()
    local lines = {
        ("%d tokens, %d random positions, the worst of them (each the best of %d tries):"):format(self.tokens,
            self.positions, TRIES),
        ("  fork     %8.3f ms, %g pages a layer"):format(self.fork_ms, self.pages),
        ("  rewind   %8.3f ms; back to token %d with nobody else there: %.3f ms"):format(self.rewind_ms, self.last,
            self.alone_ms),
        ("  memory   %g pages a layer more when the new branch has gone on by a token"):format(self.branch_pages),
    }
    if self.fork_apart then
        lines[#lines + 1] = ("  logits   %.3g away from those of reading the beginning anew (fork), %.3g (rewind)")
            :format(self.fork_apart, self.rewind_apart)
    end
    return table.concat(lines, "\n")
end

function M.run(args)
    local model = moonloom.current(args.model)
    local ids = not args.fill_random and read_ids(args, model) or nil
    local session = begin(args, model, ids)
    local fresh = ids and model:session { prefixes = false, kv = false }
    local list = positions(args)
    local result = { tokens = args.tokens, positions = #list, fork_ms = 0, rewind_ms = 0, pages = 0, branch_pages = 0,
        last = list[1] }
    local bar = progress.start { label = "going back", total = #list, unit = "positions" }
    interrupt.finally(function()
        for i, at in ipairs(list) do
            if fresh and fresh.position < at then
                local part = {}
                for k = fresh.position + 1, at do part[#part + 1] = ids[k] end
                fresh:feed(part)
            end
            go_back(result, session, at, fresh)
            bar:update(i)
        end
        local began = moonloom.now()
        session:rewind(list[1])
        result.alone_ms = moonloom.now() - began
    end, function()
        bar:done()
        session:close()
        if fresh then fresh:close() end
    end)
    return setmetatable(result, Shown)
end

return M
