-- Samplers: how a token is chosen from the candidates. Each is a function(candidates, ...) that drops, scales or
-- changes some; what is left is drawn from. Edit one while the model talks: the next token uses it.
--
-- A chain is a list, applied in order; an entry is a name with its arguments, or a function(candidates, context):
--
--     generate{ prompt = "Once", chain = { {"top_k", 40}, {"temperature", 0.8} } }
--     generate{ prompt = "Once", chain = { function(candidates) candidates:ban(13) end, "greedy" } }
--
-- context: tokens (all ids so far), position, random() (uniform in [0, 1), from the seed). What candidates can do is
-- told in lua/moonloom/candidates.lua.
local M = {
    name = "samplers",
    summary = "list the samplers that a chain can name",
    parameters = {},
}

-- name -> one line, in the order in which a chain usually has them
M.list = {
    { "repetition_penalty", "penalty, last: makes the last tokens (64) less likely" },
    { "top_k", "k: only the k best" },
    { "top_p", "p: only the best that together have probability p" },
    { "min_p", "p: only those with at least p times the probability of the best" },
    { "temperature", "t: below 1 bolder towards the best, above 1 more even; 0 is greedy" },
    { "greedy", "only the best" },
}

function M.greedy(candidates)
    candidates:keep(1)
end

function M.temperature(candidates, t)
    if t <= 0 then return M.greedy(candidates) end
    candidates:scale(1 / t)
end

function M.top_k(candidates, k)
    if k > 0 then candidates:keep(k) end
end

-- Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv:1904.09751)
function M.top_p(candidates, p)
    candidates:keep(candidates:rank_of_mass(p))
end

-- Nguyen et al., Turning Up the Heat: Min-p Sampling (arXiv:2407.01082)
function M.min_p(candidates, p)
    local _, best = candidates:best()
    if p > 0 then candidates:keep_above(best + math.log(p)) end
end

-- Keskar et al., CTRL (arXiv:1909.05858), over the last tokens
function M.repetition_penalty(candidates, penalty, context, last)
    local tokens, seen = context.tokens, {}
    for i = math.max(1, #tokens - (last or 64) + 1), #tokens do
        local id = tokens[i]
        if not seen[id] then
            local logit = candidates:logit(id)
            candidates:set(id, logit > 0 and logit / penalty or logit * penalty)
            seen[id] = true
        end
    end
end

-- Checks a chain and gives every entry the form { name or function, arguments... }.
function M.chain(list)
    local chain = {}
    for i, entry in ipairs(list) do
        entry = type(entry) == "table" and entry or { entry }
        local known = type(entry[1]) == "function"
        for _, row in ipairs(M.list) do known = known or row[1] == entry[1] end
        if not known and type(M[entry[1]]) ~= "function" then
            error(("there is no sampler '%s'; recipes/samplers.lua has them"):format(tostring(entry[1])), 0)
        end
        chain[i] = entry
    end
    return chain
end

-- What a chain needs of the logits: "best" where it only ever takes the best token, else all "logits".
function M.wants(chain)
    for _, entry in ipairs(chain) do
        if entry[1] ~= "greedy" then return "logits" end
    end
    return #chain > 0 and "best" or "logits"
end

-- The usual chain for the parameters of generate.
function M.usual(p)
    local chain = {}
    local function add(...) chain[#chain + 1] = { ... } end
    if p.repetition_penalty ~= 1 then add("repetition_penalty", p.repetition_penalty) end
    if p.temperature <= 0 then
        add("greedy")
        return chain
    end
    if p.top_k > 0 then add("top_k", p.top_k) end
    if p.top_p < 1 then add("top_p", p.top_p) end
    if p.min_p > 0 then add("min_p", p.min_p) end
    add("temperature", p.temperature)
    return chain
end

-- Applies the chain and draws one of what is left.
function M.choose(chain, candidates, context)
    for _, entry in ipairs(chain) do
        local sampler, first, second = entry[1], entry[2], entry[3]
        if type(sampler) == "function" then
            sampler(candidates, context, first, second)
        else
            M[sampler](candidates, first, context, second)
        end
    end
    if candidates:count() == 1 then return (candidates:best()) end
    return candidates:sample(context.random())
end

local Listing = { __tostring = function(list)
    local lines = {}
    for i, row in ipairs(list) do lines[i] = ("%-20s %s"):format(row.name, row.doc) end
    return table.concat(lines, "\n")
end }

function M.run()
    local rows = {}
    for i, row in ipairs(M.list) do rows[i] = { name = row[1], doc = row[2] } end
    return setmetatable(rows, Listing)
end

function M.format(rows)
    return { samplers = rows }
end

return M
