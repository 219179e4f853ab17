-- gpt-oss's vocabulary as a GGUF without tensors, from OpenAI's o200k_base.tiktoken in ../shared/models.
local vocabulary = require "moonloom.file.vocabulary"
local writer = require "moonloom.file.gguf_writer"

local M = {}

local SIZE, PLAIN = 201088, 199998

-- The merge that makes a token: what is left of its characters (in GPT-2's spelling, one a byte) when every merge that
-- ranks before it is done.
local function merge_of(token, own, ranks)
    local cuts = {} -- where each part starts, and the end
    for at in token:gmatch("()[^\128-\191]") do cuts[#cuts + 1] = at end
    cuts[#cuts + 1] = #token + 1
    while #cuts > 3 do
        local best, where = own, nil
        for i = 1, #cuts - 2 do
            local rank = ranks[token:sub(cuts[i], cuts[i + 2] - 1)]
            if rank and rank < best then best, where = rank, i end
        end
        table.remove(cuts, assert(where) + 1)
    end
    return cuts[3] and token:sub(1, cuts[2] - 1) .. " " .. token:sub(cuts[2])
end

-- One merge for each token, as the training found them.
local function single_merges(tokens)
    local ranks, merges = {}, {}
    for rank = 1, PLAIN do ranks[tokens[rank]] = rank end
    for rank = 1, PLAIN do merges[#merges + 1] = merge_of(tokens[rank], rank, ranks) end
    return merges
end

local function write(path, words, merges)
    writer.save(path, { force = true }, function(file)
        file:meta("general.architecture", "string", "none")
        file:meta("tokenizer.ggml.model", "string", words.model)
        file:meta("tokenizer.ggml.pre", "string", words.pre)
        file:meta("tokenizer.ggml.tokens", "string[]", words.tokens)
        file:meta("tokenizer.ggml.token_type", "i32[]", words.types)
        file:meta("tokenizer.ggml.merges", "string[]", merges)
        file:meta("tokenizer.ggml.bos_token_id", "u32", words.bos)
        file:meta("tokenizer.ggml.eos_token_id", "u32", words.eos)
    end)
end

--- Writes two files: with every pair of tokens that makes a token among the merges, as Hugging Face's converter and so
-- the published GGUFs have it, and with one pair for each token. Returns both numbers of merges.
function M.write(every_path, single_path, tiktoken)
    local words = vocabulary.byte_level(SIZE, tiktoken)
    local single = single_merges(words.tokens)
    write(every_path, words, words.merges)
    write(single_path, words, single)
    return #words.merges, #single
end

return M
