-- Whose turn it is: which requests of a pool (lua/moonloom/pool.lua) go into its next pass. Save a change, and the next
-- pass goes by it.
local M = {}

-- `waiting` are requests, who waits longest first: { index = the number that pool:add() gave, rows = how many rows it
-- wants, waited = passes that it waits for by now }. `capacity` is the number of rows of a pass. Returns the ones that
-- go; what does not fit waits on.
function M.next(waiting, capacity)
    local chosen, rows = {}, 0
    for _, request in ipairs(waiting) do
        if rows + request.rows <= capacity or rows == 0 then
            chosen[#chosen + 1] = request
            rows = rows + request.rows
        end
    end
    return chosen
end

return M
