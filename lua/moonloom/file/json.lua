--- JSON in and out: cjson reads; writing is our own, so that empty arrays stay arrays, NaN and infinities become null,
--- numbers survive the round trip and broken UTF-8 becomes U+FFFD.
local cjson = require "cjson"
local ffi = require "ffi"

local M = { null = cjson.null }

--- Parses a JSON text. Raises one sentence if it is none.
function M.decode(text)
    local fine, value = pcall(cjson.decode, text)
    if not fine then error("this is not JSON: " .. tostring(value), 0) end
    return value
end

local Object = {}

--- Marks a table as an object, which matters only when it is empty: unmarked empty tables are arrays.
function M.object(table)
    return setmetatable(table, Object)
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(byte)
    return escapes[byte] or ("\\u%04x"):format(byte:byte())
end

-- Length of the well-formed UTF-8 character at `at`, or nil (Unicode 15, table 3-7).
local function character(text, at)
    local a, b = text:byte(at, at + 1)
    if a < 0x80 then return 1 end
    local length = a >= 0xC2 and a <= 0xDF and 2 or a >= 0xE0 and a <= 0xEF and 3 or a >= 0xF0 and a <= 0xF4 and 4
    if not length or not b then return nil end
    local low = a == 0xE0 and 0xA0 or a == 0xF0 and 0x90 or 0x80
    local high = a == 0xED and 0x9F or a == 0xF4 and 0x8F or 0xBF
    if b < low or b > high then return nil end
    for i = at + 2, at + length - 1 do
        local c = text:byte(i)
        if not c or c < 0x80 or c > 0xBF then return nil end
    end
    return length
end

--- `text` with every byte that is no part of a UTF-8 character replaced by U+FFFD.
function M.utf8(text)
    if not text:find("[\128-\255]") then return text end
    local parts, at = {}, 1
    while at <= #text do
        local length = character(text, at)
        parts[#parts + 1] = length and text:sub(at, at + length - 1) or "\239\191\189"
        at = at + (length or 1)
    end
    return table.concat(parts)
end

local function number(value)
    if value ~= value or value == math.huge or value == -math.huge then return "null" end
    if value == math.floor(value) and math.abs(value) < 2 ^ 53 then return ("%d"):format(value) end
    for digits = 15, 17 do
        local text = ("%." .. digits .. "g"):format(value)
        if tonumber(text) == value then return text end
    end
end

local write

local function write_array(out, list)
    out[#out + 1] = "["
    for i = 1, #list do
        if i > 1 then out[#out + 1] = "," end
        write(out, list[i])
    end
    out[#out + 1] = "]"
end

local function write_object(out, table_)
    local keys = {}
    for key in pairs(table_) do keys[#keys + 1] = tostring(key) end
    table.sort(keys)
    out[#out + 1] = "{"
    for i, key in ipairs(keys) do
        if i > 1 then out[#out + 1] = "," end
        write(out, key)
        out[#out + 1] = ":"
        write(out, table_[key])
    end
    out[#out + 1] = "}"
end

function write(out, value)
    local kind = type(value)
    if value == nil or value == M.null then
        out[#out + 1] = "null"
    elseif kind == "number" then
        out[#out + 1] = number(value)
    elseif kind == "boolean" then
        out[#out + 1] = tostring(value)
    elseif kind == "string" then
        out[#out + 1] = '"' .. M.utf8(value):gsub('[%c"\\]', escape) .. '"'
    elseif kind == "table" then
        if value[1] ~= nil or next(value) == nil and getmetatable(value) ~= Object then
            write_array(out, value)
        else
            write_object(out, value)
        end
    elseif kind == "cdata" and (ffi.istype("int64_t", value) or ffi.istype("uint64_t", value)) then
        out[#out + 1] = (tostring(value):gsub("[UL]+$", ""))
    else
        error(("a %s cannot be written as JSON"):format(kind), 0)
    end
end

--- The JSON text of a plain value on one line. Keys are sorted.
function M.encode(value)
    local out = {}
    write(out, value)
    return table.concat(out)
end

return M
