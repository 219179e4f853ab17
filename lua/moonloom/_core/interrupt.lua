--- Ctrl-C as a value: what an interrupt looks like, and how a recipe stops for one and goes on.
--
-- Whoever owns signals asks the core to stop (ml_interrupt_set) and sets a hook that raises in recipes and typed code
-- (never in lua/); core calls raise the same error. catch() takes the request back, so that what comes next runs.
local ml = require "moonloom._core.ffi"
local C = ml.C

local M = {}

--- The error value of an interrupt.
M.error = setmetatable({ status = tonumber(C.ML_E_INTERRUPTED), message = "interrupted" }, ml.Error)

--- Whether an error value is an interrupt.
function M.is_interrupt(value)
    return type(value) == "table" and getmetatable(value) == ml.Error and value.status == C.ML_E_INTERRUPTED
end

--- How many requests of a person have been taken back so far: an interrupt that is only raised as a value is none.
M.taken = 0

--- Takes the request back, with its hook: what comes next runs. Returns whether there was one.
function M.take()
    local asked = C.ml_interrupt_pending() ~= 0
    if asked then M.taken = M.taken + 1 end
    debug.sethook()
    C.ml_interrupt_set(0)
    return asked
end

--- catch(f, ...) -> true if f returned, false if an interrupt stopped it; other errors go through.
-- The request and its hook are gone afterwards.
function M.catch(f, ...)
    local fine, problem = pcall(f, ...)
    if fine then return true end
    if not M.is_interrupt(problem) then error(problem, 0) end
    M.take()
    return false
end

--- f(), then cleanup(), whatever stopped f; then raises that again. The hook of an interrupt, which may be about to
--- raise though the core has done so already, is taken away first: else it would keep cleanup from running.
function M.finally(f, cleanup)
    local fine, problem = pcall(f)
    local asked = M.take()
    cleanup()
    if not fine then error(problem, 0) end
    if asked then error(M.error, 0) end
end

return M
