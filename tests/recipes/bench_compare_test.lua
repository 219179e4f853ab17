-- The comparison of builds: what it says of pairs, its contract, its peers. No test here looks at how fast anything is.
local comparisons = require "moonloom.bench.comparison"
local folder = require "helpers.folder"
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local prompts = require "helpers.prompt"
local run = require "helpers.command"
local statistics = require "moonloom.bench.statistics"

local BUILD = prompts.program:gsub("/moonloom$", "")

local function near(expected, actual)
    assert.is_true(math.abs(actual - expected) < 1e-9 * math.abs(expected),
        ("%.15g, not %.15g"):format(actual, expected))
end

describe("statistics of pairs", function()
    it("know how often coins fall", function()
        assert.equal(1 / 1024, statistics.at_most(0, 10))
        assert.equal(0.5, statistics.at_most(7, 15))
        near((1 + 15 + 105 + 455) / 32768, statistics.at_most(3, 15))
        near(1, statistics.at_most(1000, 1000))
    end)

    it("give the interval of a median that the sign test has", function()
        local list = {}
        for i = 1, 15 do list[i] = (i * 7) % 15 + 1 end -- 1 to 15, mixed
        local low, high, confidence = statistics.median_interval(list, 0.95)
        assert.same({ 4, 12 }, { low, high }) -- tables: n = 15, 96.5 %
        near(1 - 2 * 576 / 32768, confidence)
        assert.same({ 1, 6, 0.96875 }, { statistics.median_interval({ 3, 1, 2, 6, 5, 4 }, 0.95) })
        assert.same({ 1, 5, 0.9375 }, { statistics.median_interval({ 3, 1, 2, 5, 4 }, 0.95) })
        assert.same({ 3, 3, 0 }, { statistics.median_interval({ 3 }, 0.95) })
    end)

    it("hold the median as often as they say", function()
        local random, held = require "moonloom._core.random", 0
        for trial = 1, 2000 do
            local list = {}
            for i = 1, 15 do list[i] = random.uniform(5, trial, i) ^ 3 end -- skewed: median 1/8
            local low, high = statistics.median_interval(list, 0.95)
            if low <= 0.125 and high >= 0.125 then held = held + 1 end
        end
        assert.is_true(held > 1900 and held < 1960, held .. " of 2000") -- 1930 +- 8 expected
    end)

    it("test by signs", function()
        assert.equal(1, statistics.sign_test(7, 8))
        assert.equal(1, statistics.sign_test(0, 0))
        near(2 * 576 / 32768, statistics.sign_test(12, 3))
        near(2 * 576 / 32768, statistics.sign_test(3, 12))
        assert.is_true(statistics.sign_test(11, 4) > 0.05)
    end)
end)

describe("a comparison", function()
    local function one(rate, share)
        return { order = { "k" }, machine = { isa = "scalar", threads = 1 }, model = { name = "m" },
            rows = { k = { test = "tg8", depth = 0, batch = 1, threads = 1, rate = rate, share = share } } }
    end

    it("says what the pairs say", function()
        local got = comparisons.new { { name = "A", what = "old" }, { name = "B", what = "new" } }
        for i = 1, 7 do got:add(one(100 * i, 0.5), one((i == 3 and 90 or 110) * i, 0.25)) end
        got.instructions.k = { 2e6, 3e6 }
        local row = got:rows()[1]
        assert.same({ 400, 440, 1.1, 1, 6, 7 }, { row.speed.a, row.speed.b, row.speed.ratio, row.speed.less,
            row.speed.more, row.speed.pairs })
        assert.same({ 0.9, 1.1, 1 - 2 / 128, 16 / 128 }, { row.speed.low, row.speed.high, row.speed.confidence,
            row.speed.p })
        assert.same({ 0.5, 0.25, 0.5, 7, 2 / 128 }, { row.bandwidth.a, row.bandwidth.b, row.bandwidth.ratio,
            row.bandwidth.less, row.bandwidth.p })
        assert.same({ a = 2e6, b = 3e6, ratio = 1.5 }, row.instructions)
        local text = tostring(got):gsub(" +", " ")
        assert.truthy(text:find("A old: m, scalar, threads: 1\n", 1, true), text)
        assert.truthy(text:find("\ntg8 0 1 t/s 400.0 440.0 1.100 0.900 to 1.100 1 of 7 0.125\n", 1, true), text)
        assert.truthy(text:find("\n bandwidth 50.0 % 25.0 % 0.500 0.500 to 0.500 7 of 7 0.016\n", 1, true), text)
        assert.truthy(text:find("\n Minstr/t 2.00 3.00 1.500\n", 1, true), text)
        assert.truthy(text:find("7 pairs; the interval holds the median ratio with 98.4 %", 1, true), text)
    end)

    it("counts what is equal on neither side", function()
        local got = comparisons.new { { name = "A", what = "old" }, { name = "B", what = "new" } }
        for i = 1, 3 do got:add(one(5, 1), one(4 + i, 1)) end
        local speed = got:rows()[1].speed
        assert.same({ 0, 2 }, { speed.less, speed.more })
    end)
end)

describe("bench compare", function()
    local old_path = os.getenv("PATH")

    -- The command with a perf of our own before all others; `counts` is a line of sh that prints what it counted.
    local function with_perf(counts, words)
        local path = folder.write("perf", ('#!/bin/sh\n# stat -x, -e instructions:u -o FILE -- COMMAND\nfile=$6\n'
            .. 'shift 7\n"$@" || exit\nfor last; do :; done\n{ echo; %s; } >"$file"\n'):format(counts))
        os.execute("chmod +x " .. path)
        local out = folder.path("out")
        local code = os.execute(("PATH=%s:%s %s %s >%s"):format((path:gsub("/perf$", "")), old_path, prompts.program,
            words, out))
        return folder.read(out), code / 256
    end

    after_each(folder.remove)

    it("keeps the contract of --json", function()
        local out, err, code = run(("bench compare --build %s --build %s/ --pairs 2 --threads 1 --json -- --pp 8 "
            .. "--tg 2,3 --depth 0,5 --batch 1,2 --reps 1"):format(BUILD, BUILD))
        assert.same({ 0, "" }, { code, err })
        local got, names = json.decode(out), {}
        for i, row in ipairs(got.rows) do
            names[i] = ("%s %d %d %d"):format(row.test, row.depth, row.batch, row.threads)
            for _, name in ipairs { "speed", "bandwidth" } do
                local judged = row[name]
                assert.equal(2, #judged.ratios)
                assert.is_true(judged.a > 0 and judged.b > 0 and judged.low <= judged.ratio
                    and judged.ratio <= judged.high)
                assert.is_true(judged.less + judged.more <= 2)
                assert.equal(0.5, judged.confidence)
            end
        end
        assert.same({ "pp8 0 1 1", "tg2 0 1 1", "tg2 0 2 1", "tg3 0 1 1", "tg3 0 2 1", "pp8 5 1 1", "tg2 5 1 1",
            "tg2 5 2 1", "tg3 5 1 1", "tg3 5 2 1" }, names)
        assert.same({ 2, false, BUILD }, { got.pairs, got.interrupted, got.sides[1].what })
        assert.equal(1, got.sides[2].machine.threads)
    end)

    it("goes on with the words for bench as they are, and with what it was asked for itself", function()
        local out, err, code = run(("bench compare --threads 2 --build %s --build %s --pairs 1 --no-count --json -- "
            .. "--pp 4,6 --tg=0 --reps 1 --threads 1"):format(BUILD, BUILD))
        assert.same({ 0, "" }, { code, err })
        local got = json.decode(out)
        assert.same({ 2, 1, 1 }, { #got.rows, got.sides[1].machine.threads, got.sides[2].machine.threads })
        assert.is_nil(got.not_counted)
    end)

    it("counts the instructions of a token where perf does", function()
        local words = ("bench compare --threads 1 --build %s --build %s --pairs 1 --json -- --tg 4 --pp 0 --batch 2 "
            .. "--depth 3 --reps 1"):format(BUILD, BUILD)
        local out, code = with_perf('case $last in true) echo 1,,instructions:u;; *) '
            .. 'echo "$((5000 + last * 800)),,instructions:u,1,100.00,,";; esac', words)
        assert.equal(0, code)
        local got = json.decode(out)
        assert.same({ a = 100, b = 100, ratio = 1 }, got.rows[1].instructions)
        assert.is_nil(got.not_counted)
    end)

    it("says so where it does not", function()
        local words = ("bench compare --threads 1 --build %s --build %s --pairs 1 -- --tg 2 --pp 0 "
            .. "--reps 1"):format(BUILD, BUILD)
        local out, code = with_perf('echo "<not supported>,,instructions:u,0,100.00,,"', words)
        assert.equal(0, code)
        assert.truthy(out:find("instructions: not counted, this machine does not let perf count", 1, true), out)
    end)

    it("does the passes of a case as often as the counter asks", function()
        local bench = MOONLOOM_HOME .. "/lua/moonloom/bench"
        for _, test in ipairs { "pp70 65 1", "tg3 0 2", "greedy2 3 1", "verify2 3 1" } do
            local out, err, code = run(("%s/count.lua %s %s 1 2"):format(bench, bench, test))
            assert.same({ "", "", 0 }, { out, err, code })
        end
    end)

    it("takes a peer by its command, at the bandwidth around it", function()
        local path = folder.write("peer.json", json.encode {
            { n_prompt = 8, n_gen = 0, n_depth = 0, n_threads = 1, avg_ts = 20, stddev_ts = 1,
                samples_ts = { 1, 30, 29 }, model_type = "llama ?B", build_commit = "b1" },
            { n_prompt = 0, n_gen = 4, n_depth = 0, n_threads = 1, avg_ts = 5, stddev_ts = 1 },
        })
        local out, err, code = run { "bench", "compare", "--build", BUILD, "--peer", "cat '" .. path .. "'", "--pairs",
            "2", "--json", "--", "--pp", "8", "--tg", "4,5", "--threads", "1", "--reps", "1" }
        assert.same({ 0, "" }, { code, err })
        local got = json.decode(out)
        assert.equal(2, #got.rows) -- tg5 is A's alone
        assert.same({ "pp8", 29, "tg4", 5 }, { got.rows[1].test, got.rows[1].speed.b, got.rows[2].test,
            got.rows[2].speed.b })
        assert.is_true(got.rows[1].bandwidth.b > 0 and got.rows[1].bandwidth.b < 0.01)
        assert.equal("llama ?B", got.sides[2].model.name)
        assert.truthy(got.not_counted)
    end)

    it("exits with 2 after wrong usage, and with 1 where a run fails, with a sentence", function()
        local empty = folder.write("empty.json", "[]")
        local other = folder.write("other.json", json.encode { { n_prompt = 9, n_gen = 0, n_threads = 1, avg_ts = 1,
            stddev_ts = 0 } })
        local build = "--threads 1 --build " .. BUILD
        for words, expected in pairs {
            [""] = { 2, "needs build" },
            [build] = { 2, "needs --build twice, or once and --peer; there are 1" },
            [build .. " " .. build .. " --peer true"] = { 2, "with a peer, one --build is compared, not 2" },
            [build .. " --build /nowhere"] = { 2, "there is no /nowhere/moonloom" },
            [build .. " " .. build .. " --pairs 0"] = { 2, "at least 1" },
            [build .. " " .. build .. " --pair 3"] = { 2, "did you mean '--pairs'?" },
            [build .. " " .. build .. " --kv-store " .. folder.path("store")] = { 2, "--kv-store has no effect" },
            [build .. " " .. build .. " -- --pp many"] = { 2, "pp takes whole numbers" },
            [build .. " " .. build .. " -- --what"] = { 2, "A: " },
            [build .. " " .. build .. " -- -m /no/such.gguf --reps 1"] = { 1, "A: bench ended with 1: " },
            [build .. " --peer 'echo no >&2; exit 3' -- --pp 8 --tg 0 --reps 1"] = { 1, "B: the peer's command ended "
                .. "with 3: no" },
            [build .. " --peer 'echo hello' -- --pp 8 --tg 0 --reps 1"] = { 1, "not JSON" },
            [build .. " --peer 'cat " .. empty .. "' -- --pp 8 --tg 0 --reps 1"] = { 1, "not an array of results" },
            [build .. " --peer 'cat " .. other .. "' -- --pp 8 --tg 0 --reps 1"] = { 1, "only: pp9 at depth 0" },
        } do
            local out, err, code = run("bench compare --no-count " .. words)
            assert.same({ expected[1], "" }, { code, out }, words .. ": " .. err)
            assert.truthy(err:find(expected[2], 1, true), words .. ": " .. err)
            assert.falsy(err:find("traceback", 1, true))
        end
    end)

    it("keeps the pairs that are complete after Ctrl-C", function()
        if not prompts.available then return pending("no pseudo terminals here: is /dev/pts mounted?") end
        local prompt = prompts.new()
        local path, mark = prompt.folder .. "/out", prompt.folder .. "/mark"
        -- The peer answers twice.
        local peer = folder.write("peer.sh", ([[
echo x >>%s
[ $(wc -l <%s) -lt 3 ] || { echo >&2; sleep 60; }
echo '[{"n_prompt":8,"n_gen":0,"n_threads":1,"avg_ts":20,"stddev_ts":1}]'
]]):format(mark, mark))
        local session = prompt:run { "/bin/sh", "-c", ("exec %s bench compare --build %s --peer 'sh %s' --pairs 9 "
            .. "--json -- --pp 8 --tg 0 --threads 1 --reps 1 >%s"):format(prompts.program, BUILD, peer, path) }
        session:expect("comparing %[[#.]*%] +%d+%%")
        for _ = 1, 600 do
            session:watch(100)
            local marks = io.open(mark)
            local lines = marks and select(2, marks:read("*a"):gsub("\n", "")) or 0
            if marks then marks:close() end
            if lines == 3 then break end
        end
        session:send("\3")
        local code = session:wait()
        local out, raw = folder.read(path), session.raw
        prompt:close()
        assert.equal(130, code, raw)
        local got = json.decode(out)
        assert.same({ 2, true, 1 }, { got.pairs, got.interrupted, #got.rows })
        assert.equal("\r\27[K", raw:sub(-4))
    end)

    it("is a value in Lua", function()
        local before = moonloom.threads()
        local got = require("recipes.bench_compare") { build = { BUILD, BUILD }, pairs = 1, count = false,
            words = { "--pp", "4", "--tg", 0, "--reps", 1 } }
        assert.equal("1 pair", got:summary())
        assert.truthy(tostring(got):find("\npp4 ", 1, true))
        assert.equal(before, moonloom.threads())
        assert.error_matches(function()
            require("recipes.bench_compare") { build = { BUILD, BUILD }, pairs = 1, model = "/no/such.gguf" }
        end, "A: .*/no/such.gguf")
    end)
end)
