--- What the prompt and scripts find without `require`: ml, every recipe by name, model, resume(), help, quit.
--- Recipes and the model are looked up when their name is used, so a new recipe file is there at once.
local recipes = require "repl.recipes"

local M = { locals = {} }

-- name -> { one line of help, function that makes the value }
local lazy = {}

--- Adds the global `name`, whose value `make()` finds each time the name is read.
function M.offer(name, summary, make)
    lazy[name] = { summary = summary, make = make }
end

local function lookup(_, name)
    if type(name) ~= "string" then return nil end
    if lazy[name] then return lazy[name].make() end
    return recipes.find(name)
end

--- Makes the offered names and the recipes visible as globals. What a user assigns wins.
function M.install()
    setmetatable(_G, { __index = lookup })
end

--- Offered names with their summaries, sorted: { { name, summary }, ... }.
function M.offered()
    local out = {}
    for name, entry in pairs(lazy) do out[#out + 1] = { name, entry.summary } end
    table.sort(out, function(a, b) return a[1] < b[1] end)
    return out
end

--- The summary of an offered name, or nil.
function M.summary(name)
    return lazy[name] and lazy[name].summary
end

local keywords = { "break", "else", "elseif", "false", "function", "local", "repeat", "return", "then", "true",
    "until", "while" }

--- Names that may stand at the start of an expression; with Lua's longer keywords if `with_keywords`.
function M.names(with_keywords)
    local seen, out = {}, {}
    local function add(name)
        if type(name) == "string" and not seen[name] then
            seen[name] = true
            out[#out + 1] = name
        end
    end
    for name in next, _G do add(name) end
    for name in pairs(lazy) do add(name) end
    for _, name in ipairs(recipes.names()) do add(name) end
    for _, name in ipairs(with_keywords and keywords or {}) do add(name) end
    return out
end

--- Names that ?name knows without a dot: globals and the functions of the C header.
function M.help_names()
    local out = M.names()
    for name in require("moonloom._core.ffi").header:gmatch("%f[%w_](ml_[%w_]+)%(") do out[#out + 1] = name end
    return out
end

-- The tables in which the fields of `value` are found, itself first.
local function levels(value)
    local out = {}
    if type(value) == "table" then out[1] = value end
    for _ = 1, 8 do
        local meta = debug.getmetatable(value)
        local index = type(meta) == "table" and rawget(meta, "__index")
        if type(index) ~= "table" then
            -- objects that compute fields keep their methods in the metatable itself
            if type(index) == "function" and type(meta) == "table" then out[#out + 1] = meta end
            break
        end
        out[#out + 1] = index
        value = index
    end
    return out
end

--- Names of the fields of `value`, its class included, sorted; private ones (_name) and metamethods left out.
function M.fields(value)
    local seen, out = {}, {}
    for _, level in ipairs(levels(value)) do
        for name in next, level do
            if type(name) == "string" and name:find("^%a[%w_]*$") and not seen[name] then
                seen[name] = true
                out[#out + 1] = name
            end
        end
    end
    table.sort(out)
    return out
end

--- Field `name` of `value` without running code of the user.
function M.get(value, name)
    if value == _G then return M.global(name) end
    for _, level in ipairs(levels(value)) do
        local found = rawget(level, name)
        if found ~= nil then return found end
    end
    return nil
end

--- The global `name`, offered ones and recipes included; nil if there is none.
function M.global(name)
    local value = rawget(_G, name)
    if value == nil then value = lookup(_G, name) end
    return value
end

function M.is_callable(value)
    local meta = debug.getmetatable(value)
    return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Follows a path such as `a.b[1]:c` from the globals. Returns true and the value, or false and the first part that
--- is not there.
function M.resolve(path)
    local name, rest = path:match("^([%a_][%w_]*)(.*)$")
    if not name then return false, path end
    local value = M.global(name)
    local at = name
    while rest ~= "" and value ~= nil do
        local key, after = rest:match("^[.:]([%a_][%w_]*)(.*)$")
        if not key then
            key, after = rest:match("^%[([^%]]+)%](.*)$")
            if not key then return false, at end
            key = tonumber(key) or key:match("^[\"'](.*)[\"']$")
        end
        value, rest, at = M.get(value, key), after, tostring(key)
    end
    return value ~= nil, value ~= nil and value or at
end

--- Names of the parameters of the recipe that `callee` names, or nil.
function M.parameters(callee)
    local known, value = M.resolve(callee)
    return known and recipes.parameter_names(value) or nil
end

--- Remembers names that a typed chunk declared local: they are gone with the chunk, and the hint can say so.
function M.note_locals(text)
    for list in ("\n" .. text):gmatch("\n%s*local%s+([%w_,%s]+)") do
        for name in list:gmatch("[%a_][%w_]*") do M.locals[name] = true end
    end
    for name in ("\n" .. text):gmatch("\n%s*local%s+function%s+([%a_][%w_]*)") do M.locals[name] = true end
end

return M
