-- The loop: how a generation gets its tokens. Save a change, here or in a copy among your own recipes, and the next
-- token is made that way. What g can do is told in lua/moonloom/generation.lua.
local live = require "recipes.loop" -- this file, as it was saved last
local samplers = require "recipes.samplers"

local M = {}

-- One step: chooses what follows the newest token. It may push more than one.
function M.next(g)
    local candidates = g:advance(g.probabilities and "logits" or samplers.wants(g.chain))
    g:push(samplers.choose(g.chain, candidates, g:context()), candidates)
end

-- Why to stop, or nil: asked about each token, whatever number a step added, when it is the newest.
function M.finished(g)
    return g:reached(g.parameters.stop) or g:ended() or g:full()
end

-- Makes tokens until there is a reason to stop.
function M.loop(g)
    repeat
        live.next(g)
        g.stop = g:commit(live.finished)
        if g.write then g:stream(g.write) end
    until g.stop
end

return M
