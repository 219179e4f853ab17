--- Where a request of a pool waits for its turn: the seam between a session, which wants a pass, and moonloom.pool,
--- which makes one for many. A request is a coroutine; outside of one, all of this does nothing.
--
-- What runs in a request and wants a pass yields; the pool resumes it with the batch that has its rows, or with
-- nothing: then it makes the pass itself, alone. Between the pass and the end of a step (g:verify() to g:commit()) the
-- rows have to stay, so what a sampler feeds meanwhile never waits: the pool would need the batch for that.
local interrupt = require "moonloom._core.interrupt"

local M = {}

local current -- the request that runs

--- Resumes the coroutine `request.thread`: true and what it yielded or returned, or false and its error. The request is
--- a table of the caller's; its field `wants` then tells what it waits for: { session, cache, ids, want, from }, or nil
--- if it waits for nothing.
function M.resume(request, ...)
    local outer = current
    current = request
    local fine, value = coroutine.resume(request.thread, ...)
    current = outer
    return fine, value
end

--- The request that runs, or nil. (A coroutine that a request makes for itself is none.)
function M.inside()
    return current and coroutine.running() == current.thread and current or nil
end

--- The turn of a pass: waits for the pool, if a request runs. Returns its batch, and the row in it before the first of
--- these; or nil if the pass is to be made alone. Raises an interrupt where the request is to stop.
function M.take(session, ids, want, from)
    local request = M.inside()
    if not request or request.holding then return nil end
    request.wants = { session = session, cache = session:shared_cache(), ids = ids, want = want, from = from }
    local batch, before
    if not request.cancelled then batch, before = coroutine.yield() end
    request.wants, request.shared = nil, batch and true
    if batch == false or request.cancelled then
        request.cancelled = nil
        error(interrupt.error, 0)
    end
    return batch, before
end

--- Whether the pool applies the policy of the cache, after a pass that the request that runs had a part in.
function M.settles()
    local request = M.inside()
    return request and request.shared
end

--- From now on (or no longer) the rows of the request that runs are still needed.
function M.hold(on)
    local request = M.inside()
    if request then request.holding = on end
end

return M
