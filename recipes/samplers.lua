-- Samplers: how a token is chosen from the candidates. Each is a file samplers/NAME.lua; a chain of them is applied in
-- order, and one of what is left is drawn. Save a change while the model talks: the next token uses it.
--
--     generate{ prompt = "Once", chain = { {"top_k", 40}, {"temperature", 0.8} } }
--     generate{ prompt = "Once", chain = { function(candidates) candidates:ban(13) end, "greedy" } }
--     moonloom generate Once --chain 'top_k=40,temperature=0.8'
--
-- samplers.top_k(candidates, 40) applies one by itself, in a function of a chain or in another sampler. What a sampler
-- returns is told in lua/moonloom/recipe/chain.lua, what candidates can do in lua/moonloom/candidates.lua.
local chains = require "moonloom.recipe.chain"

local M = {
    name = "samplers",
    summary = "list the samplers that a chain can name",
    parameters = {},
    chain = chains.check, -- a chain, checked
    usual = require("recipes.sampling").usual,
}

-- Applies a checked chain and draws one of what is left.
function M.choose(chain, candidates, context)
    for _, entry in ipairs(chain) do chains.apply(entry, candidates, context) end
    if candidates:count() == 1 then return (candidates:best()) end
    return candidates:sample(context.random())
end

-- What a chain needs of the logits: "best" where it only ever takes the best token, else all "logits".
function M.wants(chain)
    for _, entry in ipairs(chain) do
        if not chains.takes_best(entry) then return "logits" end
    end
    return #chain > 0 and "best" or "logits"
end

function M.run()
    return chains.list()
end

function M.format(rows)
    return { samplers = rows }
end

return setmetatable(M, { __index = function(_, name) return chains.as_function(name) end })
