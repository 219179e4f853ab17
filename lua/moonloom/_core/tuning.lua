--- Optimisations that can be switched off, to measure what each is worth.
--
--     print(moonloom.tuning())                -- the switches, what they mean, which are off
--     moonloom.tuning("integers", false)      -- off, until moonloom.tuning("integers", true)
--     moonloom bench --ablate                 -- each in turn
local ffi = require "ffi"
local interrupt = require "moonloom._core.interrupt"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {}

local Switches = {}
Switches.__index = Switches

function Switches:__tostring()
    local lines = {}
    for i, one in ipairs(self) do
        lines[i] = ("%-9s %-4s %s"):format(one.name, one.on and "on" or "off", one.meaning)
    end
    return table.concat(lines, "\n")
end

--- All switches: { { name, meaning, on }, ... }.
function M.list()
    local list = setmetatable({}, Switches)
    while C.ml_tuning_name(#list) ~= nil do
        local name = ffi.string(C.ml_tuning_name(#list))
        list[#list + 1] = { name = name, meaning = ffi.string(C.ml_tuning_meaning(#list)), on = M.on(name) }
    end
    return list
end

--- Whether a switch is on.
function M.on(name)
    return check(C.ml_tuning_get(tostring(name))) == 1
end

--- Switches it on (true) or off.
function M.set(name, on)
    check(C.ml_tuning_set(tostring(name), on and 1 or 0))
end

--- f() with that switch off (with everything as it is if name is nil), then as it was before, whatever stopped f.
function M.without(name, f)
    if not name then return f() end
    local before, result = M.on(name), nil
    M.set(name, false)
    interrupt.finally(function() result = f() end, function() M.set(name, before) end)
    return result
end

return M
