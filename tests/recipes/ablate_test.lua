-- Switches for optimisations: results with each of them off, their names, and the benchmark that uses them.
local ffi = require "ffi"
local json = require "moonloom.file.json"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local recipe = require "moonloom.recipe.live"
local run = require "helpers.command"
local tuning = require "moonloom._core.tuning"
local C = ml.C

local bench = recipe.get "bench"
local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "

local function all_on()
    for _, one in ipairs(tuning.list()) do
        if not one.on then return false end
    end
    return true
end

local function bytes_of(logits)
    return ffi.string(logits:pointer(), #logits * 4)
end

local function furthest(a, b)
    local worst = 0
    for i = 1, #a do
        local p, q = ffi.cast("const float *", a[i]), ffi.cast("const float *", b[i])
        for j = 0, #a[i] / 4 - 1 do
            local off = math.abs(p[j] - q[j])
            if off > worst or off ~= off then worst = off end
        end
    end
    return worst
end

describe("a switch", function()
    local model, ids
    -- Largest distance of logits under each instruction set; what is not named changes no bit.
    local FLOATS = { integers = 1e-3 } -- with keys and values in f32
    local ROUNDED = { integers = 0.03, matrix = 0.15, flash = 0.15 }

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        ids = model:tokenize(TEXT:rep(30))
        assert.is_true(#ids > 600)
    end)

    teardown(function()
        model:close()
        moonloom.threads(0)
        moonloom.isa "auto"
    end)

    -- Logits after a prompt (as a rule longer than a chunk of attention), single tokens, 3 sequences at once, 12 rows.
    local function forward(options)
        local session, kept = model:session { prefixes = false, cache = options.cache, kv = options.kv }, {}
        local function keep(logits) kept[#kept + 1] = bytes_of(logits) end
        local function feed(first, last)
            local some = {}
            for i = first, last do some[#some + 1] = ids[i] end
            session:feed(some)
            keep(session:logits())
        end
        local prompt = options.prompt or 530
        feed(1, prompt)
        for i = prompt + 1, prompt + 2 do feed(i, i) end
        local batch, forks = model:batch(3), {}
        for s = 1, 3 do
            forks[s] = session:fork()
            batch:add(forks[s], ids[s], true)
        end
        batch:forward()
        for s = 1, 3 do keep(batch:logits(s)) end
        feed(prompt + 3, prompt + 14)
        for _, fork in ipairs(forks) do fork:close() end
        session:close()
        return kept
    end

    local function check_all(isa, threads, options, tolerances)
        moonloom.isa(isa)
        moonloom.threads(threads)
        local before, found = forward(options), {}
        for _, one in ipairs(tuning.list()) do
            local off = furthest(before, tuning.without(one.name, function() return forward(options) end))
            assert.is_true(off <= (tolerances[one.name] or 0), ("%s, %s off: %g"):format(isa, one.name, off))
            found[one.name] = off
            assert.is_true(all_on())
        end
        assert.same(before, forward(options))
        return found
    end

    -- What the machine has, but for its matrix unit.
    local function vectors()
        moonloom.isa "auto"
        return moonloom.isa():find("amx", 1, true) and "avx512" or moonloom.isa()
    end

    it("leaves the logits what they were, and on again the same bits", function()
        local off = check_all(vectors(), 2, { cache = "f32" }, FLOATS)
        if moonloom.isa():find "^avx" then assert.is_true(off.integers > 0) end
        assert.equal(0, check_all("scalar", 1, { cache = "f32", prompt = 30 }, FLOATS).integers)
    end)

    it("does so with more threads than processors, where some sleep", function()
        check_all(vectors(), 5, { cache = "f32" }, FLOATS)
    end)

    it("does so with quantised pages", function()
        check_all(vectors(), 2, { kv = { bits = 8 }, prompt = 200 }, ROUNDED)
    end)

    it("does so on a matrix unit, and without that it is the set below", function()
        if not pcall(moonloom.isa, "amx-emulated") then
            return pending "tiles are emulated with AVX-512, which this CPU has not"
        end
        local off = check_all("amx-emulated", 2, { prompt = 40 }, ROUNDED)
        assert.is_true(off.matrix > 0 and off.flash > 0)
        local without = tuning.without("matrix", function()
            assert.equal("amx-emulated", moonloom.isa())
            return forward { prompt = 40 }
        end)
        moonloom.isa "avx512"
        assert.same(forward { prompt = 40 }, without)
    end)
end)

describe("the switches", function()
    it("have names, and a line each", function()
        local list, seen = tuning.list(), {}
        assert.is_true(#list > 0 and C.ml_tuning_name(#list) == nil and C.ml_tuning_meaning(#list) == nil)
        assert.is_true(C.ml_tuning_name(-1) == nil and C.ml_tuning_meaning(-1) == nil)
        local text = tostring(moonloom.tuning())
        for _, one in ipairs(list) do
            assert.truthy(one.name:find("^%l+$") and #one.name <= 8)
            assert.is_nil(seen[one.name])
            seen[one.name] = true
            assert.truthy(one.meaning:find("; off: ", 1, true), one.name)
            assert.falsy(one.meaning:find("\n"))
            assert.truthy(text:find(one.name, 1, true) and text:find(one.meaning, 1, true))
        end
    end)

    it("go off and on, and refuse wrong names in a sentence", function()
        assert.is_true(all_on())
        assert.is_false(moonloom.tuning("integers", false))
        assert.is_false(moonloom.tuning "integers")
        assert.is_true(moonloom.tuning "share")
        tuning.without("integers", function() end)
        assert.is_false(tuning.on "integers") -- as it was
        assert.is_true(moonloom.tuning("integers", true))
        for _, call in ipairs { function(name) tuning.set(name, false) end, tuning.on } do
            for _, wrong in ipairs { "flush", "", "Whole" } do
                local fine, problem = pcall(call, wrong)
                assert.is_false(fine)
                assert.equal(C.ML_E_ARGUMENT, problem.status)
                assert.truthy(tostring(problem):find("^'" .. wrong .. "' is no switch"), tostring(problem))
            end
        end
        assert.equal(C.ML_E_ARGUMENT, C.ml_tuning_set(nil, 1))
        assert.is_true(all_on())
    end)

    it("are on again after an error", function()
        assert.has_error(function() tuning.without("spin", function() error("broken", 0) end) end, "broken")
        assert.is_true(all_on())
    end)

    -- Bytes of memory that must not have huge pages ("nh" in VmFlags of /proc/self/smaps).
    local function without_huge_pages()
        local sum, size, file = 0, 0, assert(io.open "/proc/self/smaps")
        for line in file:lines() do
            size = tonumber(line:match "^Size: +(%d+) kB") or size
            if line:find "^VmFlags:.* nh" then sum = sum + size * 1024 end
        end
        file:close()
        return sum
    end

    it("keep huge pages away from new activations", function()
        if not io.open "/sys/kernel/mm/transparent_hugepage/enabled" then
            return pending "this system has no huge pages"
        end
        local model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        local before = without_huge_pages()
        local first = model:batch(2048)
        assert.equal(before, without_huge_pages())
        local second = tuning.without("huge", function() return model:batch(2048) end)
        assert.is_true(without_huge_pages() > before + 2 ^ 20)
        assert.is_true(first.capacity == second.capacity)
        model:close()
    end)
end)

describe("bench --ablate", function()
    local function offs(rows)
        local list = {}
        for i, row in ipairs(rows) do list[i] = row.test .. " " .. (row.off or "-") end
        return list
    end

    it("has a row with everything on, then one for each switch", function()
        local out, err, code = run "bench --pp 8 --tg 2 --depth 70 --verify 2 --reps 2 --ablate share,integers --json"
        assert.same({ 0, "" }, { code, err })
        local rows = json.decode(out).rows
        assert.same({ "pp8 -", "pp8 integers", "pp8 share", "tg2 -", "tg2 integers", "tg2 share", "verify1 -",
            "verify1 integers", "verify1 share", "verify2 -", "verify2 integers", "verify2 share" }, offs(rows))
        for i, row in ipairs(rows) do
            assert.equal(2, #row.samples)
            assert.equal(row.off ~= nil, row.loss ~= nil)
            assert.equal(not row.off and row.test:find "^verify" ~= nil, row.cost ~= nil)
            if row.off == "integers" then
                local on = rows[i - 1].samples
                local expected = 1 - (row.samples[1] / on[1] + row.samples[2] / on[2]) / 2
                assert.is_true(math.abs(row.loss - expected) < 1e-6)
            end
        end
    end)

    it("takes all that can matter here without a word after it", function()
        local out, err, code = run "bench --pp 4 --tg 0 --reps 1 --ablate --threads 2"
        assert.same({ 0, "" }, { code, err })
        assert.truthy(out:find("\ntest +depth +batch +off +t/s +%+%- sd +bandwidth +peak +loss\n"))
        for _, one in ipairs(tuning.list()) do
            local shown = out:find(("\npp4 +0 +1 +%s +[^\n]+ %%%%\n"):format(one.name)) ~= nil
            local useful = one.name ~= "matrix" or moonloom.isa():find("amx", 1, true) ~= nil
            assert.equal(useful, shown, one.name)
            assert.equal(useful, out:find(one.meaning, 1, true) ~= nil)
        end
        local got = bench { pp = { 4 }, tg = {}, reps = 1, ablate = { "matrix" } }
        assert.same({ "pp4 -", "pp4 matrix" }, offs(got.rows)) -- where it is asked for
        assert.is_true(all_on())
    end)

    it("keeps what is there after Ctrl-C, with every switch on again", function()
        local without, calls = tuning.without, 0
        tuning.without = function(name, f)
            return without(name, function()
                calls = calls + (name == "share" and 1 or 0)
                if calls == 2 then C.ml_interrupt_set(1) end
                return f()
            end)
        end
        local fine, got = pcall(bench, { pp = { 4 }, tg = {}, reps = 3, ablate = { "share", "integers" } })
        tuning.without = without
        C.ml_interrupt_set(0)
        assert.is_true(fine, tostring(got))
        assert.is_true(got.interrupted)
        assert.same({ "pp4 -", "pp4 integers", "pp4 share" }, offs(got.rows))
        assert.same({ 2, 2, 1 }, { #got.rows[1].samples, #got.rows[2].samples, #got.rows[3].samples })
        assert.is_true(all_on())
    end)

    it("refuses wrong names in a sentence", function()
        for words, wrong in pairs { ["--ablate flush"] = "flush", ["--ablate=integers,no"] = "no",
            ["--ablate 7"] = "7" } do
            local out, err, code = run("bench --pp 8 " .. words)
            assert.same({ 2, "" }, { code, out })
            assert.truthy(err:find(("bench: ablate takes all, integers, .*, not '%s'\n"):format(wrong)), err)
        end
    end)
end)
