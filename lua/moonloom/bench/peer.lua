--- What another program measured on the same model: the JSON that llama.cpp's llama-bench writes (`llama-bench -o
--- json`, tools/llama-bench/README.md there): an array of objects with n_prompt, n_gen, n_depth, n_threads, avg_ts,
--- stddev_ts, samples_ts (tokens per second), model_type, build_commit.
local json = require "moonloom.file.json"
local read_file = require "moonloom._core.read_file"
local statistics = require "moonloom.bench.statistics"

local M = {}

local Peer = {}
Peer.__index = Peer

local function number(path, i, entry, name, default)
    local value = entry[name]
    if value == nil then value = default end
    if type(value) == "number" and value >= 0 and value < math.huge then return value end
    error(("%s is no result of llama-bench -o json: %s of entry %d is not a number from 0 up"):format(path, name, i), 0)
end

-- The median of what samples_ts lists; the mean where it is not there.
local function median(entry, mean)
    local list = entry.samples_ts
    if type(list) ~= "table" or #list == 0 then return mean end
    for _, value in ipairs(list) do
        if type(value) ~= "number" then return mean end
    end
    return statistics.median(list)
end

-- One entry as { test, depth, threads, mean, median, sd }; nil for one that mixes prompt and generation.
local function read_entry(path, i, entry)
    if type(entry) ~= "table" then
        error(("%s is no result of llama-bench -o json: entry %d is not an object"):format(path, i), 0)
    end
    local prompt, made = number(path, i, entry, "n_prompt"), number(path, i, entry, "n_gen")
    local found = {
        test = made == 0 and ("pp%d"):format(prompt) or ("tg%d"):format(made),
        depth = number(path, i, entry, "n_depth", 0), -- not there before llama.cpp b5215
        threads = number(path, i, entry, "n_threads"),
        mean = number(path, i, entry, "avg_ts"),
        sd = number(path, i, entry, "stddev_ts"),
    }
    found.median = median(entry, found.mean)
    if found.mean == 0 then error(("%s: avg_ts of entry %d is 0: that run failed"):format(path, i), 0) end
    return (prompt == 0 or made == 0) and found or nil
end

local function read_all(path, text)
    local fine, list = pcall(json.decode, text)
    if not fine then
        error(("%s is no result of llama-bench -o json: %s"):format(path, tostring(list):gsub("%s+", " ")), 0)
    end
    if type(list) ~= "table" or #list == 0 then
        error(("%s is no result of llama-bench -o json: it is not an array of results"):format(path), 0)
    end
    return list
end

--- Reads the file at `path`. A damaged one raises a sentence that says what is wrong.
function M.open(path)
    return M.read(path, read_file(path, "the peer's results"))
end

--- The same of a text that is there already; sentences call it `path`.
function M.read(path, text)
    local rows = {}
    local list = read_all(path, text)
    for i, entry in ipairs(list) do rows[#rows + 1] = read_entry(path, i, entry) end
    local first = list[1]
    return setmetatable({
        path = path, rows = rows, model = tostring(first.model_type or "unknown model"),
        build = tostring(first.build_commit or "unknown"),
    }, Peer)
end

--- What the peer measured of a case { test, depth, batch, threads }: { mean, median, sd }, or nil. It knows one
--- sequence only, and of generation only tg: what greedy is compared with, too.
function Peer:find(case)
    local test = case.test:gsub("^greedy", "tg")
    for _, row in ipairs(self.rows) do
        if case.batch == 1 and row.test == test and row.depth == case.depth and row.threads == case.threads then
            return row
        end
    end
end

--- Raises a sentence unless the peer measured at least one of the cases.
function Peer:check(cases)
    for _, case in ipairs(cases) do
        if self:find(case) then return end
    end
    local words = {}
    for i, row in ipairs(self.rows) do
        words[i] = ("%s at depth %d, threads %d"):format(row.test, row.depth, row.threads)
    end
    error(("%s holds none of the tests asked for, only: %s"):format(self.path, table.concat(words, "; ")), 0)
end

function Peer:__tostring()
    return ("%s: build %s, %s"):format(self.path, self.build, self.model)
end

return M
