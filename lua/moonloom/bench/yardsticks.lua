--- What the machine can do around now: read bandwidth and multiply peak, measured again and again during a benchmark.
--
-- A machine that others use too is not equally fast from one second to the next, so a single measurement says little
-- about a sample that was taken a minute later. Take one before and one after each sample and compare with best():
-- noise only takes away, so the better of the two is nearer to what the machine can do, and flatters less.
local moonloom = require "moonloom"
local statistics = require "moonloom.bench.statistics"

local M = {}

local Yardsticks = {}
Yardsticks.__index = Yardsticks

-- Milliseconds that a measurement is good for, so that short samples do not wait for it; and of measuring.
local FRESH, READING, MULTIPLYING = 2000, 100, 50

function M.new()
    return setmetatable({ taken = {} }, Yardsticks)
end

--- { read_bandwidth (bytes per second), multiply_peak (operations per second), threads }, of the last two seconds and
--- of the threads in use.
function Yardsticks:now()
    local last, threads = self.taken[#self.taken], moonloom.threads()
    if last and last.threads == threads and moonloom.now() - last.at < FRESH then return last end
    last = {
        threads = threads,
        read_bandwidth = moonloom.bandwidth(READING),
        multiply_peak = moonloom.multiply_peak(MULTIPLYING),
        at = moonloom.now(),
    }
    self.taken[#self.taken + 1] = last
    return last
end

--- The median of all that was measured with that many threads: read_bandwidth, multiply_peak; nil if nothing was.
function Yardsticks:median(threads)
    local bandwidths, peaks = {}, {}
    for _, one in ipairs(self.taken) do
        if one.threads == threads then
            bandwidths[#bandwidths + 1], peaks[#peaks + 1] = one.read_bandwidth, one.multiply_peak
        end
    end
    if #peaks == 0 then return nil end
    return statistics.median(bandwidths), statistics.median(peaks)
end

--- The better of two measurements, each quantity for itself: read_bandwidth, multiply_peak.
function M.best(a, b)
    return math.max(a.read_bandwidth, b.read_bandwidth), math.max(a.multiply_peak, b.multiply_peak)
end

return M
