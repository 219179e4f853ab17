-- The inspect recipe: the table that --json prints, and the report a person reads.
local ml = require "moonloom._core.ffi"
local json = require "moonloom.file.json"
local folder = require "helpers.folder"
local writer = require "moonloom.file.gguf_writer"
local inspect = require("moonloom.recipe.live").get("inspect")

local tiny = ml.home .. "/data/tiny-gpt-oss.gguf"

describe("inspect", function()
    teardown(folder.remove)

    it("gives architecture, metadata, tensors and times", function()
        local report = json.decode(json.encode(inspect { file = tiny }))
        assert.equal("gpt-oss", report.architecture)
        assert.equal(128, report.metadata["gpt-oss.attention.sliding_window"])
        assert.same({ type = "string", count = 1024, first = { "!", '"', "#", "$", "%", "&", "'", "(" } },
            report.metadata["tokenizer.ggml.tokens"])
        assert.equal(79, #report.tensors)
        assert.same({ name = "token_embd.weight", type = "q8_0", shape = { 1024, 192 }, bytes = 208896, offset = 33024,
            file = 1 }, report.tensors[1])
        for _, part in ipairs { "header", "metadata", "tensors" } do
            assert.is_true(report.timings_ms[part] >= 0)
        end
    end)

    it("gives long arrays in full when asked", function()
        local report = inspect { file = tiny, all = true }
        assert.equal(1024, #report.metadata["tokenizer.ggml.tokens"])
    end)

    it("takes the current model where no file is named", function()
        assert.same(inspect(tiny).tensors, inspect {}.tensors)
        assert.same(inspect(tiny).tensors, inspect { model = tiny }.tensors)
    end)

    it("is a readable report", function()
        local text = tostring(inspect(tiny))
        for _, words in ipairs { "architecture: gpt-oss", "1024 x string [!, ", "blk.3.ffn_down_exps.weight",
            "8 x 192 x 192", "opened in " } do
            assert.truthy(text:find(words, 1, true), words)
        end
    end)

    it("stays on one line a value, whatever is in the file", function()
        local path = folder.path("odd.gguf")
        writer.save(path, {}, function(file)
            file:meta("general.architecture", "string", "odd\n\27[2J")
            file:meta("a.text", "string", "two\nlines \27[31m" .. ("é"):rep(200))
            file:meta("a.wide", "i64", 9007199254740993LL)
            file:meta("a.nan", "f64", 0 / 0)
            file:meta("a.deep", "u8[][]", { { 1 }, { 2, 3 } })
            file:meta("a.list", "f32[]", { 1, 2 })
        end)
        local report = inspect { file = path }
        local text = tostring(report)
        assert.truthy(text:find("architecture: odd\\n\\x1b[2J\n", 1, true))
        assert.truthy(text:find("two\\nlines \\x1b", 1, true))
        assert.truthy(text:find("9007199254740993\n", 1, true))
        assert.truthy(text:find("2 x array", 1, true))
        assert.truthy(text:find("[1, 2]", 1, true))
        assert.truthy(json.encode(report):find("9007199254740993", 1, true))
    end)

    it("says why a file cannot be opened", function()
        local ok, problem = pcall(inspect, "/no/such.gguf")
        assert.is_false(ok)
        assert.equal("there is no file /no/such.gguf", tostring(problem))
    end)
end)
