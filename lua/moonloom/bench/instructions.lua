--- Instructions that a token takes, counted by perf(1) in the program's own code: those of a case's passes done twice,
--- less those of them done once. What else the program does, such as opening the model, falls out.
local cases = require "moonloom.bench.cases"
local moonloom = require "moonloom"
local process = require "moonloom.bench.process"

local M = {}

local FOLDER = moonloom.home .. "/lua/moonloom/bench"

-- Instructions of a command in user mode; nil and a sentence where they cannot be counted.
local function count(words)
    local path = os.tmpname()
    local _, problem, code = process.run(("perf stat -x, -e instructions:u -o %s -- %s"):format(path,
        process.quote(words)))
    local file = assert(io.open(path))
    local text = file:read("*a")
    file:close()
    os.remove(path)
    local counted = tonumber(text:match("(%d+),[^\n]*instructions"))
    if code == 0 and counted then return counted end
    if code == 127 then return nil, "perf is not installed" end
    return nil, code ~= 0 and problem or "this machine does not let perf count instructions"
end

--- Whether instructions can be counted here; else false and a sentence.
function M.available()
    local counted, problem = count { "true" }
    return counted ~= nil, problem
end

--- Instructions a token of `row` { test, depth, batch, threads } in a build: `program`, with these options of
--- moonloom. nil and a sentence if that failed.
function M.per_token(program, options, row)
    local case, counts = cases.new(row.test, row.depth, row.batch, row.threads), {}
    for times = 1, 2 do
        local words = { program }
        for _, word in ipairs(options) do words[#words + 1] = word end
        for _, word in ipairs { FOLDER .. "/count.lua", FOLDER, row.test, row.depth, row.batch, row.threads, times } do
            words[#words + 1] = word
        end
        local problem
        counts[times], problem = count(words)
        if not counts[times] then return nil, problem end
    end
    return (counts[2] - counts[1]) / (case.tokens * case.batch)
end

return M
