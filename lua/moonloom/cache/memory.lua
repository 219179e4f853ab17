--- Where the memory of this process is, with high-water marks.
--
--     print(moonloom.memory())            -- all of it
--     print(session:stats())              -- and where the pages of that session's cache are
--     moonloom.memory().logits.peak       -- the same as numbers, in bytes
local ffi = require "ffi"
local columns = require "moonloom._core.columns"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {}

local purposes = {
    { "mapped", C.ML_MEMORY_MAPPED }, { "copied", C.ML_MEMORY_COPIED }, { "cache", C.ML_MEMORY_CACHE },
    { "activations", C.ML_MEMORY_ACTIVATIONS }, { "logits", C.ML_MEMORY_LOGITS }, { "scratch", C.ML_MEMORY_SCRATCH },
    { "sketch", C.ML_MEMORY_SKETCH },
}
local lines = { "mapped", "copied", "cache", "activations", "logits", "scratch", "sketch", "lua", "resident" }

local function megabytes(bytes)
    return bytes and ("%.2f MB"):format(bytes / 1e6)
end

local shown = columns.new {
    { "memory", -12, function(row) return row.name end },
    { "now", 12, function(row) return megabytes(row.bytes) end },
    { "peak", 12, function(row) return megabytes(row.peak) end },
}

local Report = {}
Report.__index = Report

function Report:__tostring()
    local text = { shown:heading() }
    for _, name in ipairs(lines) do
        local entry = self[name]
        text[#text + 1] = shown:line { name = name, bytes = entry.bytes, peak = entry.peak }
    end
    local kv = self.kv
    if kv then
        text[#text + 1] = ("%d tokens; their cache has %s from the system (at most %s): %s in %d pages (at most %s), "
            .. "%s free, %s lost by rounding; %.0f %% not used"):format(self.position, megabytes(kv.reserved),
            megabytes(kv.reserved_peak), megabytes(kv.used), kv.pages, megabytes(kv.used_peak),
            megabytes(kv.free_pages + kv.free_blocks), megabytes(kv.lost), kv.fragmentation * 100)
    end
    text[#text + 1] = ("%d allocations"):format(self.allocations)
    return table.concat(text, "\n")
end

--- Where the memory of this process is: { mapped, copied, cache, activations, logits, scratch, sketch, lua, resident,
--- allocations }.
function M.report()
    local now, peak, report = ffi.new("int64_t[1]"), ffi.new("int64_t[1]"), {}
    for _, purpose in ipairs(purposes) do
        check(C.ml_memory_use(purpose[2], now, peak))
        report[purpose[1]] = { bytes = tonumber(now[0]), peak = tonumber(peak[0]) }
    end
    report.lua = { bytes = collectgarbage("count") * 1024 }
    report.resident = { bytes = tonumber(C.ml_memory_resident()), peak = tonumber(C.ml_memory_peak()) }
    report.allocations = tonumber(C.ml_memory_allocations())
    return setmetatable(report, Report)
end

--- A pool's figures as a table, from a function that fills an ml_pool_info.
function M.pool(fill)
    local info, plain = ffi.new("ml_pool_info"), {}
    fill(info)
    for _, name in ipairs {
        "budget", "reserved", "reserved_peak", "used", "used_peak", "free_pages", "free_blocks", "largest_block",
        "lost", "fragmentation",
    } do plain[name] = tonumber(info[name]) end
    plain.pages = tonumber(info.pieces)
    return plain
end

return M
