-- Logits: what the model thinks of a given text, at its end or at every token.
local moonloom = require "moonloom"
local terminal = require "moonloom._core.terminal"

local M = {
    name = "logits",
    summary = "best logits and log-probabilities of a given text",
    parameters = {
        { name = "prompt", type = "string", positional = true, doc = "text to look at; special tokens by name" },
        { name = "ids", type = "list", doc = "token ids to look at" },
        { name = "all", type = "boolean", default = false, doc = "a row for every token, not only for the last" },
        { name = "top", type = "integer", default = 10, min = 1, doc = "how many of the best logits a row shows" },
        { name = "cache", type = "string", default = "bf16", choices = { "bf16", "f32" }, doc = "keys and values" },
    },
}

local function row_of(position, logits, count)
    local sum, norm = logits:sums()
    local row = { position = position, sum = sum, norm = norm, top = {} }
    for i, entry in ipairs(logits:topk(count)) do row.top[i] = { entry.id, entry.logit } end
    return row
end

local Shown = {}

function Shown:__tostring()
    local lines = {}
    for _, row in ipairs(self.rows) do
        local id = self.ids[row.position + 1]
        local logprob = self.logprobs[row.position]
        lines[#lines + 1] = ("%5d  %s%s"):format(row.position, terminal.quote(self.model.tokenizer:piece(id)),
            logprob and ("  logprob %.4f"):format(logprob) or "")
        for _, entry in ipairs(row.top) do
            lines[#lines + 1] = ("       %9.4f  %6d  %s"):format(entry[2], entry[1],
                terminal.quote(self.model.tokenizer:piece(entry[1])))
        end
    end
    return table.concat(lines, "\n")
end

function M.run(args)
    if (args.prompt == nil) == (args.ids == nil) then moonloom.wrong_usage("logits needs either prompt or ids") end
    local model = moonloom.current(args.model)
    local ids = args.ids or model:tokenize(args.prompt, { special = true, bos = true })
    if #ids == 0 then moonloom.wrong_usage("logits needs at least one token") end
    local rows, logprobs = {}, {}
    model:session { cache = args.cache }:feed(ids, { each = function(position, logits)
        local following = ids[position + 2]
        if following then logprobs[position + 1] = logits:logprob(following) end
        if args.all or not following then rows[#rows + 1] = row_of(position, logits, args.top) end
    end }):close()
    return setmetatable({ ids = ids, rows = rows, logprobs = logprobs, model = model }, Shown)
end

function M.format(result)
    return { ids = result.ids, rows = result.rows, logprobs = result.logprobs }
end

return M
