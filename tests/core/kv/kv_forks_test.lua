-- Going back to any position of a timeline: no page is copied for it, and the logits are those of reading it anew.
local isa_helper = require "helpers.isa"
local moonloom = require "moonloom"
local policy = require "moonloom.cache.policy"
local forks = require("moonloom.recipe.live").get("forks")

describe("forks and rewinds at random positions", function()
    setup(function()
        isa_helper.rows_alone()
        moonloom.use(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
    end)

    teardown(function()
        policy.default = nil
        isa_helper.as_before()
    end)

    it("copy nothing, and are what reading the beginning anew is", function()
        local spill = os.getenv("TMPDIR") or "/var/tmp"
        for _, kv in ipairs { false, { bits = 16, window = "cold" },
            { bits = 16, window = "disk", memory = "2M", spill = spill } } do
            moonloom.kv(kv)
            local found = forks { tokens = 1000, positions = 8 }
            assert.same({ 1000, 8, 0 }, { found.tokens, found.positions, found.pages })
            assert.is_true(found.branch_pages <= 1)
            assert.is_true(found.fork_apart <= 1e-4 and found.rewind_apart <= 1e-4)
        end
    end)

    it("copy nothing of quantised pages either, whose logits are not those of plain ones", function()
        for _, kv in ipairs { "8", "4" } do
            moonloom.kv(kv)
            local found = forks { tokens = 500, positions = 4, seed = 2 }
            assert.equal(0, found.pages)
            assert.is_true(found.branch_pages > 0 and found.branch_pages <= 1)
            assert.is_true(found.fork_apart > 1e-4 and found.fork_apart == found.rewind_apart)
        end
    end)

    it("work on random tokens, too, and on texts that are there", function()
        moonloom.kv(false)
        local found = forks { tokens = 700, positions = 3, fill_random = true }
        assert.is_nil(found.fork_apart)
        assert.is_true(found.fork_ms > 0 and found.rewind_ms > 0 and found.branch_pages <= 1)
        assert.truthy(tostring(found):find("700 tokens, 3 random positions", 1, true))
        local fine, problem = pcall(forks, { file = "/no/such.txt" })
        assert.is_false(fine)
        assert.truthy(tostring(problem):find("^the text cannot be read"))
    end)
end)
