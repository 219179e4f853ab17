-- The kv recipe: the memory table, what is measured on real pages, and the fill for benchmarks.
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local kv = require("moonloom.recipe.live").get("kv")
local run = require "helpers.command"

describe("kv", function()
    setup(function() moonloom.use(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf") end)

    it("tells what a token costs in each format, and why", function()
        local found = kv {}
        local config = moonloom.current():config()
        assert.same({ 2, 2, 4 }, { found.full, found.windowed, #found.rows })
        local plain = found.rows[1]
        assert.equal(2 * config.kv_heads * config.head_dim * 2, plain.layer_token_bytes)
        assert.equal(2 * plain.layer_token_bytes, plain.token_bytes)
        assert.same({ tokens = 4096, full = 4096 * plain.token_bytes, window = 2 * 3 * plain.page_bytes,
            window_kept = 4096 * plain.token_bytes }, plain.lengths[1])
        for i = 2, #found.rows do assert.is_true(found.rows[i].page_bytes < found.rows[i - 1].page_bytes) end
        local steps = found.arithmetic
        assert.equal(131072 * 4 * 2 * 6 * 32 * 2, steps[1].bytes)
        assert.equal(steps[1].bytes / 3, steps[2].bytes)
        assert.equal(plain.lengths[3].full, steps[3].bytes)
        assert.equal(plain.lengths[3].full + plain.lengths[3].window, steps[4].bytes)
        assert.truthy(tostring(found):find("\nbf16 +256 B +512 B +2.097 MB"))
        local out, err, code = run { "kv", "--json" }
        assert.equal(0, code, err)
        assert.equal(83, json.decode(out).rows[4].layer_token_bytes)
    end)

    it("measures rotation and packing on a text", function()
        local found = kv { measure = true, tokens = 200 }
        assert.same({ 200, 2, 3 }, { found.tokens, #found.errors, #found.packing })
        for _, row in ipairs(found.errors) do
            assert.is_true(row.keys8 > 0 and row.keys8 < row.keys4 and row.values8 < row.values4 and row.keys4 < 0.2)
        end
        assert.is_true(found.errors[1].keys4 ~= found.errors[2].keys4)
        assert.equal(found.errors[1].values4, found.errors[2].values4)
        assert.is_true(found.packing[1].split > 1.1)
        for _, row in ipairs(found.packing) do assert.is_true(row.split >= 0.99 and row.alone >= 0.99) end
        for i, row in ipairs(found.promotion) do
            assert.equal(4 * 3, row.pages)
            assert.equal(row.pages * found.packing[i].bytes, row.bytes)
            assert.is_true(math.abs(row.bytes / row.packed / found.packing[i].split - 1) < 0.2)
            for _, name in ipairs { "zstd", "memory", "disk", "check", "stream" } do
                assert.is_true(row.rates[name] > 0 and row.rates[name] < math.huge)
            end
        end
        local session = moonloom.current():session { kv = { bits = 8 } }
        local fine, problem = pcall(session.promotion, session:fill_random(100))
        assert.is_false(fine)
        assert.truthy(tostring(problem):find("^promotion is measured where there is a budget"))
        session:close()
        assert.is_true(found.packing[3].bytes < found.packing[2].bytes)
        assert.truthy(tostring(found):find("not rotated", 1, true))
        fine, problem = pcall(kv, { measure = true, file = "/no/such.txt" })
        assert.is_false(fine)
        assert.truthy(tostring(problem):find("^the text cannot be read"))
        fine, problem = pcall(kv, { measure = true, fill_random = 100 })
        assert.is_false(fine)
        assert.truthy(tostring(problem):find("one thing at a time", 1, true))
    end)

    it("fills a session with random tokens under a policy, and decodes behind them", function()
        local found = kv { fill_random = 5000, kv = "8", decode = 2 }
        local levels = found.levels:data()
        assert.equal(5002, levels.tokens)
        assert.equal("8", levels.policy)
        assert.equal(4736, levels.layers[2].tokens.warm) -- it sees everything: no page goes down
        assert.is_true(found.token_ms > 0 and found.reserved_peak >= levels.bytes)
        assert.equal(5002, json.decode(json.encode(found:json())).levels.tokens)
        assert.truthy(tostring(found):find("5000 random tokens filled in", 1, true))
    end)
end)
