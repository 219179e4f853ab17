-- gpt-oss's own vocabulary: 10,000 texts against the ids of npm's gpt-tokenizer and OpenAI's tiktoken core (see
-- tools/o200k.mjs, which wrote them).
local cjson = require "cjson"
local folder = require "helpers.folder"
local home = require("moonloom._core.ffi").home
local o200k = require "helpers.o200k"
local tokenizer = require "moonloom.tokenizer"

local vocabulary = home .. "/../shared/models/o200k_base.tiktoken"

local function present(path)
    local file = io.open(path, "rb")
    return file and file:close()
end

local function golden()
    local pipe = assert(io.popen("gzip -dc '" .. home .. "/tests/golden/o200k.jsonl.gz'"))
    local cases = {}
    for line in pipe:lines() do cases[#cases + 1] = cjson.decode(line) end
    pipe:close()
    return cases
end

local function same_list(a, b)
    if #a ~= #b then return false end
    for i = 1, #a do
        if a[i] ~= b[i] then return false end
    end
    return true
end

local function streamed(o200, ids)
    local decoder, parts = o200:decoder(), {}
    for i, id in ipairs(ids) do parts[i] = decoder:push(id) end
    return table.concat(parts) .. decoder:flush()
end

-- Collects the texts that fail, so that one failure does not hide the others.
local function new_report()
    local wrong = {}
    return function(ok, what, text)
        if not ok then wrong[#wrong + 1] = what .. ": " .. cjson.encode(text) end
    end, function()
        assert.equal("", table.concat(wrong, "\n", 1, math.min(#wrong, 10)))
    end
end

local function check_all(o200)
    local expect, conclude = new_report()
    local cases = golden()
    assert.equal(10000, #cases)
    for _, case in ipairs(cases) do
        local ids = o200:encode(case.text)
        expect(same_list(ids, case.ids), "ids", case.text)
        expect(o200:decode(ids) == case.text, "decode", case.text)
        expect(streamed(o200, ids) == case.text, "stream", case.text)
        if case.plain then
            ids = o200:encode(case.text, { special = false })
            expect(same_list(ids, case.plain), "plain ids", case.text)
            expect(o200:decode(ids) == case.text, "plain decode", case.text)
        end
    end
    conclude()
end

-- The same vocabulary under another pre-tokenizer.
local function with_pre(bytes, pre)
    local changed, count = bytes:gsub("\6%z%z%z%z%z%z%zgpt%-4o", function()
        return string.char(#pre) .. ("\0"):rep(7) .. pre
    end)
    assert.equal(1, count)
    return tokenizer.open(folder.write("pre.gguf", changed))
end

local function check_pre(o200, field)
    local expect, conclude = new_report()
    local count = 0
    for _, case in ipairs(golden()) do
        if case[field] then
            count = count + 1
            expect(same_list(o200:encode(case.text), case[field]), "ids", case.text)
        end
    end
    assert.equal(2000, count)
    conclude()
end

describe("o200k", function()
    setup(function()
        if not present(vocabulary) then return end
        local every, single = o200k.write(folder.path("every.gguf"), folder.path("single.gguf"), vocabulary)
        assert(every == 446189 and single == 199742)
    end)
    teardown(folder.remove)

    local function test(name, body)
        it(name, function()
            if not present(vocabulary) then return pending("../shared/models/o200k_base.tiktoken is absent") end
            body()
        end)
    end

    test("has the vocabulary of gpt-oss", function()
        local o200 = tokenizer.open(folder.path("every.gguf"))
        assert.equal(201088, o200:size())
        for name, id in pairs {
            startoftext = 199998, endoftext = 199999, reserved_200000 = 200000, start = 200006, call = 200012,
            endofprompt = 200018, reserved_201087 = 201087,
        } do
            assert.equal("<|" .. name .. "|>", o200:piece(id))
            assert.equal(id, o200:find("<|" .. name .. "|>"))
            assert.is_true(o200:is_special(id))
        end
        assert.is_false(o200:is_special(199997))
        assert.is_true(o200:is_end(199999) and o200:is_end(200002) and o200:is_end(200012))
        assert.is_false(o200:is_end(200007))
    end)

    test("gives OpenAI's ids and the exact text back", function()
        check_all(tokenizer.open(folder.path("every.gguf")))
    end)

    test("gives them with a single merge for each token, too", function()
        check_all(tokenizer.open(folder.path("single.gguf")))
    end)

    test("splits as GPT-2 and Llama 3 do when the file says so", function()
        local bytes = folder.read(folder.path("every.gguf"))
        check_pre(with_pre(bytes, "gpt-2"), "gpt2")
        check_pre(with_pre(bytes, "llama-bpe"), "llama3")
    end)

    test("splits as Qwen 2 does: as Llama 3, but no two digits stay together", function()
        local bytes = folder.read(folder.path("every.gguf"))
        local qwen2, llama3 = with_pre(bytes, "qwen2"), with_pre(bytes, "llama-bpe")
        local expect, conclude = new_report()
        local texts, runs, plain = 0, 0, { special = false }
        for _, case in ipairs(golden()) do
            if not case.text:find("[%z\128-\255]") then -- where a digit is a byte
                local parts, expected = case.text:gsub("%d+", function(run)
                    return run:gsub(".", "%0\0"):sub(1, -2)
                end), {}
                for part in parts:gmatch("[^%z]+") do
                    for _, id in ipairs(llama3:encode(part, plain)) do expected[#expected + 1] = id end
                end
                expect(same_list(qwen2:encode(case.text, plain), expected), "ids", case.text)
                texts, runs = texts + 1, runs + (parts ~= case.text and 1 or 0)
            end
        end
        conclude()
        assert.is_true(texts > 1000 and runs > 100, texts .. " texts, " .. runs .. " with runs of digits")
    end)
end)
