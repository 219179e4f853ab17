-- gpt-oss's vocabulary as a GGUF without tensors, from OpenAI's o200k_base.tiktoken in ../shared/models.
local writer = require "moonloom.gguf_writer"

local M = {}

M.size = 201088
M.first_special = 199998

local named = {
    [199998] = "<|startoftext|>", [199999] = "<|endoftext|>", [200002] = "<|return|>", [200003] = "<|constrain|>",
    [200005] = "<|channel|>", [200006] = "<|start|>", [200007] = "<|end|>", [200008] = "<|message|>",
    [200012] = "<|call|>", [200018] = "<|endofprompt|>",
}

--- Name of a special token, 199998 <= id < 201088.
function M.special(id)
    return named[id] or ("<|reserved_%d|>"):format(id)
end

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
    local bits, count, out = 0, 0, {}
    for c in text:gmatch("[^=]") do
        bits, count = bits * 64 + alphabet:find(c, 1, true) - 1, count + 6
        if count >= 8 then
            count = count - 8
            out[#out + 1] = string.char(math.floor(bits / 2 ^ count))
            bits = bits % 2 ^ count
        end
    end
    return table.concat(out)
end

local tokens, ranks

-- Reads a .tiktoken file once: the tokens in the order of their ranks (from 1), and the rank of each (from 0).
local function read(path)
    if tokens then return end
    tokens, ranks = {}, {}
    for line in io.lines(path) do
        local text, rank = line:match("(%S+) (%d+)")
        local token = base64(text)
        tokens[rank + 1], ranks[token] = token, tonumber(rank)
    end
end

-- The two parts that make a token: what is left of its bytes when every merge that ranks before it is done.
local function parts_of(token, own)
    local cuts = {} -- where each part starts, and the end
    for i = 1, #token + 1 do cuts[i] = i end
    while #cuts > 3 do
        local best, where = own, nil
        for i = 1, #cuts - 2 do
            local rank = ranks[token:sub(cuts[i], cuts[i + 2] - 1)]
            if rank and rank < best then best, where = rank, i end
        end
        if not where then return nil end
        table.remove(cuts, where + 1)
    end
    return cuts[2]
end

-- GPT-2's spelling of each byte (openai/gpt-2, encoder.py).
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

function M.spell(bytes)
    return (bytes:gsub(".", spelling))
end

-- Every pair of tokens that makes a token ("all": what Hugging Face's converter writes), or one for each.
local function merges_of(all)
    local list = {}
    for rank, token in ipairs(tokens) do
        local function add(cut)
            list[#list + 1] = M.spell(token:sub(1, cut - 1)) .. " " .. M.spell(token:sub(cut))
        end
        if all then
            for cut = 2, #token do
                if ranks[token:sub(1, cut - 1)] and ranks[token:sub(cut)] then add(cut) end
            end
        elseif #token > 1 then
            local cut = parts_of(token, rank - 1)
            if cut then add(cut) end
        end
    end
    return list
end

--- Writes the GGUF. Returns the number of merges.
function M.write(path, tiktoken, all)
    read(tiktoken)
    local merges = merges_of(all)
    local names, types = {}, {}
    for id = 0, M.size - 1 do
        names[id + 1] = id < M.first_special and M.spell(tokens[id + 1]) or M.special(id)
        types[id + 1] = id < M.first_special and 1 or 3
    end
    writer.save(path, { force = true }, function(file)
        file:meta("general.architecture", "string", "none")
        file:meta("tokenizer.ggml.model", "string", "gpt2")
        file:meta("tokenizer.ggml.pre", "string", "gpt-4o")
        file:meta("tokenizer.ggml.tokens", "string[]", names)
        file:meta("tokenizer.ggml.token_type", "i32[]", types)
        file:meta("tokenizer.ggml.merges", "string[]", merges)
        file:meta("tokenizer.ggml.bos_token_id", "u32", 199998)
        file:meta("tokenizer.ggml.eos_token_id", "u32", 200002)
    end)
    return #merges
end

return M
