-- What a loader hands to core/text: tools/vocabulary.c prints it, for it is in no public header.
local folder = require "helpers.folder"
local small = require "helpers.small_vocabulary"

local K = "tokenizer.ggml."

-- What a shell command prints, and its exit code.
local function run(command)
    local pipe = assert(io.popen(("cd '%s' && { %s; } 2>&1; printf '\n%%d' $?"):format(MOONLOOM_HOME, command)))
    local text, code = pipe:read("*a"):match("^(.*)\n(%d+)$")
    pipe:close()
    return text, tonumber(code)
end

describe("the vocabulary of a GGUF file", function()
    local program

    setup(function()
        program = folder.path("vocabulary")
        local text, code = run("cc -std=gnu11 -O1 -Wall -Wextra -Werror -Icore tests/tools/vocabulary.c core/load/*.c "
            .. "core/base/*.c core/dtype/dtype.c core/tensor/tensor.c -lpthread -lm -o " .. program)
        assert.equal("", text)
        assert.equal(0, code)
    end)
    teardown(folder.remove)

    -- The lines that the program prints of a file, by what stands in front of the colon.
    local function filled(meta)
        local text, code = run(program .. " " .. small.write(meta))
        assert(code == 0, text)
        local lines = {}
        for label, rest in text:gmatch("([^\n:]+): ?([^\n]*)") do lines[label] = rest end
        return lines
    end

    local function quoted(texts)
        local parts = {}
        for i, text in ipairs(texts) do parts[i] = "'" .. text .. "'" end
        return table.concat(parts, " ")
    end

    local function byte_level(changes)
        local meta = small.bpe({ { "a", "b" }, { "ab", " " } }, { { "<|x|>", 3 }, { "<|y|>", 4 } })
        for key, pair in pairs(changes or {}) do small.set(meta, K .. key, pair[1], pair[2]) end
        return meta
    end

    it("has every list, id and flag of byte-level BPE, the strings where the file has them", function()
        local meta = byte_level { bos_token_id = { "u32", 258 }, eos_token_id = { "u16", 259 },
            eot_token_id = { "i64", 3 }, eom_token_id = { "u8", 4 }, add_bos_token = { "bool", true } }
        local lines = filled(meta)
        assert.equal("byte-level", lines.scheme)
        assert.equal(quoted(meta[3][3]), lines["tokens 260"])
        assert.equal("right", lines["tokens bytes"])
        assert.equal(table.concat(meta[4][3], " "), lines.types)
        assert.equal("", lines.scores)
        assert.equal("bos 258, unknown -1, ends 259 3 4", lines.ids)
        assert.equal("add_bos 1, add_space -1", lines.flags)
        assert.equal("'gpt-2'", lines.pre)
        assert.equal(quoted { "a b", "ab Ġ" }, lines["tokenizer.ggml.merges 2"])
        assert.equal("right", lines["tokenizer.ggml.merges bytes"])
    end)

    it("has -1, nothing or an empty list where the file says nothing, or says that there is none", function()
        local meta = small.set(byte_level { bos_token_id = { "i32", -1 }, eos_token_id = { "u32", 2 ^ 32 - 1 },
            merges = { "string[]", {} }, unknown_token_id = { "u32", 1 }, add_space_prefix = { "bool", true },
            scores = { "f32[]", { 1 } } }, K .. "pre")
        local lines = filled(small.set(meta, K .. "token_type"))
        assert.equal("bos -1, unknown -1, ends -1 -1 -1", lines.ids)
        assert.equal("add_bos -1, add_space -1", lines.flags)
        for _, label in ipairs { "pre", "types", "scores", "tokenizer.ggml.merges 0" } do
            assert.equal("", lines[label], label)
        end
    end)

    it("has the scores of SentencePiece, and types and scores of every width", function()
        local meta = small.sentencepiece { { "▁a", -1.5 }, { "b", 2 ^ 20 }, { "", 0, 5 } }
        for _, entry in ipairs { { "unknown_token_id", "u32", 0 }, { "add_space_prefix", "bool", false },
            { "add_bos_token", "bool", false } } do
            small.set(meta, K .. entry[1], entry[2], entry[3])
        end
        local types, scores = meta[3][3], meta[4][3]
        local written = {}
        for i, score in ipairs(scores) do written[i] = ("%g"):format(score) end
        for _, kinds in ipairs { { "i32[]", "f32[]" }, { "u8[]", "f64[]" }, { "i64[]", "f32[]" } } do
            small.set(meta, K .. "token_type", kinds[1], types)
            small.set(meta, K .. "scores", kinds[2], scores)
            local lines = filled(meta)
            assert.equal("sentencepiece", lines.scheme)
            assert.equal(quoted(meta[2][3]), lines["tokens 262"])
            assert.equal(table.concat(types, " "), lines.types)
            assert.equal(table.concat(written, " "), lines.scores)
            assert.equal("bos 1, unknown 0, ends 2 -1 -1", lines.ids)
            assert.equal("add_bos 0, add_space 0", lines.flags)
            assert.equal("", lines["merges 0"])
        end
    end)

    it("is refused as the format's own keys have it", function()
        for words, changes in pairs {
            ["tokenizer.ggml.bos_token_id is 260 in a vocabulary of 260"] = { bos_token_id = { "u32", 260 } },
            ["tokenizer.ggml.token_type of token 0 is 9223372036854775807"] =
                { token_type = { "u64[]", { 0xffffffffffffffffULL } }, tokens = { "string[]", { "a" } } },
            ["there is no tokenizer in this file (tokenizer.ggml.model is missing)"] = { model = {} },
        } do
            local text, code = run(program .. " " .. small.write(byte_level(changes)))
            assert.equal(1, code)
            assert.truthy(text:find(words, 1, true), text)
        end
    end)
end)
