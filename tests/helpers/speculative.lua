-- A recipe that makes several tokens a step: drafters guess what follows, one pass verifies the guess, and what the
-- samplers draw is kept as far as it is what was guessed. The tokens are those of recipes/loop.lua.
local live = require "moonloom.recipe.live"
local loop = require "recipes.loop"
local samplers = require "recipes.samplers"

local M = { chain = live.get("generate").chain, parameters = live.get("generate").parameters, drafters = {} }

function M.next(g)
    local room = math.min(g.limit - #g.tokens, g.model:config().context - #g.all) - 1
    local draft = room > 0 and g.parameters.drafter(g, room) or {}
    local wants = g.probabilities and "logits" or samplers.wants(g.chain)
    for i, candidates in ipairs(g:verify(draft, wants)) do
        local id = samplers.choose(g.chain, candidates, g:context())
        g:push(id, candidates)
        if id ~= draft[i] then break end
    end
end

function M.loop(g)
    repeat
        M.next(g)
        g.stop = g:commit(loop.finished)
        if g.write then g:stream(g.write) end
    until g.stop
end

-- What followed the last two tokens before, `count` at most.
function M.drafters.lookup(count)
    return function(g, room)
        local all, draft = g.all, {}
        local a, b = all[#all - 1], all[#all]
        for i = #all - 1, 2, -1 do
            if all[i] == b and all[i - 1] == a then
                for j = i + 1, math.min(i + count, #all, i + room) do draft[#draft + 1] = all[j] end
                return draft
            end
        end
        return draft
    end
end

-- Ids that are hardly ever right.
function M.drafters.wrong(count)
    return function(g, room)
        local draft = {}
        for i = 1, math.min(count, room) do draft[i] = (g.all[#g.all] * 7 + i * 131) % 1000 end
        return draft
    end
end

-- The true continuation `ids` of the prompt, wrong at every `every`-th place.
function M.drafters.nearly(ids, count, every)
    return function(g, room)
        local draft = {}
        for i = 1, math.min(count, room) do
            local at = #g.all - #g.prompt_ids + i
            draft[i] = at % every == 0 and 5 or ids[at] or 5
        end
        return draft
    end
end

return M
