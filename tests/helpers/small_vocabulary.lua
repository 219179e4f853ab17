-- Small vocabularies as GGUF files, whole or damaged on purpose.
local folder = require "helpers.folder"
local tokenizer = require "moonloom.tokenizer"
local writer = require "moonloom.file.gguf_writer"

local M = {}

-- GPT-2's spelling of a byte as a printable character (openai/gpt-2, encoder.py).
local spelling = {}
do
    local other = 256
    for byte = 0, 255 do
        local prints = byte >= 33 and byte <= 126 or byte >= 161 and byte ~= 173
        local c = prints and byte or other
        if not prints then other = other + 1 end
        spelling[string.char(byte)] = c < 128 and string.char(c)
            or string.char(0xc0 + math.floor(c / 64), 0x80 + c % 64)
    end
end

--- Bytes as GPT-2 spells them.
function M.spell(bytes)
    return (bytes:gsub(".", spelling))
end

local spell = M.spell

--- Metadata of a byte-level BPE: 256 bytes, what `merges` ({ { "a", "b" }, ... }) make, then special tokens.
function M.bpe(merges, specials)
    local tokens, types, texts = {}, {}, {}
    for byte = 0, 255 do tokens[byte + 1], types[byte + 1] = spell(string.char(byte)), 1 end
    for i, merge in ipairs(merges) do
        tokens[#tokens + 1], types[#types + 1] = spell(merge[1] .. merge[2]), 1
        texts[i] = spell(merge[1]) .. " " .. spell(merge[2])
    end
    for _, special in ipairs(specials or {}) do tokens[#tokens + 1], types[#types + 1] = special[1], special[2] end
    return {
        { "tokenizer.ggml.model", "string", "gpt2" },
        { "tokenizer.ggml.pre", "string", "gpt-2" },
        { "tokenizer.ggml.tokens", "string[]", tokens },
        { "tokenizer.ggml.token_type", "i32[]", types },
        { "tokenizer.ggml.merges", "string[]", texts },
    }
end

--- Metadata of a SentencePiece BPE: <unk>, <s>, </s>, 256 bytes, then `pieces` ({ { "▁a", score }, ... }).
function M.sentencepiece(pieces)
    local tokens, types, scores = { "<unk>", "<s>", "</s>" }, { 2, 3, 3 }, { 0, 0, 0 }
    for byte = 0, 255 do
        tokens[#tokens + 1], types[#types + 1], scores[#scores + 1] = ("<0x%02X>"):format(byte), 6, 0
    end
    for _, piece in ipairs(pieces) do
        tokens[#tokens + 1], types[#types + 1], scores[#scores + 1] = piece[1], piece[3] or 1, piece[2]
    end
    return {
        { "tokenizer.ggml.model", "string", "llama" },
        { "tokenizer.ggml.tokens", "string[]", tokens },
        { "tokenizer.ggml.token_type", "i32[]", types },
        { "tokenizer.ggml.scores", "f32[]", scores },
        { "tokenizer.ggml.bos_token_id", "u32", 1 },
        { "tokenizer.ggml.eos_token_id", "u32", 2 },
    }
end

--- Sets, adds or (kind nil) removes a key.
function M.set(meta, key, kind, value)
    for i, entry in ipairs(meta) do
        if entry[1] == key then
            if kind then meta[i] = { key, kind, value } else table.remove(meta, i) end
            return meta
        end
    end
    meta[#meta + 1] = { key, kind, value }
    return meta
end

--- Writes the file; its path.
function M.write(meta)
    local path = folder.path("small.gguf")
    writer.save(path, { force = true }, function(file)
        file:meta("general.architecture", "string", "none")
        for _, entry in ipairs(meta) do file:meta(entry[1], entry[2], entry[3]) end
    end)
    return path
end

--- Writes the file and opens its tokenizer.
function M.open(meta)
    return tokenizer.open(M.write(meta))
end

return M
