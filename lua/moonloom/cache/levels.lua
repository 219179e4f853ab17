--- What lies where in a cache, drawn: for each layer the tokens of a session by level, and for each level its pages,
--- bytes and traffic.
--
--     print(session:levels())
--     session:levels():data()     -- the same as plain tables
--
-- data() is { tokens, bytes, disk_bytes, kept, plain_bytes, policy, levels, layers }; bytes are those in memory.
-- `levels` and each of `layers` have the fields hot, warm, cold and disk: { pages, bytes, whole, hits, demoted,
-- promoted } as ml_level in core/moonloom.h explains them, the cache's with hit_share. A layer also has { layer,
-- window, plain_bytes, tokens = { hot, warm, cold, disk } } and `sample`, what packing and quantising make of one of
-- its pages (see session:sample()), if there is a full one.
local ffi = require "ffi"
local columns = require "moonloom._core.columns"
local ml = require "moonloom._core.ffi"
local terminal = require "moonloom._core.terminal"
local C, check = ml.C, ml.check

local M = {}

M.names = { "hot", "warm", "cold", "disk" } -- in the order of ML_LEVEL_...
local FIELDS = { "pages", "bytes", "whole", "hits", "demoted", "promoted" }
local WIDE = 32 -- cells of a bar
local cells = { hot = { "█", 179 }, warm = { "▓", 151 }, cold = { "▒", 110 }, disk = { "░", 246 } } -- and a colour

-- ---- data

local function read_levels(handle, layer)
    local out, plain = ffi.new("ml_level[?]", C.ML_LEVELS), {}
    check(C.ml_cache_levels(handle, layer, out))
    for i, name in ipairs(M.names) do
        plain[name] = {}
        for _, field in ipairs(FIELDS) do plain[name][field] = tonumber(out[i - 1][field]) end
    end
    return plain
end

local function read_tokens(handle, sequence, layer)
    local out, plain = ffi.new("int64_t[?]", C.ML_LEVELS), {}
    check(C.ml_sequence_levels(handle, sequence, layer, out))
    for i, name in ipairs(M.names) do plain[name] = tonumber(out[i - 1]) end
    return plain
end

--- What packing and quantising make of one full page of `layer`: see session:sample().
function M.sample(handle, sequence, layer)
    local out = ffi.new("ml_page_sample")
    local status = C.ml_cache_sample(handle, sequence, layer, out)
    if status == C.ML_E_NOT_FOUND then return nil end
    check(status)
    local sample = { bytes = tonumber(out.bytes), packed = tonumber(out.packed), unsplit = tonumber(out.unsplit) }
    if out.plain == 1 then
        sample.key_error = { bits8 = out.key_error[0], bits4 = out.key_error[1] }
        sample.value_error = { bits8 = out.value_error[0], bits4 = out.value_error[1] }
    end
    return sample
end

--- How fast pages come back into memory: see session:promotion().
function M.promotion(handle, sequence)
    local out, plain = ffi.new("ml_promotion"), {}
    check(C.ml_cache_promotion(handle, sequence, out))
    for _, name in ipairs { "pages", "bytes", "packed", "zstd", "zstd_seconds", "memory_seconds", "disk_seconds",
        "check_seconds", "stream_seconds" } do
        plain[name] = tonumber(out[name])
    end
    return plain
end

local function pages_of(levels)
    local pages = 0
    for _, name in ipairs(M.names) do pages = pages + levels[name].pages end
    return pages
end

local function read_layer(session, handle, layer)
    local row = read_levels(handle, layer)
    row.layer = layer
    row.window = session.model:window(layer)
    row.plain_bytes = pages_of(row) * tonumber(check(C.ml_cache_page_bytes(handle, layer, 1)))
    row.tokens = read_tokens(handle, session.sequence, layer)
    row.sample = M.sample(handle, session.sequence, layer)
    return row
end

-- ---- the picture

local Levels = {}
Levels.__index = Levels

-- How many cells each level gets: what is there at all has one.
local function shares(tokens, total)
    local widths, left, widest = {}, WIDE, nil
    for _, name in ipairs(M.names) do
        widths[name] = tokens[name] == 0 and 0 or math.max(1, math.floor(tokens[name] / total * WIDE + 0.5))
        left = left - widths[name]
        if not widest or widths[name] > widths[widest] then widest = name end
    end
    if total > 0 then widths[widest] = widths[widest] + left end
    return widths
end

-- A bar of the tokens by level, the lowest on the left: mostly those are the oldest.
local function bar(tokens, total, coloured)
    local widths, parts, drawn = shares(tokens, total), {}, 0
    for i = #M.names, 1, -1 do
        local name = M.names[i]
        local text = cells[name][1]:rep(widths[name])
        parts[#parts + 1] = coloured and ("\27[38;5;%dm%s\27[39m"):format(cells[name][2], text) or text
        drawn = drawn + widths[name]
    end
    return table.concat(parts) .. (" "):rep(WIDE - drawn)
end

local function megabytes(bytes)
    return ("%.2f"):format(bytes / 1e6)
end

local function ratio(whole, bytes)
    return bytes > 0 and ("%.2f"):format(whole / bytes) or nil
end

local function bytes_of(row)
    return row.hot.bytes + row.warm.bytes + row.cold.bytes
end

local function error_text(sample, side, bits)
    local errors = sample and sample[side]
    return errors and ("%.2g%%"):format(errors[bits] * 100)
end

local by_layer = columns.new {
    { "layer", 5, function(row) return row.layer end },
    { "sees", 5, function(row) return row.window or "all" end },
    { "bar", -1, function() return "\1" end }, -- in place of it, see below
    { "MB", 9, function(row) return megabytes(bytes_of(row)) end },
    { "of plain", 8, function(row)
        return row.plain_bytes > 0 and columns.percent(bytes_of(row) / row.plain_bytes) or nil
    end },
    { "k8 err", 6, function(row) return error_text(row.sample, "key_error", "bits8") end },
    { "k4 err", 6, function(row) return error_text(row.sample, "key_error", "bits4") end },
    { "v8 err", 6, function(row) return error_text(row.sample, "value_error", "bits8") end },
    { "v4 err", 6, function(row) return error_text(row.sample, "value_error", "bits4") end },
}

local by_level = columns.new {
    { "level", -6, function(row) return row.name end },
    { "", -1, function(row) return "\1" end },
    { "pages", 9, function(row) return row.pages end },
    { "MB", 9, function(row) return megabytes(row.bytes) end },
    { "packed", 6, function(row) return ratio(row.whole, row.bytes) end },
    { "hits", 12, function(row) return row.hits end },
    { "share", 7, function(row) return row.hit_share and columns.percent(row.hit_share) end },
    { "came", 9, function(row) return row.demoted end },
    { "promoted", 9, function(row) return row.promoted end },
}

function Levels:__tostring()
    local plain, coloured, lines = rawget(self, "_data"), terminal.has_colour(1), {}
    lines[1] = ("%d tokens; the cache%s has %s MB in memory, %s of what plain pages would take"):format(plain.tokens,
        plain.policy and (" (%s)"):format(plain.policy) or "", megabytes(plain.bytes),
        columns.percent(plain.plain_bytes > 0 and plain.bytes / plain.plain_bytes or 1))
    if plain.disk_bytes > 0 then lines[1] = lines[1] .. (", and %s MB on disk"):format(megabytes(plain.disk_bytes)) end
    lines[2] = ""
    lines[3] = by_level:heading()
    for _, name in ipairs(M.names) do
        local level = setmetatable({ name = name }, { __index = plain.levels[name] })
        local cell = cells[name][1]
        if coloured then cell = ("\27[38;5;%dm%s\27[39m"):format(cells[name][2], cell) end
        lines[#lines + 1] = (by_level:line(level):gsub("\1", cell))
    end
    lines[#lines + 1] = ""
    lines[#lines + 1] = (by_layer:heading():gsub("bar", "tokens" .. (" "):rep(WIDE - 6)))
    for _, row in ipairs(plain.layers) do
        lines[#lines + 1] = (by_layer:line(row):gsub("\1", (bar(row.tokens, plain.tokens, coloured))))
    end
    lines[#lines + 1] = "k8 err: what 8 bits get wrong of the keys of a page that is still plain (v: values)"
    return table.concat(lines, "\n")
end

--- The levels as plain tables: see above.
function Levels:data()
    return rawget(self, "_data")
end

Levels.json = Levels.data

--- What lies where in the cache of `session`.
function M.of(session)
    local handle = session:shared_cache().handle
    local fields = session:policy()
    local plain = { tokens = session.position, layers = {}, levels = read_levels(handle, -1), plain_bytes = 0,
        bytes = 0, kept = tonumber(C.ml_cache_kept(handle)),
        policy = fields and (fields.name or "a policy of its own") }
    local hits = 0
    for _, name in ipairs(M.names) do
        hits = hits + plain.levels[name].hits
        if name ~= "disk" then plain.bytes = plain.bytes + plain.levels[name].bytes end
    end
    plain.disk_bytes = plain.levels.disk.bytes
    for _, name in ipairs(M.names) do
        plain.levels[name].hit_share = hits > 0 and plain.levels[name].hits / hits or nil
    end
    for layer = 0, session.model:config().layers - 1 do
        local row = read_layer(session, handle, layer)
        plain.layers[layer + 1] = row
        plain.plain_bytes = plain.plain_bytes + row.plain_bytes
    end
    return setmetatable({ _data = plain }, Levels)
end

return M
