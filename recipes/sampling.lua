-- Sampling: the parameters of every recipe that samples, and the chain of samplers that they make. Such a recipe has
-- `sampling.parameters` among its parameters, and calls sampling.chain(arguments).
local chains = require "moonloom.recipe.chain"

local M = {}

M.parameters = {
    { name = "temperature", type = "number", default = 1, min = 0, doc = "0 always takes the best token" },
    { name = "top_k", type = "integer", default = 0, min = 0, doc = "only the k best tokens; 0 is off" },
    { name = "top_p", type = "number", default = 1, min = 0, max = 1, doc = "only the best that reach this share" },
    { name = "min_p", type = "number", default = 0, min = 0, max = 1, doc = "only those near the best; 0 is off" },
    { name = "repetition_penalty", type = "number", default = 1, min = 0.1, doc = "over 1 shuns the last 64" },
    { name = "seed", type = "integer", doc = "the same seed gives the same text; default: a new one" },
    { name = "chain", type = "chain", doc = function()
        return ("samplers in place of these, in order, such as 'top_k=40,temperature=0.8': %s"):format(
            table.concat(chains.names(), ", "))
    end },
}

local ALONE = { { "temperature", 0 }, { "top_k", 1 }, { "top_p", 0 } } -- leaves the best token alone
local MATTERS = { repetition_penalty = true, seed = true, chain = true } -- where only the best token is taken, too

-- The entry of ALONE that the arguments have, or nil.
local function alone_of(p)
    for _, alone in ipairs(ALONE) do
        if p[alone[1]] == alone[2] then return alone end
    end
end

-- A sentence about a parameter that was given and has no effect beside the others, or nil.
function M.parameters.check(p, given)
    for _, parameter in ipairs(p.chain and M.parameters or {}) do
        local name = parameter.name
        if given[name] ~= nil and name ~= "chain" and name ~= "seed" then
            return ("%s has no effect beside chain, which names all samplers"):format(name)
        end
    end
    local alone = not p.chain and alone_of(p)
    for _, parameter in ipairs(alone and M.parameters or {}) do
        local name, value = parameter.name, given[parameter.name]
        if value ~= nil and value ~= parameter.default and not MATTERS[name] and not alone_of { [name] = value } then
            return ("%s has no effect beside %s = %d, which takes the best token"):format(name, alone[1], alone[2])
        end
    end
end

-- The chain of such arguments, as a list.
function M.usual(p)
    local chain = {}
    local function add(...) chain[#chain + 1] = { ... } end
    if p.repetition_penalty ~= 1 then add("repetition_penalty", p.repetition_penalty) end
    if alone_of(p) then
        add("greedy")
        return chain
    end
    if p.top_k > 0 then add("top_k", p.top_k) end
    if p.top_p < 1 then add("top_p", p.top_p) end
    if p.min_p > 0 then add("min_p", p.min_p) end
    add("temperature", p.temperature)
    return chain
end

-- The chain that arguments ask for, checked.
function M.chain(p)
    return chains.check(p.chain or M.usual(p))
end

return M
