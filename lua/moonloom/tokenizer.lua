--- The tokenizer of a model file: text to token ids and back.
-- Ids are the model's own (from 0), in ordinary Lua arrays (from 1).
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local weights = require "moonloom.weights"
local ffi = require "ffi"

local C, check = ml.C, ml.check

local Tokenizer = {}
Tokenizer.__index = Tokenizer
local Decoder = {}
Decoder.__index = Decoder

local M = {}

local count = ffi.new("int64_t[1]")
local bytes = ffi.new("const char *[1]")
local number = ffi.new("int32_t[1]")

local function handle(self)
    return self.handle or error("this tokenizer is closed", 3)
end

local function expect(kind, value, method)
    if type(value) ~= kind then error(("tokenizer:%s needs a %s, not a %s"):format(method, kind, type(value)), 3) end
end

--- The tokenizer that the metadata of `weights` (an ml_weights pointer: the handle of moonloom.weights) describe.
function M.create(handle_of_weights)
    local out = ffi.new("ml_tokenizer *[1]")
    check(C.ml_tokenizer_create(handle_of_weights, out))
    return setmetatable({ handle = ffi.gc(out[0], C.ml_tokenizer_free) }, Tokenizer)
end

--- The tokenizer of the model file at `path`; it need not hold a model that runs.
function M.open(path)
    local source = weights.open(path)
    local ok, tokenizer = pcall(M.create, source.handle)
    source:close()
    if not ok then error(tokenizer, 0) end
    return tokenizer
end

--- tokenizer:encode(text, {special = true, bos = false}) -> array of ids.
-- special: names such as <|start|> in the text become special tokens (default true).
-- bos: put the begin-of-text token first where the file asks for it (default false).
function Tokenizer:encode(text, options)
    expect("string", text, "encode")
    options = given.options(options, "tokenizer:encode")
    local flags = 0
    if options.special ~= false then flags = flags + C.ML_TOKENIZE_SPECIAL end
    if options.bos then flags = flags + C.ML_TOKENIZE_BOS end
    local capacity = math.floor(#text / 3) + 32
    while true do
        local ids = ffi.new("int32_t[?]", capacity)
        check(C.ml_tokenizer_encode(handle(self), text, #text, flags, ids, capacity, count))
        local needed = tonumber(count[0])
        if needed <= capacity then
            local result = {}
            for i = 1, needed do result[i] = ids[i - 1] end
            return result
        end
        capacity = needed
    end
end

--- tokenizer:decode(ids) -> string: the exact inverse of encode. Special tokens give their names.
function Tokenizer:decode(ids)
    expect("table", ids, "decode")
    local n = #ids
    local array = ffi.new("int32_t[?]", math.max(n, 1))
    for i = 1, n do array[i - 1] = given.token(ids[i]) end
    check(C.ml_tokenizer_decode(handle(self), array, n, nil, 0, count))
    local needed = tonumber(count[0])
    local text = ffi.new("char[?]", math.max(needed, 1))
    check(C.ml_tokenizer_decode(handle(self), array, n, text, needed, count))
    return ffi.string(text, needed)
end

--- tokenizer:piece(id) -> the bytes that one token stands for (perhaps part of a character).
function Tokenizer:piece(id)
    check(C.ml_tokenizer_piece(handle(self), given.token(id), bytes, count))
    return ffi.string(bytes[0], count[0])
end

--- tokenizer:is_special(id) -> true for control tokens such as <|start|>.
function Tokenizer:is_special(id)
    return C.ml_tokenizer_is_special(handle(self), given.token(id)) == 1
end

--- tokenizer:is_end(id) -> true if a generation is over at this token.
function Tokenizer:is_end(id)
    return C.ml_tokenizer_is_end(handle(self), given.token(id)) == 1
end

--- tokenizer:find(text) -> id of the token that is exactly `text`, or nil.
function Tokenizer:find(text)
    expect("string", text, "find")
    local status = C.ml_tokenizer_find(handle(self), text, number)
    if status == C.ML_E_NOT_FOUND then return nil end
    check(status)
    return number[0]
end

--- tokenizer:size() -> number of tokens in the vocabulary.
function Tokenizer:size()
    return tonumber(C.ml_tokenizer_size(handle(self)))
end

--- Frees the tokenizer now instead of when it is collected.
function Tokenizer:close()
    if self.handle then C.ml_tokenizer_free(ffi.gc(self.handle, nil)) end
    self.handle = nil
end

--- tokenizer:decoder() -> a streaming decoder, which gives out whole characters only.
-- It starts where a text starts. To go on in the middle of one, push the ids before (the last few will do) and drop
-- what comes out: a character or the space in front of a word may hang on them.
function Tokenizer:decoder()
    local out = ffi.new("ml_decoder *[1]")
    check(C.ml_decoder_create(handle(self), out))
    return setmetatable({ handle = ffi.gc(out[0], C.ml_decoder_free) }, Decoder)
end

--- decoder:push(id) -> what is complete now, perhaps "".
function Decoder:push(id)
    check(C.ml_decoder_push(self.handle, given.token(id), bytes, count))
    return ffi.string(bytes[0], count[0])
end

--- decoder:flush() -> what is left; the decoder starts anew.
function Decoder:flush()
    check(C.ml_decoder_flush(self.handle, bytes, count))
    return ffi.string(bytes[0], count[0])
end

return M
