-- gpt-oss's own vocabulary: 10,000 texts against the ids of npm's gpt-tokenizer and OpenAI's tiktoken core (see
-- tools/o200k.mjs, which wrote them).
local cjson = require "cjson"
local folder = require "helpers.folder"
local home = require("moonloom.ffi").home
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

-- Lists the texts that fail, so that one failure does not hide the others.
local function check_all(o200)
    local wrong = {}
    local function expect(ok, what, text)
        if not ok then wrong[#wrong + 1] = what .. ": " .. cjson.encode(text) end
    end
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
    assert.equal("", table.concat(wrong, "\n", 1, math.min(#wrong, 10)))
end

describe("o200k", function()
    teardown(folder.remove)

    for _, all in ipairs { false, true } do
        it(all and "gives the same ids with every split of a token among the merges" or
            "gives OpenAI's ids and the exact text back", function()
            if not present(vocabulary) then return pending("../shared/models/o200k_base.tiktoken is absent") end
            local path = folder.path("o200k.gguf")
            assert.equal(all and 446189 or 199742, o200k.write(path, vocabulary, all))
            local o200 = tokenizer.open(path)
            assert.equal(201088, o200:size())
            for _, id in ipairs { 199998, 199999, 200000, 200006, 200012, 200018, 201087 } do
                assert.equal(o200k.special(id), o200:piece(id))
                assert.equal(id, o200:find(o200k.special(id)))
                assert.is_true(o200:is_special(id))
            end
            assert.is_false(o200:is_special(199997))
            assert.is_true(o200:is_end(199999) and o200:is_end(200002) and o200:is_end(200012))
            assert.is_false(o200:is_end(200007))
            check_all(o200)
        end)
    end
end)
