-- Budgets of memory for keys and values: --kv-memory, and the whole shape of gpt-oss-20b's cache in a small one.
local folder = require "helpers.folder"
local copy = require "helpers.logits_of"
local isa_helper = require "helpers.isa"
local moonloom = require "moonloom"
local sentence_of = require "helpers.sentence"
local run = require "helpers.command"
local synth = require("moonloom.recipe.live").get("synth")

local MODEL = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"

describe("--kv-memory", function()
    it("is a budget for every cache, in any unit", function()
        for text, bytes in pairs { ["3M"] = 3 * 2 ^ 20, ["2048 kib"] = 2 ^ 21, ["1.5G"] = 1.5 * 2 ^ 30, ["0"] = 0 } do
            local code = "s = model:session(); s:feed('Once upon a time'); print(s:stats().kv.budget)"
            local out, err, status = run { "--kv-memory", text, "-m", MODEL, "-e", code }
            assert.equal("", err)
            assert.equal(("%d\n"):format(bytes), out)
            assert.equal(0, status)
        end
        local out, err, status = run { "generate", "--kv-memory", "1M", "-m", MODEL, "--max-tokens", "5",
            "--temperature", "0", "Once upon a time" }
        assert.truthy(out:find("Once upon a time", 1, true), err)
        assert.equal(0, status)
    end)

    it("that is none, or too small, is told in one sentence", function()
        for text, sentence in pairs {
            lots = "kv_memory is a number of bytes, such as 2G, not lots",
            ["-1"] = "kv_memory is a number of bytes, such as 2G, not -1",
            ["2X"] = "kv_memory is a number of bytes, such as 2G, not 2X",
        } do
            local out, err, status = run { "--kv-memory", text, "-e", "print(1)" }
            assert.equal("", out)
            assert.equal(("moonloom: %s\n"):format(sentence), err)
            assert.equal(2, status)
            out, err, status = run { "generate", "-m", MODEL, "--kv-memory", text, "Once" }
            assert.equal("", out)
            assert.equal(("moonloom: %s\n"):format(sentence), err:match("^[^\n]*\n"))
            assert.equal(2, status)
        end
        local _, err, status = run { "--kv-memory" }
        assert.equal("moonloom: --kv-memory needs bytes, such as 2G; moonloom --help lists the options\n", err)
        assert.equal(2, status)
        _, err, status = run { "generate", "-m", MODEL, "--kv-memory", "100K", "Once" }
        assert.truthy(err:find("^moonloom: a budget of 102400 bytes is too small for keys and values: [^\n]*\n$"), err)
        assert.equal(1, status)
    end)

    it("that is reached in a session ends the pass with a sentence; what was there goes on", function()
        local code = "s = model:session(); ids = {}; for i = 1, 4000 do ids[i] = i % 900 end; " ..
            "fine, problem = pcall(s.feed, s, ids); print(fine, s.position >= 512, problem); " ..
            "s:rewind(300):step(5); print(s.position, s:stats().kv.reserved_peak <= 2^20)"
        local out, err, status = run { "--kv-memory", "1M", "-m", MODEL, "-e", code }
        assert.equal("", err)
        assert.truthy(out:find("^false\ttrue\tthe cache is full: its budget is 1048576 bytes, "), out)
        assert.truthy(out:find("\n301\ttrue\n$"), out)
        assert.equal(0, status)
    end)
end)

describe("a budget that becomes smaller", function()
    local model, ids

    setup(function()
        isa_helper.rows_alone()
        model = moonloom.load(MODEL)
        ids = {}
        for i = 1, 2500 do ids[i] = i * i % 997 end
    end)

    teardown(function()
        model:close()
        folder.remove()
        isa_helper.as_before()
    end)

    local function same_step(twin, session, id)
        local expected = twin:step(id):logits():argmax()
        local logits = {}
        for i = 0, 99 do logits[i] = twin:logits()[i] end
        session:step(id)
        for i = 0, 99 do assert.equal(logits[i], session:logits()[i]) end
        assert.equal(expected, session:logits():argmax())
    end

    it("gives back to the system what is above it", function()
        for _, bits in ipairs { 16, 8 } do
            local function kv(memory)
                return { bits = bits, hot_tokens = 128, memory = memory, spill = folder.path("."), window = "keep" }
            end
            local session, twin = model:session { kv = kv(nil) }, model:session { kv = kv(nil) }
            session:feed(ids, { chunk = 100 })
            twin:feed(ids, { chunk = 100 })
            local most = session:stats().kv.reserved
            for _, memory in ipairs { 1.5 * 2 ^ 20, 2 ^ 21, 2 ^ 20 } do
                session:policy(kv(memory))
                assert.is_true(session:stats().kv.reserved <= memory)
                for i = 1, 3 do same_step(twin, session, ids[i]) end
                assert.is_true(session:stats().kv.reserved <= memory)
                assert.is_true(session:stats().kv.reserved_peak >= most)
                assert.same({ twin:pages() }, { session:pages() })
            end
            session:rewind(0)
            assert.same({ 0, 0 }, { session:bytes() })
            session:close()
            twin:close()
        end
    end)

    it("is told once where nothing can go down, and the session goes on", function()
        local session, twin = model:session { kv = { bits = 16 } }, model:session { kv = { bits = 16 } }
        session:feed(ids)
        twin:feed(ids)
        local sentence = sentence_of(session.policy, session, { bits = 16, memory = "1M" })
        assert.truthy(sentence:find("^the cache is full: its budget is 1048576 bytes, [^\n]*$"), sentence)
        same_step(twin, session, 3)
        same_step(twin, session, 4)
        session:policy { bits = 16 }
        session:feed(ids)
        twin:feed(ids)
        same_step(twin, session, 5)
        session:close()
        twin:close()
    end)

    it("is refused where it is smaller than what a pass needs, or what comes with it cannot be", function()
        local session = model:session { kv = { bits = 8, hot_tokens = 0, memory = "3M" } }
        session:feed(ids)
        local function refused(kv, words)
            local sentence = sentence_of(session.policy, session, kv)
            assert.truthy(sentence:find(words, 1, true), sentence)
            assert.equal(3 * 2 ^ 20, session:stats().kv.budget)
            assert.equal("3M", session:policy().memory)
            session:step(1)
        end
        refused({ bits = 8, memory = "2M", rotate = false }, "rotation cannot change while")
        refused({ bits = 8, memory = "2M", spill = "/no/such/folder/x" }, "cannot be made")
        session:close()
        session = model:session { kv = { bits = 8 } }
        session:feed(ids)
        local sentence = sentence_of(session.policy, session, { bits = 8, memory = "64K" })
        assert.truthy(sentence:find("a budget of 65536 bytes is too small for keys and values", 1, true), sentence)
        assert.equal(0, session:stats().kv.budget)
        session:feed(ids)
        session:close()
    end)
end)

describe("the shape of gpt-oss-20b's cache", function()
    local model

    setup(function()
        isa_helper.rows_alone()
        local path = folder.path("narrow.gguf")
        synth { output = path, shape = "gpt-oss-20b", type = "f32", expert_type = "f32", width = 64, ffn_width = 32,
            experts = 2, experts_used = 1, vocab_size = 600, heads = 8 }
        model = moonloom.load(path)
        local config = model:config()
        assert.same({ 24, 8, 64, 128, 2 }, { config.layers, config.kv_heads, config.head_dim, config.window,
            config.window_period })
    end)

    teardown(function()
        model:close()
        folder.remove()
        isa_helper.as_before()
    end)

    -- Fills a session, feeds a prompt, decodes, goes back and apart: the logits on the way.
    local function play(session, depth)
        local seen, ids = {}, {}
        for i = 1, 150 do ids[i] = i * 7 % 600 end
        for at = 0, depth - 1, 1000 do session:fill_random(math.min(1000, depth - at), 7) end
        seen[1] = copy(session:feed(ids))
        for i = 2, 6 do seen[i] = copy(session:step(i)) end
        local fork = session:fork(math.floor(depth / 2) + 5)
        seen[7] = copy(fork:feed(ids))
        fork:close()
        seen[8] = copy(session:rewind(depth - 200):step(3))
        assert.equal(depth - 199, session.position)
        return seen
    end

    -- MOONLOOM_DEPTH=65536 does that within 64 MB.
    it("fits a budget at any depth, and shows the same as without one, to the bit", function()
        local depth = tonumber(os.getenv("MOONLOOM_DEPTH") or "") or 2000
        local memory = depth < 65536 and 24 * 2 ^ 20 or 2 ^ 26
        local began = moonloom.now()
        local session = model:session { kv = { bits = 4, hot_tokens = 0, first_tokens = 64, memory = memory,
            window = "disk", spill = folder.path(".") } }
        local small = play(session, depth)
        local kv, disk = session:stats().kv, session:levels():data().levels.disk
        assert.equal(memory, kv.budget)
        assert.is_true(kv.reserved_peak <= memory, kv.reserved_peak)
        assert.is_true(disk.pages > 0 and disk.promoted > 0)
        local shown = ("%d tokens: at most %.1f MB in memory, %.1f MB on disk, %.1f s"):format(depth,
            kv.reserved_peak / 1e6, disk.bytes / 1e6, (moonloom.now() - began) / 1000)
        session:close()
        local free = model:session { kv = { bits = 4, hot_tokens = 0, first_tokens = 64, window = "keep" } }
        for i, logits in ipairs(play(free, depth)) do
            for j = 1, #logits do assert.equal(logits[j], small[i][j]) end
        end
        if os.getenv("MOONLOOM_DEPTH") then
            print(("%s; without a budget %.1f MB"):format(shown, free:stats().kv.reserved_peak / 1e6))
        end
        free:close()
    end)
end)
