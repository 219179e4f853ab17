-- Samplers, policies and parameters at the prompt: help on them, and completion.
local prompts = require "helpers.prompt"

if not prompts.available then
    it("help on samplers", function() pending("no pseudo terminals here: is /dev/pts mounted?") end)
    return
end

local MINE = [[
return {
    summary = "shuns a token", source = "a test",
    parameters = {
        { name = "id", type = "integer", min = 0, required = true, doc = "which one" },
        { name = "strength", type = "number", default = 5, doc = "how much" },
    },
    apply = function(candidates, p) candidates:add(p.id, -p.strength) end,
}
]]

describe("samplers and policies at the prompt", function()
    local prompt, session

    local function write(name, text)
        local path = prompt.folder .. "/recipes/" .. name
        os.execute("mkdir -p " .. path:match("^.*/"))
        local file = assert(io.open(path, "w"))
        file:write(text)
        file:close()
    end

    setup(function()
        prompt = prompts.new()
        session = prompt:start()
        write("samplers/mine.lua", MINE) -- while the prompt runs
        write("policies/frugal.lua", "return { summary = 'four bits', bits = 4 }\n")
    end)

    teardown(function()
        prompt:close()
    end)

    -- What `line` becomes when Tab is pressed at its end; the line is given up.
    local function completed(line)
        session:send(line .. "\t")
        local shown = session:watch(150):gsub("\n.*", "")
        session:send("\3")
        session:expect("moon> ")
        return shown
    end

    it("are explained by ?name and ??name, from the files", function()
        for _, name in ipairs { "?mine", "?samplers.mine" } do
            local text = prompt:answer(name)
            assert.truthy(text:find("mine(id, strength=5)   a sampler: shuns a token", 1, true), text)
            assert.truthy(text:find("which one (a whole number, at least 0, required)", 1, true), text)
            assert.truthy(text:find("from: a test", 1, true), text)
        end
        assert.truthy(prompt:answer("??mine"):find("candidates:add(p.id, -p.strength)", 1, true))
        local text = prompt:answer("?top_k")
        assert.truthy(text:find("top_k(k)   a sampler: only the k best", 1, true), text)
        assert.truthy(text:find("top_k   a parameter of chat, generate", 1, true), text)
        assert.truthy(prompt:answer("?samplers"):find("mine%(id, strength=5%) +shuns a token"))
        assert.truthy(prompt:answer("?policies"):find("frugal +four bits"))
        assert.truthy(prompt:answer("?frugal"):find("a policy for keys and values: four bits", 1, true))
        assert.truthy(prompt:answer("?threads"):find("a parameter of every recipe", 1, true))
        assert.truthy(prompt:answer("?temprature"):find("did you mean 'temperature'?", 1, true))
    end)

    it("stand beside the heads of files, which are the manual of recipes and modules", function()
        for name, words in pairs {
            ["?kv"] = "Keys and values lie in pages of 64 tokens", ["?bench"] = "Decoding is bound by the bandwidth",
            ["?saved"] = "moonloom.restore(", ["?sessions"] = "The cache is the truth", ["?cache"] = "the two part",
            ["?moonloom.policy"] = "hot_tokens    the newest tokens that stay plain", ["?mine"] = "a sampler",
        } do
            local text = prompt:answer(name)
            assert.truthy(text:find(words, 1, true), name .. ": " .. text)
        end
    end)

    it("are completed where a string names one, and their parameters", function()
        for typed, whole in pairs {
            ['generate{chain={"gre'] = 'generate{chain={"greedy"',
            ['generate{chain = { {"top_k", 4}, {"tem'] = 'generate{chain = { {"top_k", 4}, {"temperature"',
            ['generate{chain = "top_k=4,gre'] = 'generate{chain = "top_k=4,greedy',
            ['generate{chain = {{"mine", stre'] = 'generate{chain = {{"mine", strength=',
            ['generate{kv = "fru'] = 'generate{kv = "frugal"', ["?samplers.rep"] = "?samplers.repetition_penalty",
            ["?frug"] = "?frugal",
        } do assert.equal(whole, (completed(typed):gsub(" $", ""))) end
    end)

    it("are refused with a mark at what was typed", function()
        local text = prompt:answer('generate{ prompt = "Once", chain = { { "mine", 5, stren = 1 } } }')
        assert.truthy(text:find("error: generate: chain, entry 1 (mine) has no parameter 'stren'", 1, true), text)
        assert.truthy(text:find("| generate{ prompt", 1, true), text)
        assert.is_nil(text:find("samplers.lua", 1, true), text)
    end)
end)
