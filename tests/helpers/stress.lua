-- How long a test of random steps goes on: its own number of rounds, or MOONLOOM_STRESS seconds; and from which seed.
local moonloom = require "moonloom"

local M = {
    seconds = tonumber(os.getenv("MOONLOOM_STRESS") or ""), -- nil: a short run
}

--- The seed: MOONLOOM_SEED, or the one that the short run is known to be good with.
function M.seed(usual)
    return tonumber(os.getenv("MOONLOOM_SEED") or "") or usual
end

--- for round in stress.rounds(2000) do: so many times, or until the time is over.
function M.rounds(count)
    local round, ends = 0, M.seconds and moonloom.now() + M.seconds * 1000
    return function()
        round = round + 1
        if ends and moonloom.now() < ends or not ends and round <= count then return round end
    end
end

return M
