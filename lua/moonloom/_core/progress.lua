--- A progress bar on standard error, drawn only where that is a terminal.
--
--     local bar = progress.start { label = "writing", total = bytes, unit = "B" }
--     bar:update(done)      -- as often as you like; it draws ten times a second at most, what is over at once never
--     bar:done()
local ffi = require "ffi"
local C = require("moonloom._core.ffi").C

ffi.cdef "int isatty(int descriptor);"

local M = {}

M.quiet = false -- no bar is drawn while this is true: who draws one of all that goes on sets it

local Bar = {}
Bar.__index = Bar

local WIDTH, INTERVAL = 30, 100 -- cells; milliseconds

--- Starts a bar: `label` what is being done, `total` the amount that is all of it, `unit` "B" to show it as bytes
-- (or any other word; none shows percents only).
function M.start(options)
    local bar = setmetatable({
        label = options.label or "",
        total = math.max(options.total or 1, 1),
        unit = options.unit,
        shown = not M.quiet and ffi.C.isatty(2) == 1,
        began = C.ml_time_now(),
    }, Bar)
    bar.drawn = bar.began
    return bar
end

--- A number with its unit, as a person reads it: "12.1 GB", "340 kB", "17 tokens".
function M.amount(value, unit)
    if unit ~= "B" then return ("%d %s"):format(value, unit) end
    local scale, name = 1, "B"
    for _, step in ipairs { { 1e3, "kB" }, { 1e6, "MB" }, { 1e9, "GB" } } do
        if value >= step[1] then scale, name = step[1], step[2] end
    end
    return ("%.4g %s"):format(value / scale, name)
end

local function duration(seconds)
    if seconds >= 3600 then return ("%d:%02d h"):format(seconds / 3600, seconds / 60 % 60) end
    if seconds >= 60 then return ("%d:%02d min"):format(seconds / 60, seconds % 60) end
    return ("%d s"):format(math.ceil(seconds))
end

--- The line that is drawn when `done` of the total is done after `elapsed` milliseconds.
function Bar:line(done, elapsed)
    local share = math.max(0, math.min(done / self.total, 1))
    local cells = math.floor(share * WIDTH)
    local parts = { ("%s [%s%s] %3d%%"):format(self.label, ("#"):rep(cells), ("."):rep(WIDTH - cells), share * 100) }
    if self.unit then
        parts[#parts + 1] = M.amount(done, self.unit)
        if elapsed > 0 then parts[#parts + 1] = M.amount(done / elapsed * 1000, self.unit) .. "/s" end
    end
    if share > 0 and share < 1 and elapsed > 1000 then
        parts[#parts + 1] = duration(elapsed * (1 / share - 1) / 1000) .. " left"
    end
    return table.concat(parts, "  ")
end

--- Tells how much is done in all.
function Bar:update(done)
    local now = C.ml_time_now()
    if not self.shown or now - self.drawn < INTERVAL then return end
    self.drawn = now
    io.stderr:write("\r", self:line(done, now - self.began), "\27[K")
    io.stderr:flush()
end

--- Takes the bar away. Call it on failure, too.
function Bar:done()
    if not self.shown then return end
    self.shown = false
    io.stderr:write("\r\27[K")
    io.stderr:flush()
end

return M
