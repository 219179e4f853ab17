--- Shows any Lua value for a reader: sorted keys, quoted strings, limits on depth, length and repetition.
local interrupt = require "moonloom._core.interrupt"
local style = require "repl.style"

local M = {}

local LIMITS = { depth = 4, items = 24, text = 160, nodes = 1500 }
local escapes = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ["\\"] = "\\\\", ['"'] = '\\"', ["\27"] = "\\27" }

-- Bytes of the UTF-8 character at `at`, or nil: RFC 3629, without its finer rules on overlong forms.
local function character(text, at)
    local lead = text:byte(at)
    local length = lead < 0x80 and 1 or lead >= 0xC2 and lead < 0xE0 and 2 or lead >= 0xE0 and lead < 0xF0 and 3
        or lead >= 0xF0 and lead < 0xF5 and 4
    if not length then return nil end
    for i = at + 1, at + length - 1 do
        local byte = text:byte(i)
        if not byte or byte < 0x80 or byte >= 0xC0 then return nil end
    end
    return length
end

--- `text` as a Lua string literal; whole UTF-8 characters stay, other bytes become \xHH.
function M.quote(text)
    local out, at = {}, 1
    while at <= #text do
        local length = character(text, at)
        local piece = text:sub(at, at + (length or 1) - 1)
        if not length or piece:find("^[%z\1-\8\11\12\14-\26\28-\31\127]") then
            piece = ("\\x%02x"):format(piece:byte())
        end
        out[#out + 1] = escapes[piece] or piece
        at = at + (length or 1)
    end
    return '"' .. table.concat(out) .. '"'
end

-- Cuts a long text between two characters.
local function shorten(text, limit)
    if #text <= limit then return M.quote(text) end
    local stop = limit
    while stop > 1 and text:byte(stop + 1) >= 0x80 and text:byte(stop + 1) < 0xC0 do stop = stop - 1 end
    return M.quote(text:sub(1, stop)) .. ("... (%d bytes)"):format(#text)
end

--- A number with as many digits as it takes to read it back.
function M.number(value)
    if value ~= value then return "nan" end
    local text = ("%.14g"):format(value)
    return tonumber(text) == value and text or ("%.17g"):format(value)
end

local function describe_function(value)
    local info = debug.getinfo(value, "S")
    if info.what == "C" or info.linedefined <= 0 then return "function (built in)" end
    local file = info.source:match("^@(.*)") or info.short_src
    if MOONLOOM_HOME and file:sub(1, #MOONLOOM_HOME + 1) == MOONLOOM_HOME .. "/" then
        file = file:sub(#MOONLOOM_HOME + 2)
    end
    return ("function %s:%d"):format(file, info.linedefined)
end

local rank = { number = 1, string = 2, boolean = 3 }

local function sort_keys(a, b)
    local ra, rb = rank[type(a)] or 4, rank[type(b)] or 4
    if ra ~= rb then return ra < rb end
    if ra <= 2 then return a < b end
    return tostring(a) < tostring(b)
end

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
    until while]]):gmatch("%a+") do
    keywords[word] = true
end

local function has_text(value)
    local meta = debug.getmetatable(value)
    return type(meta) == "table" and type(rawget(meta, "__tostring")) == "function"
end

local show -- forward: a value in the state of one printing

local function show_key(state, key)
    if type(key) == "string" then
        if key:find("^[%a_][%w_]*$") and not keywords[key] then return state.paint("name", key) end
        return "[" .. state.paint("string", shorten(key, LIMITS.text)) .. "]"
    end
    return "[" .. show(state, key, LIMITS.depth, 0) .. "]"
end

-- Keys outside 1..length, sorted, and the length.
local function split_keys(value)
    local length, keys = 0, {}
    while rawget(value, length + 1) ~= nil do length = length + 1 end
    for key in next, value do
        if not (type(key) == "number" and key >= 1 and key <= length and key % 1 == 0) then keys[#keys + 1] = key end
    end
    table.sort(keys, sort_keys)
    return length, keys
end

local function table_items(state, value, depth, indent)
    local items = {}
    local length, keys = split_keys(value)
    local function rest(count)
        items[#items + 1] = state.paint("dim", ("... %d more"):format(count))
    end
    for i = 1, length do
        if i > LIMITS.items or state.nodes > LIMITS.nodes then
            rest(length - i + 1)
            break
        end
        items[#items + 1] = show(state, rawget(value, i), depth + 1, indent + 2)
    end
    for i, key in ipairs(keys) do
        if i > LIMITS.items * 4 or state.nodes > LIMITS.nodes then
            rest(#keys - i + 1)
            break
        end
        items[#items + 1] = show_key(state, key) .. " = " .. show(state, rawget(value, key), depth + 1, indent + 2)
    end
    return items
end

local function show_table(state, value, depth, indent)
    if state.open[value] then return state.paint("dim", "<the table around it>") end
    if next(value) == nil then return "{}" end
    if depth >= LIMITS.depth then return state.paint("dim", "{...}") end
    state.open[value] = true
    local items = table_items(state, value, depth, indent)
    state.open[value] = nil
    local line = "{ " .. table.concat(items, ", ") .. " }"
    if not line:find("\n", 1, true) and style.width(line) + indent <= state.columns then return line end
    local pad = (" "):rep(indent + 2)
    return "{\n" .. pad .. table.concat(items, ",\n" .. pad) .. "\n" .. (" "):rep(indent) .. "}"
end

-- What __tostring says: of a value inside a table the first line only.
local function show_text(state, value, depth)
    local fine, text = pcall(tostring, value)
    local line = fine and depth > 0 and text:match("^([^\n]*)\n")
    if line then return line .. state.paint("dim", " ...") end
    if fine then return text end
    if interrupt.is_interrupt(text) then error(text, 0) end
    return state.paint("dim", "<__tostring failed: " .. tostring(text) .. ">")
end

show = function(state, value, depth, indent)
    state.nodes = state.nodes + 1
    local kind = type(value)
    if kind == "string" then
        return state.paint("string", depth == 0 and M.quote(value) or shorten(value, LIMITS.text))
    elseif kind == "number" then
        return state.paint("number", M.number(value))
    elseif kind == "nil" or kind == "boolean" then
        return state.paint("constant", tostring(value))
    elseif kind == "function" then
        return state.paint("dim", describe_function(value))
    elseif kind == "table" and not has_text(value) then
        return show_table(state, value, depth, indent)
    elseif kind == "thread" then
        return state.paint("dim", "coroutine, " .. coroutine.status(value))
    end
    return show_text(state, value, depth)
end

--- The text of `value`. options: paint (a function of repl/style.lua; plain by default), columns (80).
function M.show(value, options)
    options = options or {}
    local state = {
        open = {}, nodes = 0, columns = options.columns or 80, paint = options.paint or style.painter(false),
    }
    return show(state, value, 0, 0)
end

return M
