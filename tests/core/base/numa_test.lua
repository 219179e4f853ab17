-- Memory nodes, as far as this machine has them.
local moonloom = require "moonloom"
local run = require "helpers.command"

describe("numa", function()
    local before, nodes = moonloom.numa()
    local can, problem = pcall(moonloom.numa, "spread")
    moonloom.numa(before)

    it("is off unless asked for, and counts nodes", function()
        assert.equal("off", before)
        assert.is_true(nodes >= 1)
    end)

    it("spreads threads and memory with the same results", function()
        if not can then
            assert.truthy(tostring(problem):find("does not let this process place memory", 1, true))
            return pending(tostring(problem))
        end
        local function say()
            local model, list = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf", { load = "copy" }), {}
            local session = model:session { prefixes = false }
            session:feed("Once upon a time, there was a little girl")
            for i = 0, #session:logits() - 1 do list[i] = session:logits()[i] end
            session:close()
            model:close()
            return list
        end
        local expected = say()
        assert.equal("spread", (moonloom.numa("spread")))
        assert.same(expected, say())
        local policy = io.open("/proc/self/numa_maps")
        if policy then
            assert.truthy(policy:read("*a"):find("interleave", 1, true))
            policy:close()
        end
        assert.equal("off", (moonloom.numa("off")))
        assert.same(expected, say())
    end)

    it("refuses another policy, and is an option of the command", function()
        assert.has_error(function() moonloom.numa("all") end)
        local _, err, code = run "--numa all -e 1"
        assert.equal(2, code)
        assert.truthy(err:find("numa must be one of off, spread, not 'all'", 1, true))
        assert.equal("off\n", (run { "--numa", "off", "-e", 'print((require("moonloom").numa()))' }))
        local out
        out, err, code = run "logits --prompt Once --top 1 --json --numa spread"
        assert.equal(can and 0 or 1, code, err)
        if can then assert.equal((run "logits --prompt Once --top 1 --json"), out) end
    end)
end)
