--- Vocabularies for the files that recipes/measure/synth.lua writes: read from a tiktoken file, or made up in the right
--- sizes.
--
-- A vocabulary is a table in the terms of GGUF's tokenizer keys: model, pre, tokens, types (1 normal, 2 unknown,
-- 3 control, 6 byte), merges or scores, bos, eos, pad or unknown (ids from 0).
local M = {}

local NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

-- Most frequent first, so that the first merges are the common ones.
local LETTERS = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ"

-- Harmony's special tokens where a vocabulary has gpt-oss's size; the rest of 199998..201087 is reserved.
local HARMONY_FIRST = 199998
local HARMONY = {
    [199998] = "<|startoftext|>", [199999] = "<|endoftext|>", [200002] = "<|return|>", [200003] = "<|constrain|>",
    [200005] = "<|channel|>", [200006] = "<|start|>", [200007] = "<|end|>", [200008] = "<|message|>",
    [200012] = "<|call|>", [200018] = "<|endofprompt|>",
}
-- The ones that smaller vocabularies have, as their last ids.
local HARMONY_FEW = {
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
    "<|message|>", "<|call|>",
}

local function utf8_char(code)
    if code < 0x80 then return string.char(code) end
    return string.char(0xc0 + math.floor(code / 64), 0x80 + code % 64)
end

-- GPT-2's letters for bytes: printable ones stand for themselves, the others for code points from 256 on. Returns the
-- map from byte to letter, and the bytes in the order of their letters.
local function byte_letters()
    local letters, order, rest = {}, {}, {}
    for byte = 0, 255 do
        local printable = (byte >= 33 and byte <= 126) or (byte >= 161 and byte ~= 173)
        local list = printable and order or rest
        list[#list + 1] = string.char(byte)
        letters[string.char(byte)] = utf8_char(printable and byte or 255 + #rest)
    end
    for _, byte in ipairs(rest) do order[#order + 1] = byte end
    return letters, order
end

local function base64_decoder()
    local digits = {}
    local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for i = 1, 64 do digits[alphabet:byte(i)] = i - 1 end
    return function(text)
        local out, bits, held = {}, 0, 0
        for i = 1, #text do
            local digit = digits[text:byte(i)]
            if not digit then break end
            bits, held = bits % 4096 * 64 + digit, held + 6
            if held >= 8 then
                held = held - 8
                out[#out + 1] = string.char(math.floor(bits / 2 ^ held) % 256)
            end
        end
        return table.concat(out)
    end
end

-- The first `count` tokens (bytes) of a tiktoken file: lines of base64 and rank.
local function read_tiktoken(path, count)
    local file, reason = io.open(path, "rb")
    if not file then error("the vocabulary cannot be read: " .. reason, 0) end
    local decode, tokens = base64_decoder(), {}
    for line in file:lines() do
        local text, rank = line:match("^(%S+) (%d+)")
        if not text or tonumber(rank) ~= #tokens then
            file:close()
            local at = #tokens
            error(("%s is no tiktoken vocabulary: line %d is not base64 and rank %d"):format(path, at + 1, at), 0)
        end
        tokens[#tokens + 1] = decode(text)
        if #tokens == count then break end
    end
    file:close()
    if #tokens < count then
        error(("%s has %d tokens, but %d are wanted"):format(path, #tokens, count), 0)
    end
    return tokens
end

-- Adds all strings over `alphabet` that are not in `list` yet, shortest first, until it has `count` items.
local function add_strings(list, alphabet, count)
    local shorter = alphabet
    while #list < count do
        local longer = {}
        for _, head in ipairs(shorter) do
            for _, tail in ipairs(alphabet) do
                if #list == count then return end
                local text = head .. tail
                longer[#longer + 1] = text
                list[#list + 1] = text
            end
        end
        shorter = longer
    end
end

local function alphabet_with(space)
    local list = { space }
    for letter in LETTERS:gmatch(".") do list[#list + 1] = letter end
    return list
end

-- Merges in GGUF's order: for each token by rank, every pair of tokens that makes it, by their ranks.
local function merges_of(tokens, spelled)
    local rank = {}
    for i = 1, #tokens do rank[tokens[i]] = i end
    local merges = {}
    for i = 1, #tokens do
        local token, found = tokens[i], {}
        for cut = 1, #token - 1 do
            local left = rank[token:sub(1, cut)]
            local right = left and rank[token:sub(cut + 1)]
            if right then found[#found + 1] = { left, right } end
        end
        if found[2] then
            table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
        end
        for _, pair in ipairs(found) do merges[#merges + 1] = spelled[pair[1]] .. " " .. spelled[pair[2]] end
    end
    return merges
end

--- A byte-level BPE vocabulary of `size` tokens: those of the tiktoken file at `path`, or, without one, the 256 bytes
-- and short strings of letters; then harmony's special tokens, at their own ids where the size is gpt-oss's.
function M.byte_level(size, path)
    local full = size > HARMONY_FIRST + 20
    local base = full and HARMONY_FIRST or size - #HARMONY_FEW
    if base < 256 then error(("a byte-level vocabulary has %d tokens at least"):format(256 + #HARMONY_FEW), 0) end
    local letters, bytes = byte_letters()
    local tokens = path and read_tiktoken(path, base) or bytes
    if not path then add_strings(tokens, alphabet_with(" "), base) end

    local spelled, types = {}, {}
    for i, token in ipairs(tokens) do spelled[i], types[i] = token:gsub(".", letters), NORMAL end
    local merges = merges_of(tokens, spelled)
    for id = base, size - 1 do
        spelled[id + 1] = full and (HARMONY[id] or ("<|reserved_%d|>"):format(id)) or HARMONY_FEW[id - base + 1]
        types[id + 1] = CONTROL
    end
    return {
        model = "gpt2", pre = "gpt-4o", tokens = spelled, types = types, merges = merges,
        bos = base, eos = full and 200002 or base + 2, pad = base + 1,
    }
end

--- A SentencePiece vocabulary of `size` tokens: unknown, begin, end, 256 bytes, printable characters, and short strings
-- of letters with falling scores.
function M.sentencepiece(size)
    local tokens, types, scores = { "<unk>", "<s>", "</s>" }, { UNKNOWN, CONTROL, CONTROL }, {}
    for byte = 0, 255 do
        tokens[#tokens + 1] = ("<0x%02X>"):format(byte)
        types[#tokens] = BYTE
    end
    local fixed = #tokens
    tokens[#tokens + 1] = "▁"
    for code = 33, 126 do tokens[#tokens + 1] = string.char(code) end
    if size < #tokens then error(("a SentencePiece vocabulary has %d tokens at least"):format(#tokens), 0) end
    add_strings(tokens, alphabet_with("▁"), size)
    for i = 1, size do
        types[i] = types[i] or NORMAL
        scores[i] = i <= fixed and 0 or fixed - i
    end
    return {
        model = "llama", pre = "default", tokens = tokens, types = types, scores = scores,
        bos = 1, eos = 2, unknown = 0,
    }
end

return M
