-- The recipe depth: which contexts it decodes behind, and that it leaves nothing behind itself.
local cjson = require "cjson"
local moonloom = require "moonloom"
local depth = require("moonloom.recipe.live").get("depth")

describe("depth", function()
    setup(function() moonloom.use(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf") end)

    it("decodes behind plain, 8-bit and 4-bit pages, and with an empty cache", function()
        local found = depth { tokens = 300, rounds = 3, passes = 2 }
        local caches, depths = {}, {}
        for i, row in ipairs(found.rows) do
            caches[i], depths[i] = row.cache, row.depth
            assert.is_true(row.ms > 0 and row.bandwidth_share > 0)
        end
        assert.same({ "16 bits", "16 bits", "8 bits", "4 bits" }, caches)
        assert.same({ 0, 300, 300, 300 }, depths)
        assert.equal(1, found.rows[1].beside_empty)
        assert.equal(3, cjson.decode(cjson.encode(found)).rounds)
        assert.truthy(tostring(found):find("4 bits      300", 1, true))
    end)

    it("refuses what makes no sense with a sentence", function()
        assert.has_error(function() depth { tokens = 0 } end)
    end)
end)
