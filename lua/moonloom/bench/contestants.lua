--- Who takes part in a comparison: builds of moonloom, whose bench is run, and a peer, a command that prints what
--- llama-bench -o json does. Each run is a process of its own. A run is
---
---     { rows = { key -> row }, order = { key ... }, machine =, model = }
---
--- and a row { test, depth, batch, threads, off, rate (tokens per second, the median), share (of the read bandwidth
--- measured around it) }. A peer does not tell what a token of it reads: its share is of the bytes that A reads.
local arguments = require "moonloom.recipe.arguments"
local cases = require "moonloom.bench.cases"
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local peers = require "moonloom.bench.peer"
local process = require "moonloom.bench.process"
local yardsticks = require "moonloom.bench.yardsticks"

local M = {}

local function key_of(row)
    return ("%s %d %d %d %s"):format(row.test, row.depth, row.batch, row.threads, row.off or "-")
end

-- ---- a build

local Build = {}
Build.__index = Build

-- The bench of a build, run once: what it prints as JSON.
function Build:bench()
    local words = { self.program, "bench", "--json" }
    for _, word in ipairs(self.words) do words[#words + 1] = word end
    local out, problem, code = process.run(process.quote(words))
    if code == 2 then arguments.fail("%s: %s", self.name, problem) end
    if code ~= 0 then error(("%s: bench ended with %d: %s"):format(self.name, code, problem), 0) end
    local fine, got = pcall(json.decode, out)
    if not fine or type(got) ~= "table" or type(got.rows) ~= "table" or type(got.machine) ~= "table" then
        error(("%s: bench --json printed no result of bench"):format(self.name), 0)
    end
    return got
end

--- Runs it.
function Build:run()
    local got = self:bench()
    local run = { rows = {}, order = {}, machine = got.machine, model = got.model }
    for i, one in ipairs(got.rows) do
        local key = key_of(one)
        run.order[i] = key
        run.rows[key] = { test = one.test, depth = one.depth, batch = one.batch, threads = one.threads, off = one.off,
            rate = one.median, share = one.bandwidth_share, bytes = one.weight_bytes + one.cache_bytes }
    end
    return run
end

--- A run, beside that of A: the same.
function Build.beside(_, run)
    return run
end

local function new_build(name, folder, words)
    local program = folder:gsub("/+$", "") .. "/moonloom"
    local file = io.open(program, "r")
    if not file then arguments.fail("bench compare: there is no %s", program) end
    file:close()
    return setmetatable({ name = name, what = folder, program = program, words = words }, Build)
end

-- ---- a peer

local Peer = {}
Peer.__index = Peer

-- Tokens of each sequence in a sample of bench.
local function tokens_of(row)
    return cases.new(row.test, row.depth, row.batch, row.threads).tokens
end

--- Runs it, with the yardstick before and after.
function Peer:run()
    if self.threads then moonloom.threads(self.threads) end
    local sticks = yardsticks.new()
    local before = sticks:now()
    local out, problem, code = process.run(self.command)
    if code ~= 0 then error(("%s: the peer's command ended with %d: %s"):format(self.name, code, problem), 0) end
    return { found = peers.read("what the peer printed", out), bandwidth = yardsticks.best(before, sticks:now()) }
end

--- Its run beside that of A: the tests that A did, too.
function Peer.beside(_, run, first)
    local beside = { rows = {}, order = {}, model = { name = run.found.model } }
    for _, key in ipairs(first.order) do
        local row = first.rows[key]
        local theirs = not row.off and run.found:find(row)
        if theirs then
            local bytes = row.bytes / (tokens_of(row) * row.batch)
            beside.order[#beside.order + 1] = key
            beside.rows[key] = { rate = theirs.median, share = theirs.median * bytes / run.bandwidth }
        end
    end
    if #beside.order == 0 then
        local rows = {}
        for i, key in ipairs(first.order) do rows[i] = first.rows[key] end
        run.found:check(rows) -- raises what it has instead
    end
    return beside
end

-- ---- both

--- What of the words for bench is not bench's alone, as options of moonloom; and the number of threads, if they say.
function M.options(words)
    local known = { ["-m"] = "-m", ["--model"] = "-m", ["--load"] = "--load", ["--numa"] = "--numa",
        ["--precision"] = "--precision", ["--kv"] = "--kv", ["--kv-memory"] = "--kv-memory" }
    local options, threads = {}, nil
    for i, word in ipairs(words) do
        local name, value = tostring(word):match("^(%-%-?[%a-]+)=(.*)$")
        name, value = name or word, value or words[i + 1]
        if name == "--threads" then threads = tonumber(value) end
        if known[name] then
            options[#options + 1], options[#options + 2] = known[name], value
        end
    end
    return options, threads
end

--- The two that are compared: builds in these folders, or one and the peer that `command` runs. `words` are the words
--- for bench.
function M.open(folders, command, words)
    local wanted = command and 1 or 2
    if #folders ~= wanted then
        arguments.fail(command and "bench compare: with a peer, one --build is compared, not %d"
            or "bench compare needs --build twice, or once and --peer; there are %d", #folders)
    end
    local first = new_build("A", tostring(folders[1]), words)
    if not command then return { first, new_build("B", tostring(folders[2]), words) } end
    local _, threads = M.options(words)
    return { first, setmetatable({ name = "B", what = command, command = command, threads = threads }, Peer) }
end

--- A pair of runs, A first or B first, each() after both of them. Returns the run of A and that of B.
function M.pair(sides, b_first, each)
    local runs = {}
    for _, i in ipairs(b_first and { 2, 1 } or { 1, 2 }) do
        runs[i] = sides[i]:run()
        each()
    end
    return runs[1], sides[2]:beside(runs[2], runs[1])
end

return M
