--- The core as LuaJIT sees it: the cdef part of core/moonloom.h, the loaded library, and status checks.
local ffi = require "ffi"

local home = MOONLOOM_HOME or os.getenv("MOONLOOM_HOME") or "."

local function read_contract()
    local path = home .. "/core/moonloom.h"
    local file = assert(io.open(path, "rb"), "moonloom: cannot read " .. path)
    local text = file:read("*a")
    file:close()
    return text:match("// cdef:begin\n(.-)// cdef:end"), text
end

-- Beside the sources (build/), or installed (share/moonloom -> ../../lib).
local function find_library()
    for _, place in ipairs { os.getenv("MOONLOOM_BUILD") or (home .. "/build"), home .. "/../../lib" } do
        local path = place .. "/libmoonloom.so"
        local file = io.open(path, "rb")
        if file then
            file:close()
            return path
        end
    end
    return "libmoonloom.so"
end

local contract, header = read_contract()
ffi.cdef(contract)

-- The moonloom command is linked with the core: a second copy would have an interrupt flag of its own.
local function find_core()
    local linked = pcall(function() return ffi.C.ml_version end)
    return linked and ffi.C or ffi.load(find_library())
end

local M = { C = find_core(), header = header, home = home }

--- Raises an error value { status, message } unless `status` is ML_OK; returns status else.
local Error = {}
Error.__index = Error
function Error:__tostring()
    return self.message
end
M.Error = Error

function M.check(status)
    if status >= 0 then return status end
    error(setmetatable({ status = tonumber(status), message = ffi.string(M.C.ml_last_error()) }, Error), 0)
end

return M
