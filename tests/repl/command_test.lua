-- The command line as scripts use it: JSON alone on standard output, errors on standard error, exit codes.
local folder = require "helpers.folder"
local json = require "moonloom.file.json"

local run = require "helpers.command"

-- The one JSON object that standard output must be.
local function object(words, input)
    local out, err, code = run(words, input)
    assert.equal(0, code, err)
    assert.equal("{", out:sub(1, 1))
    assert.equal(1, select(2, out:gsub("\n", "")))
    return json.decode(out), err
end

local function fields(value, kinds)
    for name, kind in pairs(kinds) do assert.equal(kind, type(value[name]), name) end
end

describe("the command", function()
    it("generates", function()
        local g, err = object { "generate", "--prompt", "Once upon a time", "--max-tokens", "6", "--temperature", "0",
            "--threads", "1", "--cache", "f32", "--json" }
        assert.equal("", err)
        assert.equal(", there was a little girl", g.text)
        assert.same({ 401, 402, 258, 380 }, g.prompt_ids)
        assert.same({ 11, 399, 289, 258, 385, 432 }, g.ids)
        assert.equal("length", g.stop)
        fields(g, { load_ms = "number", ttft_ms = "number", tokens_per_second = "number", bandwidth_share = "number",
            prefill_tokens_per_second = "number", peak_bytes = "number", weight_bytes_per_token = "number",
            read_bandwidth = "number" })
        assert.is_true(math.abs(g.bandwidth_share - g.weight_bytes_per_token * g.tokens_per_second / g.read_bandwidth)
            < 1e-9)
        assert.is_true(g.peak_bytes > 1e6)
    end)

    it("takes every parameter of the contract, and a seed makes it repeatable", function()
        local words = { "generate", "--ids", "401,402", "--max-tokens=12", "--temperature", "0.9", "--top-k", "40",
            "--top-p", "0.95", "--min-p", "0.01", "--seed", "7", "--repetition-penalty", "1.1" }
        local first, _, code = run(words)
        assert.equal(0, code)
        assert.equal("Once upon", first:sub(1, 9))
        assert.equal(first, (run(words)))
        local file = os.tmpname()
        local f = assert(io.open(file, "w"))
        f:write("Once upon")
        f:close()
        words[2], words[3] = "--prompt-file", file
        assert.equal(first, (run(words)))
        os.remove(file)
    end)

    it("shows logits and log-probabilities", function()
        local one = object { "logits", "--ids", "401", "--top", "3", "--json" }
        assert.same({ 401 }, one.ids)
        assert.same({}, one.logprobs)
        assert.equal(3, #one.rows[1].top)
        local out = run { "logits", "--ids", "401", "--json" }
        assert.truthy(out:find('"logprobs":[]', 1, true))
        local all = object { "logits", "--prompt", "Once upon a time", "--all", "--top", "2", "--cache", "f32",
            "--json" }
        assert.equal(4, #all.rows)
        assert.equal(3, #all.logprobs)
        for i, row in ipairs(all.rows) do
            assert.equal(i - 1, row.position)
            assert.is_true(row.top[1][2] >= row.top[2][2] and row.norm > 0)
        end
        assert.same(all.rows[4], object { "logits", "--prompt", "Once upon a time", "--top", "2", "--cache", "f32",
            "--json" }.rows[1])
    end)

    it("measures perplexity, the same in windows of any size that holds the text", function()
        local file = os.tmpname()
        local f = assert(io.open(file, "w"))
        f:write(("Once upon a time, there was a little girl named Lily. "):rep(6))
        f:close()
        local wide = object { "perplexity", "--file", file, "--json" }
        local same = object { "perplexity", "--file", file, "--context", "200", "--json" }
        local narrow = object { "perplexity", "--file", file, "--context", "16", "--json" }
        os.remove(file)
        assert.equal(wide.nll, same.nll)
        assert.is_true(math.abs(wide.perplexity - math.exp(wide.nll)) < 1e-9)
        assert.is_true(narrow.tokens < wide.tokens)
        assert.is_true(narrow.nll > wide.nll)
    end)

    it("chats in one message and line by line", function()
        local reply = object { "chat", "--message", "Tell me a story about Tom and a boat.", "--temperature", "0",
            "--json" }
        assert.equal("end", reply.stop)
        assert.truthy(reply.analysis:find("Tom", 1, true))
        assert.truthy(reply.final:find("Tom", 1, true))
        assert.equal(2, #reply.messages)
        local out, err, code = run({ "chat", "--max-tokens", "8", "--temperature", "0" }, "Hello.\nAgain.\n")
        assert.equal(0, code, err)
        assert.equal("[analysis] The user wants", out:sub(1, 25))
        assert.equal(2, select(2, out:gsub("[^\n]+\n\n", "")))
        assert.equal(1 + 2 + 2, #object({ "chat", "--max-tokens", "3", "--json" }, "Hello.\nAgain.\n").messages)
    end)

    it("keeps the text of a generation that an error stops, and tells of it", function()
        local source = folder.read(MOONLOOM_HOME .. "/recipes/loop.lua")
        local broken = source:gsub("(function M%.next%(g%)\n)", "%1    if #g.tokens == 5 then foo.bar() end\n")
        folder.write("loop.lua", broken)
        local words = { "generate", "--temperature", "0", "--max-tokens", "9", "Once upon a time" }
        local variables = { MOONLOOM_RECIPES = folder.path "" }
        local out, err, code = run(words, "", variables)
        assert.equal("Once upon a time, there was a little\n", out)
        assert.truthy(err:find("^moonloom: stopped after 5 tokens: [^\n]*/loop.lua:%d+: attempt to index global 'foo'"))
        assert.equal(1, code)
        words[#words + 1] = "--json"
        out, err, code = run(words, "", variables)
        assert.equal(1, code)
        assert.truthy(err:find("stopped after 5 tokens", 1, true))
        local g = json.decode(out)
        assert.same({ "error", ", there was a little" }, { g.stop, g.text })
        assert.truthy(g.problem:find("loop.lua:%d+: attempt to index global 'foo'"))
        folder.remove()
    end)

    it("prints help for every recipe", function()
        for _, name in ipairs(require("moonloom.recipe.live").names()) do
            local out, err, code = run { name, "--help" }
            assert.equal(0, code, err)
            assert.truthy(out:find("usage: moonloom " .. name:gsub("_", " "), 1, true))
            assert.truthy(out:find("--json", 1, true))
        end
        assert.truthy(run({ "generate", "--help" }):find("--max-tokens N", 1, true))
    end)

    it("has every global option in its own help, in that of recipes, and from Lua, from one table", function()
        local arguments = require "moonloom.recipe.arguments"
        local program, recipe = run { "--help" }, run { "logits", "--help" }
        for _, row in ipairs(require("moonloom.recipe.options").list) do
            local option = (row.short or "--" .. row.name:gsub("_", "-")) .. (row.word and " " .. row.word or "")
            local line = "\n  " .. option .. " "
            assert.equal(row.where ~= "recipe", program:find(line, 1, true) ~= nil, option)
            assert.equal(row.where ~= "program", recipe:find(line, 1, true) ~= nil, option)
            assert.equal(row.set ~= nil, (pcall(arguments.parameter, "x", arguments.all {}, row.name)), row.name)
        end
    end)

    it("exits with 2 and a usage line after wrong usage", function()
        for _, case in ipairs {
            { { "generate", "--promt", "x" }, "did you mean '--prompt'?" },
            { { "generate" }, "needs one of" },
            { { "generate", "--prompt" }, "--prompt needs a value" },
            { { "generate", "x", "--max-tokens", "many" }, "--max-tokens must be a whole number, not 'many'" },
            { { "generate", "x", "--max-tokens", "0" }, "at least 1" },
            { { "generate", "x", "--temperature", "inf" }, "--temperature must be a number, not inf" },
            { { "generate", "x", "--cache", "q4" }, "one of bf16, f32" },
            { { "generate", "x", "--json=5" }, "--json takes no value" },
            { { "generate", "x", "y" }, "what is 'y'?" },
            { { "generate", "x", "-z" }, "no option '-z'" },
            { { "generate", "x", "--session", "5" }, "only be given from Lua" },
            { { "generate", "x", "--chain", "greedi" }, "did you mean 'greedy'?" },
            { { "logits" }, "needs either" },
            { { "perplexity" }, "needs either" },
            { { "no-such-recipe" }, "no recipe" },
        } do
            local out, err, code = run(case[1])
            assert.equal(2, code, table.concat(case[1], " ") .. ": " .. err)
            assert.equal("", out)
            assert.truthy(err:find(case[2], 1, true), err)
            assert.is_nil(err:find("stack traceback", 1, true))
        end
    end)

    it("exits with 1 and one sentence after a failure", function()
        for _, case in ipairs {
            { { "generate", "--prompt-file", "/no/such/file" }, "/no/such/file" },
            { { "generate", "x", "-m", "/no/such/model.gguf" }, "/no/such/model.gguf" },
            { { "generate", "x", "-m", MOONLOOM_HOME .. "/README.md" }, "README.md" },
            { { "generate", "--ids", "99999" }, "99999" },
            { { "perplexity", "--file", "/no/such/file", "--json" }, "/no/such/file" },
            { { "generate", "--prompt-file", "/" }, "moonloom: the prompt cannot be read: /: Is a directory" },
            { { "perplexity", "--file", "/" }, "moonloom: the text cannot be read: /: Is a directory" },
            { { "forks", "--file", "/" }, "moonloom: the text cannot be read: /: Is a directory" },
            { { "kv", "--measure", "--file", "/" }, "moonloom: the text cannot be read: /: Is a directory" },
        } do
            local out, err, code = run(case[1])
            assert.equal(1, code, table.concat(case[1], " ") .. ": " .. err)
            assert.equal("", out)
            assert.truthy(err:find(case[2], 1, true), err)
            assert.equal(1, select(2, err:gsub("\n", "")), err)
        end
    end)

    it("prints a story from -e, once", function()
        local out, err, code = run { "-e", 'print(generate{prompt="Once upon a time", max_tokens=32, temperature=0})' }
        assert.same({ 0, "" }, { code, err })
        assert.equal("Once upon a time, there was a little girl named Lily.", out:sub(1, 53))
        assert.equal(1, select(2, out:gsub("Once upon a time", "")))
    end)
end)
