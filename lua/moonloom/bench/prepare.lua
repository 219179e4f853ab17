--- Bringing a session to where something is measured, behind a bar.
local interrupt = require "moonloom._core.interrupt"
local progress = require "moonloom._core.progress"

local M = {}

local STEP = 2048 -- tokens between two looks at the progress

--- Feeds the session a list of ids.
function M.read(session, ids)
    local bar = progress.start { label = "reading", total = #ids, unit = "tokens" }
    interrupt.finally(function()
        session:feed(ids, { progress = function(fed) bar:update(fed) end })
    end, function() bar:done() end)
end

--- Fills the session up to `tokens` with random tokens, which are not computed (see session:fill_random); the bar is
--- called `label`.
function M.fill(session, tokens, label)
    local bar = progress.start { label = label or "filling", total = tokens, unit = "tokens" }
    interrupt.finally(function()
        while session.position < tokens do
            session:fill_random(math.min(STEP, tokens - session.position))
            bar:update(session.position)
        end
    end, function() bar:done() end)
end

return M
