-- The benchmark recipe: its contract, statistics, the peer's file. No test here looks at how fast anything is.
local C = require("moonloom._core.ffi").C
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local peer = require "moonloom.bench.peer"
local prompts = require "helpers.prompt"
local recipe = require "moonloom.recipe.live"
local run = require "helpers.command"
local statistics = require "moonloom.bench.statistics"
local yardsticks = require "moonloom.bench.yardsticks"

local bench = recipe.get("bench")

-- f(path) with a file of that text.
local function with_file(text, f)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    local fine, problem = pcall(f, path)
    os.remove(path)
    if not fine then error(problem, 0) end
end

local function names(rows)
    local list = {}
    for i, row in ipairs(rows) do list[i] = ("%s %d %d"):format(row.test, row.depth, row.batch) end
    return list
end

local function positive(value, what)
    assert.is_true(type(value) == "number" and value > 0 and value < math.huge, what .. " is " .. tostring(value))
end

-- What llama-bench -o json writes, shortened.
local function results(entries)
    for _, entry in ipairs(entries) do
        for name, value in pairs { build_commit = "3f545becc", model_type = "llama ?B all F32", n_prompt = 0,
            n_gen = 0, n_depth = 0, n_threads = 1, stddev_ts = 2.5 } do
            if entry[name] == nil then entry[name] = value end
        end
    end
    return json.encode(entries)
end

describe("statistics", function()
    it("knows mean, deviation and median", function()
        local list = { 9, 2, 4, 4, 5, 7, 4, 5 }
        assert.equal(5, statistics.mean(list))
        assert.is_true(math.abs(statistics.sd(list) - math.sqrt(32 / 7)) < 1e-12)
        assert.equal(4.5, statistics.median(list))
        assert.equal(9, list[1])
        assert.equal(4, statistics.median { 9, 1, 4 })
        assert.equal(0, statistics.sd { 3 })
        assert.equal(3, statistics.median { 3 })
    end)
end)

describe("yardsticks", function()
    it("are fresh for a while, of the threads in use, and the better one counts", function()
        local before, sticks = moonloom.threads(), yardsticks.new()
        moonloom.threads(1)
        local one = sticks:now()
        moonloom.threads(2)
        local two = sticks:now()
        assert.equal(two, sticks:now())
        moonloom.threads(before)
        assert.same({ 1, 2 }, { one.threads, two.threads })
        assert.same({ one.read_bandwidth, one.multiply_peak }, { sticks:median(1) })
        assert.is_nil(sticks:median(3))
        assert.same({ 5, 7 }, { yardsticks.best({ read_bandwidth = 5, multiply_peak = 6 },
            { read_bandwidth = 4, multiply_peak = 7 }) })
    end)
end)

describe("bench", function()
    it("keeps the contract of --json", function()
        local out, err, code = run("bench --pp 24,8 --tg 3 --depth 70,0,70 --batch 1,3 --verify 2 --reps 2 --threads 2 "
            .. "--json")
        assert.same({ 0, "" }, { code, err })
        assert.equal(1, select(2, out:gsub("\n", "")))
        local got = json.decode(out)
        assert.is_false(got.interrupted)
        assert.same({ "pp24 0 1", "pp8 0 1", "tg3 0 1", "tg3 0 3", "verify1 0 1", "verify2 0 1", "pp24 70 1",
            "pp8 70 1", "tg3 70 1", "tg3 70 3", "verify1 70 1", "verify2 70 1" }, names(got.rows))
        for _, row in ipairs(got.rows) do
            assert.equal(2, #row.samples)
            assert.equal(2, row.threads)
            for _, name in ipairs { "mean", "median", "bandwidth_share", "peak_share", "weight_bytes", "cache_bytes",
                "operations" } do
                positive(row[name], row.test .. " " .. name)
            end
            assert.is_true(math.abs(row.mean - (row.samples[1] + row.samples[2]) / 2) < 1e-6 * row.mean)
            assert.is_true(row.sd >= 0)
        end
        assert.equal("string", type(got.machine.cpu))
        assert.equal(moonloom.isa(), got.machine.isa)
        assert.equal(2, got.machine.threads)
        positive(got.machine.read_bandwidth, "read_bandwidth")
        positive(got.machine.multiply_peak, "multiply_peak")
        assert.equal("gpt-oss", got.model.architecture)
        assert.equal(4353784, got.model.parameters)
        assert.equal(moonloom.current():bytes_per_token(), got.model.bytes_per_token)
        assert.is_true(got.model.bytes > got.model.bytes_per_token)
    end)

    it("counts the work of what it timed", function()
        local got = bench { pp = { 24 }, tg = { 3 }, depth = { 0, 70 }, batch = { 1, 3 }, verify = { 2, 1 }, reps = 1 }
        local row = {}
        for _, one in ipairs(got.rows) do row[("%s %d %d"):format(one.test, one.depth, one.batch)] = one end
        assert.equal(10, #got.rows)
        local token = moonloom.current():bytes_per_token()
        local function near(expected, actual)
            assert.is_true(math.abs(actual - expected) < 0.05 * expected, ("%g, not %g"):format(actual, expected))
        end
        near(3 * token, row["tg3 0 1"].weight_bytes)
        assert.is_true(row["tg3 0 3"].weight_bytes < 3 * row["tg3 0 1"].weight_bytes)
        near(3 * row["tg3 70 1"].cache_bytes, row["tg3 70 3"].cache_bytes)
        near(3 * row["tg3 0 1"].operations, row["tg3 0 3"].operations)
        near(2 * row["verify1 0 1"].operations, row["verify2 0 1"].operations)
        -- keys and values, bf16, 2 heads of 32, 4 layers: positions 1, 2, 3, and the same after 70 others
        assert.equal(4 * 2 * 2 * 32 * 2 * (1 + 2 + 3), row["tg3 0 1"].cache_bytes)
        assert.equal(4 * 2 * 2 * 32 * 2 * (71 + 72 + 73), row["tg3 70 1"].cache_bytes)
        assert.equal(1, row["verify1 0 1"].cost)
        positive(row["verify2 70 1"].cost, "cost")
        assert.is_nil(row["tg3 0 1"].cost)
    end)

    it("prints a table, with threads and the peer where asked for", function()
        with_file(results { { n_prompt = 8, avg_ts = 10 }, { n_gen = 2, avg_ts = 5 } }, function(path)
            local out, err, code = run("bench --pp 8 --tg 2,0 --batch 1,2 --reps 1 --threads 2 --scaling --peer "
                .. path)
            assert.same({ 0, "" }, { code, err })
            local lines = {}
            for line in out:gmatch("[^\n]*") do
                if line ~= "" then lines[#lines + 1] = line end
            end
            assert.equal(3 + 1 + 6, #lines)
            assert.truthy(lines[1]:find("gpt-oss, 4.35 million parameters", 1, true))
            assert.truthy(lines[2]:find("threads: 2; reads", 1, true))
            assert.truthy(lines[3]:find("build 3f545becc, llama ?B all F32", 1, true))
            assert.equal("test depth batch threads t/s +- sd bandwidth peak peer t/s ratio",
                (lines[4]:gsub("%s+", " ")))
            assert.truthy(lines[5]:find("^pp8 +0 +1 +1 .* 10%.00 +[%d.]+ x$")) -- one thread, as the peer
            assert.truthy(lines[6]:find("^pp8 +0 +1 +2 .* %%$"))
            assert.truthy(lines[9]:find("^tg2 +0 +2 +1 .* %%$")) -- the peer knows one sequence only
        end)
    end)

    it("gives a value that shows the table, and leaves the threads as they were", function()
        local before = moonloom.threads()
        local got = bench { pp = { 4 }, tg = {}, reps = 1, scaling = true }
        assert.equal(before, moonloom.threads())
        assert.equal(before, got.machine.threads)
        assert.truthy(tostring(got):find("\npp4 ", 1, true))
        assert.truthy(got:summary():find("^%d+ rows in "))
        assert.is_false(got.streamed)
    end)

    it("keeps the rows that are there after Ctrl-C", function()
        local value = require "moonloom.bench.measure"
        local measure, cases = value.case, 0
        value.case = function(...)
            cases = cases + 1
            if cases == 2 then C.ml_interrupt_set(1) end
            return measure(...)
        end
        local fine, got = pcall(bench, { pp = { 4 }, tg = { 2 }, depth = { 0, 9 }, reps = 1 })
        value.case = measure
        C.ml_interrupt_set(0)
        assert.is_true(fine, tostring(got))
        assert.same({ "pp4 0 1" }, names(got.rows))
        assert.is_true(got.interrupted)
        assert.truthy(tostring(got):find("(interrupted)", 1, true))
        positive(got.machine.read_bandwidth, "read_bandwidth")
        assert.equal(0, C.ml_interrupt_pending())
    end)

    it("stops for a person's Ctrl-C, takes its bar away and writes what is there", function()
        if not prompts.available then return pending("no pseudo terminals here: is /dev/pts mounted?") end
        local prompt = prompts.new()
        local path = prompt.folder .. "/out"
        local words = "bench --pp 8 --tg 0 --depth 0,200000 --reps 2 --json"
        local session = prompt:run { "/bin/sh", "-c", ("exec %s %s >%s"):format(prompts.program, words, path) }
        session:expect("reading %[[#.]*%] +%d+%%")
        session:send("\3")
        local code = session:wait()
        local file = assert(io.open(path))
        local out, raw = file:read("*a"), session.raw
        file:close()
        prompt:close()
        assert.equal(130, code, raw)
        local got = json.decode(out)
        assert.same({ "pp8 0 1" }, names(got.rows))
        assert.is_true(got.interrupted)
        assert.equal("\r\27[K", raw:sub(-4))
    end)

    it("exits with 2 after wrong usage", function()
        for words, sentence in pairs {
            ["--pp 8.5"] = "pp takes whole numbers from 0 to 1048576, not '8.5'",
            ["--tg many"] = "tg takes whole numbers",
            ["--depth=-1"] = "depth takes whole numbers",
            ["--batch 0"] = "batch takes whole numbers from 1",
            ["--verify 0"] = "verify takes whole numbers from 1",
            ["--pp 0 --tg 0"] = "nothing to measure",
            ["--reps 0"] = "at least 1",
            ["--thread 1"] = "did you mean '--threads'?",
        } do
            local out, err, code = run("bench " .. words)
            assert.same({ 2, "" }, { code, out }, words)
            assert.truthy(err:find(sentence, 1, true), err)
        end
    end)
end)

describe("interrupt.finally", function()
    local interrupt = require "moonloom._core.interrupt"

    it("cleans up whatever happens, then goes on with what happened", function()
        local cleaned = 0
        local function cleanup() cleaned = cleaned + 1 end
        interrupt.finally(function() end, cleanup)
        assert.has_error(function() interrupt.finally(function() error("broken", 0) end, cleanup) end, "broken")
        assert.is_false(interrupt.catch(interrupt.finally, function() error(interrupt.error, 0) end, cleanup))
        assert.is_false(interrupt.catch(interrupt.finally, function() C.ml_interrupt_set(1) end, function()
            assert.equal(0, C.ml_interrupt_pending()) -- so that it can still use the core
            cleanup()
        end))
        assert.equal(4, cleaned)
        assert.equal(0, C.ml_interrupt_pending())
    end)
end)

describe("a peer's file", function()
    it("is found by test, depth and threads", function()
        with_file(results {
            { n_prompt = 512, avg_ts = 8.7, n_threads = 2 }, { n_gen = 32, avg_ts = 5.5, n_depth = 4096 },
            { n_prompt = 512, n_gen = 32, avg_ts = 6 },
        }, function(path)
            local found = peer.open(path)
            assert.equal(2, #found.rows)
            local pp = found:find { test = "pp512", depth = 0, batch = 1, threads = 2 }
            assert.same({ 8.7, 2.5 }, { pp.mean, pp.sd })
            assert.equal(5.5, found:find({ test = "tg32", depth = 4096, batch = 1, threads = 1 }).mean)
            for _, other in ipairs { { test = "pp512", depth = 0, batch = 1, threads = 1 },
                { test = "tg32", depth = 0, batch = 1, threads = 1 },
                { test = "tg32", depth = 4096, batch = 20, threads = 1 } } do
                assert.is_nil(found:find(other))
            end
        end)
    end)

    it("is refused in one sentence where it is damaged or of no use", function()
        local whole = results { { n_prompt = 512, avg_ts = 8.7 } }
        for text, sentence in pairs {
            [""] = "not JSON",
            [whole:sub(1, -3)] = "not JSON",
            ["[]"] = "not an array of results",
            ['{"avg_ts": 1}'] = "not an array of results",
            ["17"] = "not an array of results",
            ["[1]"] = "entry 1 is not an object",
            ["[{}]"] = "n_prompt of entry 1",
            ['[{"n_prompt":512,"n_gen":0,"n_threads":2,"avg_ts":"fast","stddev_ts":1}]'] = "avg_ts of entry 1",
            ['[{"n_prompt":512,"n_gen":0,"n_threads":2,"avg_ts":-1,"stddev_ts":1}]'] = "avg_ts of entry 1",
            [results { { n_prompt = 512, avg_ts = 0 } }] = "avg_ts of entry 1 is 0",
            [whole] = "only: pp512 at depth 0, threads 1",
        } do
            with_file(text, function(path)
                local out, err, code = run("bench --pp 8 --peer " .. path)
                assert.same({ 1, "" }, { code, out }, text)
                assert.truthy(err:find(sentence, 1, true), err)
                assert.truthy(err:find(path, 1, true), err)
                assert.equal(1, select(2, err:gsub("\n", "")), err)
            end)
        end
        assert.error_matches(function() peer.open("/no/such/file") end, "/no/such/file")
        assert.error_matches(function() peer.open("/") end, "cannot be read")
    end)
end)
