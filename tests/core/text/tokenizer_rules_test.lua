-- What the tokenizer promises on any vocabulary: merging, special tokens, begin and end, streaming, exact round trips.
local folder = require "helpers.folder"
local home = require("moonloom._core.ffi").home
local run = require "helpers.command"
local small = require "helpers.small_vocabulary"
local tokenizer = require "moonloom.tokenizer"

local K = "tokenizer.ggml."
local tiny = tokenizer.open(home .. "/data/tiny-gpt-oss.gguf")

-- A seeded generator, so that a failure can be run again.
local function generator(seed)
    return function(n)
        seed = (seed * 16807) % 2147483647
        return seed % n + 1
    end
end

local function random_text(random, alphabet, length)
    local parts = {}
    for i = 1, length do parts[i] = alphabet[random(#alphabet)] end
    return table.concat(parts)
end

local function random_bytes(random, length)
    local parts = {}
    for i = 1, length do parts[i] = string.char(random(256) - 1) end
    return table.concat(parts)
end

local function stream(t, ids)
    local decoder, parts = t:decoder(), {}
    for i, id in ipairs(ids) do parts[i] = decoder:push(id) end
    parts[#parts + 1] = decoder:flush()
    return table.concat(parts), parts
end

local function ids_of(t, texts)
    local ids = {}
    for i, text in ipairs(texts) do ids[i] = assert(t:find(text)) end
    return ids
end

-- Byte-pair encoding as its definition reads, in quadratic time: `best(left, right)` ranks a pair, or is nil.
local function plain_merge(parts, best)
    while true do
        local rank, where
        for i = 1, #parts - 1 do
            local this = best(parts[i], parts[i + 1])
            if this and (not rank or this < rank) then rank, where = this, i end
        end
        if not where then return parts end
        parts[where] = parts[where] .. table.remove(parts, where + 1)
    end
end

local function characters(text)
    local parts = {}
    for character in text:gmatch("[%z\1-\127\194-\244][\128-\191]*") do parts[#parts + 1] = character end
    return parts
end

describe("merging", function()
    teardown(folder.remove)

    it("follows the ranks, leftmost first, in byte-level BPE", function()
        local random = generator(11)
        for _ = 1, 20 do
            local merges, ranks, known = {}, {}, { "a", "b", "c" }
            for rank = 1, 25 do
                local left, right = known[random(#known)], known[random(#known)]
                local made = left .. right
                if not ranks[made] then
                    ranks[made] = rank
                    ranks[left .. "\0" .. right] = rank
                    known[#known + 1], merges[#merges + 1] = made, { left, right }
                end
            end
            local t = small.open(small.bpe(merges))
            for _ = 1, 50 do
                local text = random_text(random, { "a", "b", "c" }, random(40))
                local expected = plain_merge(characters(text), function(left, right)
                    return ranks[left .. "\0" .. right]
                end)
                assert.same(ids_of(t, expected), t:encode(text))
            end
        end
    end)

    -- Any two tokens whose product is a token may be a merge, in any order, and more than once; tokens come in any
    -- order, and some bytes have two. Enough merges for several threads.
    it("follows the ranks of any list of merges in byte-level BPE", function()
        local random = generator(13)
        local bytes, letters = { "a", "b", "\195", "\128", "\169" }, { "a", "b", "À", "é" }
        local words, known = {}, { a = true, b = true, ["\195"] = true, ["\128"] = true, ["\169"] = true }
        for _ = 1, 3000 do
            local word = random_text(random, bytes, 1 + random(5))
            if not known[word] then words[#words + 1], known[word] = word, true end
        end
        local meta = small.set(small.bpe {}, K .. "token_type")
        local tokens, merges, ranks = meta[3][3], {}, {}
        for _, word in ipairs(words) do tokens[#tokens + 1] = small.spell(word) end
        for i = 1, 50 do tokens[#tokens + 1] = small.spell(words[i]) end
        for rank = 1, 12000 do
            local word = words[random(#words)]
            local at = random(#word - 1)
            local left, right = word:sub(1, at), word:sub(at + 1)
            merges[rank] = small.spell(left) .. " " .. small.spell(right)
            if known[left] and known[right] then
                ranks[left .. "|" .. right] = ranks[left .. "|" .. right] or rank
            end
        end
        local t = small.open(small.set(meta, K .. "merges", "string[]", merges))
        for _ = 1, 300 do
            local text, parts = random_text(random, letters, random(40)), {}
            for byte in text:gmatch "." do parts[#parts + 1] = byte end
            local expected = plain_merge(parts, function(left, right) return ranks[left .. "|" .. right] end)
            assert.same(ids_of(t, expected), t:encode(text))
        end
    end)

    it("follows the scores, leftmost first, in SentencePiece BPE", function()
        local random = generator(12)
        for round = 1, 20 do
            local letters = { "a", "b", "é", " " }
            local pieces, scores, known = {}, {}, { "a", "b", "é", " " }
            for _, letter in ipairs(letters) do pieces[#pieces + 1] = { (letter:gsub(" ", "▁")), -100 } end
            for _ = 1, 25 do
                local right = known[random(#known)]
                -- In every other round tokens reach over a space, so that words cannot be merged one by one.
                if round % 2 == 1 then right = right:gsub(" ", "a") end
                local made = known[random(#known)] .. right
                if not scores[made] then
                    scores[made] = random(9) - 20
                    known[#known + 1], pieces[#pieces + 1] = made, { (made:gsub(" ", "▁")), scores[made] }
                end
            end
            local t = small.open(small.set(small.sentencepiece(pieces), K .. "add_space_prefix", "bool", false))
            for _ = 1, 50 do
                local text = random_text(random, letters, random(40))
                local expected = plain_merge(characters(text), function(left, right)
                    local score = scores[left .. right]
                    return score and -score
                end)
                assert.same(ids_of(t, expected), t:encode(text))
            end
        end
    end)

    it("handles a million bytes in one piece", function()
        local random = generator(13)
        local letters = random_text(random, { "a", "b", "t", "h", "e", "o" }, 1000000)
        for _, text in ipairs {
            ("a"):rep(2000000), ("\n"):rep(2000000), (" "):rep(2000000), (" \n"):rep(1000000), ("A"):rep(1000000),
            ("\204\129"):rep(500000), ("7"):rep(1000000), ("\255"):rep(1000000), letters,
        } do
            assert.is_true(tiny:decode(tiny:encode(text)) == text)
        end
    end)

    it("handles a million bytes in one piece in SentencePiece", function()
        local pieces = { { "a", -3 }, { "aa", -1 }, { "aaaa", -2 }, { "▁", -4 }, { "▁▁", -1 } }
        local t = small.open(small.sentencepiece(pieces))
        for _, text in ipairs { ("a"):rep(1000000), (" "):rep(1000000), ("xyz"):rep(300000) } do
            assert.is_true(t:decode(t:encode(text)) == text)
        end
    end)
end)

describe("round trips", function()
    teardown(folder.remove)

    it("keep any bytes, in byte-level BPE", function()
        local random = generator(21)
        for i = 1, 500 do
            local text = random_bytes(random, random(60))
            if i % 2 == 0 then text = "Once \227\129" .. text .. "<|start|>\240\159" end
            assert.equal(text, tiny:decode(tiny:encode(text)))
            assert.equal(text, tiny:decode(tiny:encode(text, { special = false })))
        end
    end)

    it("keep any bytes, in SentencePiece BPE", function()
        local random = generator(22)
        local pieces = { { "▁", -1 }, { "▁a", -2 }, { "a", -3 }, { "é", -4 }, { "b", -5 }, { "▁▁", -6 } }
        for _, prefix in ipairs { true, false } do
            local t = small.open(small.set(small.sentencepiece(pieces), K .. "add_space_prefix", "bool", prefix))
            for _ = 1, 500 do
                local text = random_text(random, { " ", "a", "é", "b", "\255", "\n", "<s>", "</s>", "漢", "\226\150" },
                    random(20)) .. random_bytes(random, random(9) - 1)
                local spaced = text:gsub("▁", " ")
                assert.equal(spaced, t:decode(t:encode(text)))
                assert.equal(spaced, t:decode(t:encode(text, { special = false })))
            end
        end
    end)

    it("encode nothing as nothing", function()
        assert.same({}, tiny:encode(""))
        assert.equal("", tiny:decode {})
        assert.same({}, small.open(small.sentencepiece { { "▁", -1 } }):encode(""))
    end)
end)

describe("a pre-tokenizer", function()
    teardown(folder.remove)

    it("keeps digits together, three at most, or not at all", function()
        local meta = small.bpe({ { "1", "2" }, { "12", "3" }, { "3", "4" } })
        local function ids(pre)
            return small.open(small.set(meta, K .. "pre", "string", pre)):encode("a1234")
        end
        assert.same({ 97, 257, 52 }, ids "llama-bpe")
        assert.same({ 97, 49, 50, 51, 52 }, ids "qwen2")
        assert.same({ 97, 49, 50, 51, 52 }, ids "deepseek-r1-qwen")
    end)
end)

describe("special tokens", function()
    teardown(folder.remove)

    it("are found longest first, wherever they stand", function()
        local names = { { "<|a|>", 3 }, { "<|a|>b", 3 }, { "[X]", 4 }, { "<", 3 }, { "<|user|>", 4 } }
        local t = small.open(small.bpe({}, names))
        local a, ab, x, less, user = 256, 257, 258, 259, 260
        assert.same({ ab, a, 99, less, 124, x }, t:encode("<|a|>b<|a|>c<|[X]"))
        assert.same({ user, a, less, 124, 97 }, t:encode("<|user|><|a|><|a"))
        -- As plain text only the user-defined one is left; one that looks like a control token counts as one.
        assert.same({ 60, 124, 97, 124, 62, x }, t:encode("<|a|>[X]", { special = false }))
        assert.same({ 60, 124, 117, 115, 101, 114, 124, 62 }, t:encode("<|user|>", { special = false }))
        assert.is_true(t:is_special(a) and t:is_special(user))
        assert.is_false(t:is_special(x) or t:is_special(97) or t:is_special(-1) or t:is_special(100000))
    end)

    it("begin a text where the file asks for it, once", function()
        local meta = small.bpe({}, { { "<|begin|>", 3 } })
        small.set(meta, K .. "bos_token_id", "u32", 256)
        assert.same({ 97 }, small.open(meta):encode("a", { bos = true }))
        small.set(meta, K .. "pre", "string", "llama-bpe")
        assert.same({ 256, 97 }, small.open(meta):encode("a", { bos = true }))
        assert.same({ 97 }, small.open(meta):encode("a"))
        assert.same({ 256 }, small.open(meta):encode("", { bos = true }))
        assert.same({ 256, 97 }, small.open(meta):encode("<|begin|>a", { bos = true }))
        small.set(meta, K .. "add_bos_token", "bool", false)
        assert.same({ 97 }, small.open(meta):encode("a", { bos = true }))
    end)

    it("end a generation as the file and harmony say", function()
        local names = {}
        for i, name in ipairs { "return", "channel", "end", "call", "eot_id" } do
            names[i] = { "<|" .. name .. "|>", 3 }
        end
        local meta = small.bpe({}, names)
        small.set(meta, K .. "eot_token_id", "u32", 258)
        local t = small.open(meta)
        assert.is_true(t:is_end(256) and t:is_end(259) and t:is_end(260))
        assert.is_false(t:is_end(257) or t:is_end(258) or t:is_end(97) or t:is_end(-1) or t:is_end(9999))
        table.remove(names, 2) -- without channels it is no harmony vocabulary, and the file is believed
        meta = small.set(small.bpe({}, names), K .. "eot_token_id", "u32", 257)
        assert.is_true(small.open(meta):is_end(257))
    end)

    it("are found by their text", function()
        assert.equal(1020, tiny:find("<|start|>"))
        assert.equal(401, tiny:find("Once"))
        assert.is_nil(tiny:find("no such token"))
        assert.equal(1024, tiny:size())
        assert.equal("<|start|>", tiny:piece(1020))
        assert.is_false(pcall(tiny.piece, tiny, 1024))
        assert.is_false(pcall(tiny.piece, tiny, -1))
        assert.is_false(pcall(tiny.decode, tiny, { 1, 1.5 }))
        assert.is_false(pcall(tiny.decode, tiny, { 2 ^ 32 }))
        local _, problem = pcall(tiny.encode, tiny, 5)
        assert.truthy(problem:find("tokenizer:encode needs a string, not a number", 1, true))
    end)
end)

describe("the streaming decoder", function()
    teardown(folder.remove)

    local function spelled(bytes)
        local ids = {}
        for i = 1, #bytes do ids[i] = tiny:encode(bytes:sub(i, i))[1] end
        return ids
    end

    it("replaces maximal subparts as the Unicode Standard shows", function()
        local r = "\239\191\189"
        for bytes, expected in pairs {
            -- Tables 3-8 to 3-11 of section 3.9.
            ["\192\175\224\128\191\240\129\130\65"] = r:rep(8) .. "A",
            ["\237\160\128\237\191\191\237\175\65"] = r:rep(8) .. "A",
            ["\244\145\146\147\255\65\128\191\66"] = r:rep(5) .. "A" .. r:rep(2) .. "B",
            ["\225\128\226\240\145\146\241\191\65"] = r:rep(4) .. "A",
            ["\240\159\153"] = r,
            ["é\240\159\153\130!"] = "é🙂!",
        } do
            assert.equal(expected, (stream(tiny, spelled(bytes))))
        end
    end)

    it("gives whole characters only, whatever the tokens", function()
        local random = generator(31)
        for _ = 1, 200 do
            local ids = {}
            for i = 1, random(40) do ids[i] = random(tiny:size()) - 1 end
            local text, parts = stream(tiny, ids)
            assert.equal((stream(tiny, spelled(tiny:decode(ids)))), text)
            for _, part in ipairs(parts) do
                assert.equal(part, table.concat(characters(part)))
                assert.is_nil(part:find("[\192-\255]$"))
            end
        end
    end)

    it("equals decode on valid text and can be used again", function()
        local text = "Zoë 🙂 漢字 <|start|>नमस्ते\r\n"
        local decoder = tiny:decoder()
        for _ = 1, 2 do
            local parts = {}
            for i, id in ipairs(tiny:encode(text)) do parts[i] = decoder:push(id) end
            assert.equal(text, table.concat(parts) .. decoder:flush())
        end
        assert.is_false(pcall(decoder.push, decoder, 5000))
    end)

    it("drops the space that SentencePiece put in front, and only that", function()
        local t = small.open(small.sentencepiece { { "▁", -1 }, { "▁a", -2 }, { "a", -3 } })
        local ids = t:encode("a a<s> a", { bos = true })
        assert.equal("<s>a a<s> a", (stream(t, ids)))
        assert.equal("<s>a a<s> a", t:decode(ids))
        local decoder = t:decoder()
        assert.equal("a", decoder:push(assert(t:find(" a"))))
        assert.equal(" a", decoder:push(assert(t:find(" a"))))
        decoder:flush()
        assert.equal("a", decoder:push(assert(t:find(" a"))))
    end)

    it("goes on when its tokenizer is closed, which itself refuses to work", function()
        local t = small.open(small.bpe {})
        local decoder = t:decoder()
        t:close()
        t:close()
        assert.is_false(pcall(t.encode, t, "a"))
        assert.equal("a", decoder:push(97))
    end)
end)

describe("a vocabulary", function()
    teardown(folder.remove)

    -- What is wrong with a file in which `key` holds something else.
    local function refusal(meta, words)
        local ok, problem = pcall(small.open, meta)
        assert.is_false(ok, words)
        assert.truthy(problem.message:find(words, 1, true), problem.message)
    end

    local function bpe(key, kind, value)
        return small.set(small.bpe({ { "a", "b" } }, { { "<|x|>", 3 } }), K .. key, kind, value)
    end

    local function llama(key, kind, value)
        return small.set(small.sentencepiece { { "▁a", -1 } }, K .. key, kind, value)
    end

    it("that is damaged or unknown is refused with a sentence", function()
        refusal(bpe("model"), "tokenizer.ggml.model is missing")
        refusal(bpe("model", "string", "unigram"), "unknown tokenizer model 'unigram'")
        refusal(bpe("model", "u32", 7), "tokenizer.ggml.model")
        refusal(bpe("pre", "string", "deepseek-llm"), "unknown pre-tokenizer 'deepseek-llm'")
        refusal(bpe("pre", "f32", 4), "tokenizer.ggml.pre is a float")
        refusal(bpe("tokens"), "tokenizer.ggml.tokens is missing")
        refusal(bpe("tokens", "i32[]", { 1, 2 }), "tokenizer.ggml.tokens is no array of strings")
        refusal(bpe("tokens", "string", "a"), "tokenizer.ggml.tokens is no array of strings")
        refusal(bpe("tokens", "string[]", {}), "a vocabulary of 0 tokens")
        refusal(bpe("token_type", "i32[]", { 1, 1 }), "tokenizer.ggml.token_type has 2 items for 258 tokens")
        refusal(bpe("token_type", "f32[]", { 1, 1 }), "tokenizer.ggml.token_type is no array of integers")
        refusal(bpe("merges"), "tokenizer.ggml.merges is missing")
        refusal(bpe("merges", "string[]", { "a b", "ab" }), "item 1 of tokenizer.ggml.merges")
        refusal(bpe("merges", "string[]", { " " }), "item 0 of tokenizer.ggml.merges")
        refusal(bpe("merges", "string[]", { "a " }), "item 0 of tokenizer.ggml.merges")
        refusal(bpe("merges", "u32[]", { 1 }), "tokenizer.ggml.merges is no array of strings")
        refusal(bpe("bos_token_id", "u32", 258), "tokenizer.ggml.bos_token_id is 258")
        refusal(bpe("eos_token_id", "i64", -2), "tokenizer.ggml.eos_token_id is -2")
        refusal(bpe("eot_token_id", "string", "x"), "tokenizer.ggml.eot_token_id")
        refusal(bpe("add_bos_token", "string", "yes"), "tokenizer.ggml.add_bos_token")
        refusal(llama("scores"), "tokenizer.ggml.scores is missing")
        refusal(llama("scores", "f32[]", { 1, 2, 3 }), "tokenizer.ggml.scores has 3 items for 260 tokens")
        refusal(llama("scores", "string[]", { "x" }), "tokenizer.ggml.scores is no array of floats")
        refusal(llama("unknown_token_id", "u32", 99999), "tokenizer.ggml.unknown_token_id is 99999")
        refusal(small.sentencepiece { { "▁a", 0 / 0 } }, "the score of token 259 is no finite number")
        refusal(small.sentencepiece { { "▁a", -1, 7 } }, "tokenizer.ggml.token_type of token 259 is 7")
        local bytes = small.bpe {}
        table.remove(bytes[3][3], 66)
        table.remove(bytes[4][3], 66)
        refusal(bytes, "no token for byte 0x41")
    end)

    it("with changed bytes is refused with a sentence or works", function()
        local random = generator(41)
        for _, meta in ipairs { bpe("eos_token_id", "u32", 257), llama("add_space_prefix", "bool", true) } do
            small.open(meta):close()
            local whole, works = folder.read(folder.path("small.gguf")), 0
            for _ = 1, 500 do
                local bytes = whole
                for _ = 1, random(3) do
                    local at = random(#bytes)
                    bytes = bytes:sub(1, at - 1) .. string.char(random(256) - 1) .. bytes:sub(at + 1)
                end
                local ok, t = pcall(tokenizer.open, folder.write("changed.gguf", bytes))
                if ok then
                    works = works + 1
                    pcall(function() return t:decode(t:encode("ab <|x|> \255 é <s>", { bos = true })) end)
                    for id = 0, t:size() - 1 do t:piece(id) end
                else
                    assert.is_true(#t.message > 20, t.message)
                end
            end
            assert.is_true(works > 0 and works < 500)
        end
    end)

    it("may leave out what has a default", function()
        assert.same({ 256 }, small.open(bpe("pre")):encode("ab"))
        assert.same({ 256 }, small.open(bpe("token_type")):encode("ab"))
        assert.same({ 97, 98 }, small.open(bpe("merges", "string[]", {})):encode("ab"))
        assert.is_false(small.open(bpe("eos_token_id", "u32", 2 ^ 32 - 1)):is_end(0))
    end)

    it("may list a merge any number of times: the first counts, and the others cost nothing", function()
        local meta, texts = small.bpe { { "a", "b" } }, {}
        for i = 1, 300000 do texts[i] = "a b" end
        small.open(small.set(meta, K .. "merges", "string[]", texts)):close()
        local out, err, code = run { "-e", ([[
            local ffi = require "ffi"
            ffi.cdef "unsigned alarm(unsigned seconds);"
            ffi.C.alarm(20) -- instead of a minute
            local ids = require("moonloom.tokenizer").open(%q):encode(("ab"):rep(50000))
            io.write(#ids, " ", ids[1], " ", ids[50000])
        ]]):format(folder.path("small.gguf")) }
        assert.same({ "50000 256 256", "", 0 }, { out, err, code })
    end)

    it("may have a name that a long text nearly is, everywhere: Ctrl-C stops looking for it", function()
        small.open(small.sentencepiece { { ("a"):rep(1000000) .. "b", -1, 4 } }):close()
        local out, err, code = run { "-e", ([[
            local ffi = require "ffi"
            ffi.cdef "int getpid(void);"
            local t = require("moonloom.tokenizer").open %q
            os.execute(("(sleep 0.3; kill -INT %%d) &"):format(ffi.C.getpid()))
            local done = require("moonloom._core.interrupt").catch(t.encode, t, ("a"):rep(1000000))
            io.write(tostring(done), " ", #t:encode "aa")
        ]]):format(folder.path("small.gguf")) }
        assert.same({ "false 3", "", 0 }, { out, err, code })
    end)

    it("may list merges of what are no tokens: they never happen", function()
        local t = small.open(bpe("merges", "string[]", { "q r", "a b", "ab qr" }))
        assert.same({ 256, 113, 114 }, t:encode("abqr"))
    end)

    it("may have characters without tokens and bytes", function()
        local t = small.open({
            { K .. "model", "string", "llama" },
            { K .. "tokens", "string[]", { "<unk>", "▁", "a" } },
            { K .. "token_type", "i32[]", { 2, 1, 1 } },
            { K .. "scores", "f32[]", { 0, -1, -2 } },
        })
        assert.same({ 1, 2, 0, 2, 0, 0 }, t:encode("a漢a\255é"))
    end)

    it("may say the same twice: the token that text can become is found", function()
        local t = small.open(small.sentencepiece { { "\n", -1 }, { "\n", -1 }, { "▁", -1 } })
        assert.same({ 259 }, small.open(small.set(small.sentencepiece { { "\n", -1 }, { "\n", -1 } },
            K .. "add_space_prefix", "bool", false)):encode("\n"))
        assert.same({ 261, 259 }, t:encode("\n"))
    end)
end)
