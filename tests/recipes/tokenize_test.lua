-- The tokenize recipe: from Lua, and as the command.
local cjson = require "cjson"
local folder = require "helpers.folder"
local home = require("moonloom._core.ffi").home
local small = require "helpers.small_vocabulary"
local tokenize = require("moonloom.recipe.live").get("tokenize")

local build = os.getenv("MOONLOOM_BUILD") or home .. "/build"

-- Runs the command with a text on standard input; returns output, errors and exit code.
local function command(words, input)
    local out, err = folder.path("out"), folder.path("err")
    local line = ("MOONLOOM_HOME='%s' '%s/moonloom' tokenize %s <'%s' >'%s' 2>'%s'; echo $?"):format(home, build, words,
        folder.write("in", input or ""), out, err)
    local pipe = io.popen(line)
    local code = tonumber(pipe:read("*a"))
    pipe:close()
    return folder.read(out), folder.read(err), code
end

describe("tokenize", function()
    teardown(folder.remove)

    it("gives ids, and text back, from Lua", function()
        local tokens = tokenize { text = "Once upon<|end|>" }
        assert.same({ 401, 402, 1021 }, tokens.ids)
        assert.equal("     401  Once\n     402   upon\n    1021  <|end|>\n3 tokens", tostring(tokens))
        assert.same({ 401 }, tokenize("Once").ids)
        assert.equal("Once upon<|end|>", tokenize({ decode = tokens.ids }).text)
        assert.same({ 27, 91, 68, 262, 91, 29 }, tokenize({ text = "<|end|>", special = false }).ids)
    end)

    it("gives JSON on the command line", function()
        assert.equal('{"ids":[401,402]}\n', (command("--text 'Once upon' --json")))
        assert.equal('{"ids":[27,91,68,262,91,29]}\n', (command("--no-special --json", "<|end|>")))
        assert.equal('{"ids":[401]}\n', (command("--json --file '" .. folder.write("text", "Once") .. "'")))
        assert.equal('{"ids":[]}\n', (command("--json")))
        assert.equal('{"text":"Once\239\191\189<|end|>"}\n', (command("--decode 401,172,253,1021 --json")))
        assert.equal("Once upon\n", (command("--decode 401,402")))
    end)

    it("answers line by line", function()
        local texts, input = { "Once upon", "", "é\n🙂\0<|start|>", ("a "):rep(1000) }, {}
        for i, text in ipairs(texts) do input[i] = cjson.encode(text) .. "\n" end
        local out, err, code = command("--lines", table.concat(input))
        assert.equal("", err)
        assert.equal(0, code)
        local at = 0
        for line in out:gmatch("[^\n]+") do
            at = at + 1
            assert.same(tokenize({ text = texts[at] }).ids, cjson.decode(line))
        end
        assert.equal(#texts, at)
    end)

    it("names the line that is no JSON string", function()
        for _, bad in ipairs { "Once", "[1]", "12", "" } do
            local out, err, code = command("--lines", '"Once"\n' .. bad .. "\n")
            assert.equal("[401]\n", out)
            assert.equal(1, code)
            assert.truthy(err:find("line 2 of standard input is no JSON string", 1, true), err)
        end
    end)

    it("refuses what it cannot do with a sentence", function()
        for words, expected in pairs {
            ["--decode 1024"] = { 1, "there is no token 1024: ids are 0 to 1023" },
            ["--decode 1,x"] = { 1, "'x' is no token id" },
            ["--file /no/such/file"] = { 1, "/no/such/file: No such file or directory" },
            ["--text a --file b"] = { 2, "tokenize takes one of text, file, decode and lines" },
        } do
            local out, err, code = command(words)
            assert.equal("", out)
            assert.equal(expected[1], code)
            assert.truthy(err:find(expected[2], 1, true), err)
        end
    end)

    it("needs no model that runs, and puts the begin token where it is asked for", function()
        small.open(small.sentencepiece { { "▁", -1 }, { "▁a", -1 } }):close()
        local file = "-m '" .. folder.path("small.gguf") .. "' --json --text a"
        assert.equal('{"ids":[260]}\n', (command(file)))
        assert.equal('{"ids":[1,260]}\n', (command(file .. " --bos")))
    end)
end)
