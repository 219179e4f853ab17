-- The tokenizer against the golden ids of both real vocabularies at hand.
local cjson = require "cjson"
local tokenizer = require "moonloom.tokenizer"

local home = require("moonloom._core.ffi").home
local shared = home .. "/../shared"

local function read(path)
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read("*a")
    file:close()
    return text
end

describe("tokenizer of tiny-gpt-oss", function()
    local tiny = tokenizer.open(home .. "/data/tiny-gpt-oss.gguf")

    it("gives the golden ids, with and without special tokens", function()
        local text = read(shared .. "/golden/tokenizer.json")
        if not text then return pending("../shared/golden/tokenizer.json is absent") end
        local cases = cjson.decode(text)
        assert.is_true(#cases > 5)
        for _, case in ipairs(cases) do
            assert.same(case.ids, tiny:encode(case.text))
            assert.same(case.ids_no_special, tiny:encode(case.text, { special = false }))
            assert.equal(case.text, tiny:decode(case.ids))
            assert.equal(case.text, tiny:decode(case.ids_no_special))
        end
    end)
end)

describe("tokenizer of stories260K", function()
    it("gives the golden ids, begin of text first", function()
        local text = read(shared .. "/golden/teacher.json")
        if not text then return pending("../shared/golden/teacher.json is absent") end
        local llama = tokenizer.open(shared .. "/models/stories260K/stories260K-f32.gguf")
        for _, case in ipairs(cjson.decode(text).prompts) do
            assert.same(case.ids, llama:encode(case.text, { bos = true }))
            assert.equal("<s>" .. case.text, llama:decode(case.ids))
            table.remove(case.ids, 1)
            assert.same(case.ids, llama:encode(case.text))
            assert.equal(case.text, llama:decode(case.ids))
        end
    end)
end)
