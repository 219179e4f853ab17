-- Perplexity: how well the model predicts a text. The text is cut into windows of `context` tokens that do not overlap;
-- each starts from nothing, so its first token (or the begin-of-text token put before it) is not predicted and not
-- counted. perplexity = exp(nll), nll the mean over all counted tokens.
local moonloom = require "moonloom"
local progress = require "moonloom._core.progress"
local read_file = require "moonloom._core.read_file"

-- With kv, tokens are fed by the page, so that each sees only its own page plain.
local PAGE = 64

local M = {
    name = "perplexity",
    summary = "how well the model predicts a text file",
    parameters = {
        { name = "file", type = "path", positional = true, doc = "text file" },
        { name = "text", type = "string", doc = "or the text itself" },
        { name = "context", type = "integer", min = 2, doc = "tokens in a window; default: the model's, at most 512" },
        { name = "kv", type = "any", doc = "bits of keys and values: 8, 4, or for example 8,4; or a policy, such as "
            .. "balanced; default: all plain" },
        { name = "hot", type = "integer", default = 0, min = 0, doc = "newest tokens that stay plain with kv" },
        { name = "unrotated", type = "boolean", default = false, doc = "keys are quantised without being rotated" },
        { name = "cache", type = "string", default = "bf16", choices = { "bf16", "f32" }, doc = "keys and values" },
    },
}

local function read(args)
    if (args.file == nil) == (args.text == nil) then moonloom.wrong_usage("perplexity needs either file or text") end
    return args.text or read_file(args.file, "the text")
end

-- ids[first ...] as a window: with the begin-of-text token before it where the model has one. Returns the next first.
local function window(ids, first, bos, context)
    local list = { bos }
    local last = math.min(first + context - #list - 1, #ids)
    for i = first, last do list[#list + 1] = ids[i] end
    return list, last + 1
end

-- The policy that the words ask for, or nil. One by its name says itself what stays plain.
local function policy(args)
    local keys, values = tostring(args.kv):match("^(%d+),?(%d*)$")
    if not keys then return args.kv end
    return { key_bits = tonumber(keys), value_bits = tonumber(values ~= "" and values or keys),
        hot_tokens = args.hot, rotate = not args.unrotated }
end

local Shown = { __tostring = function(result)
    return ("perplexity %.4f (%.4f nats a token) over %d tokens in windows of %d"):format(result.perplexity, result.nll,
        result.tokens, result.context)
end }

function M.run(args)
    local text = read(args)
    local model = moonloom.current(args.model)
    local context = args.context or math.min(model:config().context, 512)
    local ids, bos = model:tokenize(text, { special = false }), model:tokenize("", { bos = true })[1]
    local bar = progress.start { label = "perplexity", total = #ids, unit = "tokens" }
    local session = model:session { cache = args.cache, prefixes = false, kv = policy(args) }
    local count, sum, first = 0, 0, 1
    while first <= #ids do
        local list, after = window(ids, first, bos, context)
        session:rewind(0):feed(list, { chunk = args.kv and PAGE or nil, each = function(position, logits)
            local following = list[position + 2]
            if not following then return end
            count, sum = count + 1, sum - logits:logprob(following)
        end })
        first = after
        bar:update(first - 1)
    end
    bar:done()
    session:close()
    if count == 0 then error("the text is too short: there is no token to predict", 0) end
    return setmetatable({ tokens = count, nll = sum / count, perplexity = math.exp(sum / count), context = context },
        Shown)
end

return M
