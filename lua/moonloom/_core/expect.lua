--- What was given to a method, checked before it goes to C: there a fraction is cut, what is too large becomes another
--- number and nil a null pointer, and what cannot be converted raises LuaJIT's own words.
local suggest = require "moonloom._core.suggest"

local M = {}

local function quoted(value)
    return type(value) == "string" and ("'%s'"):format(value) or tostring(value)
end

-- Whether `number` (or nil) is a whole number of a size below `limit`.
local function is_whole(number, limit)
    return number and number % 1 == 0 and math.abs(number) < limit
end

--- A token id, as a number that goes into an int32_t unchanged; the core says whether it is a token.
function M.token(id)
    local number = tonumber(id)
    if is_whole(number, 2 ^ 31) then return number end
    error(("%s is no token id"):format(quoted(id)), 0)
end

--- `value` as a whole number below `limit` (2^31 if not given); `what` is what it stands for.
function M.whole(value, what, limit)
    local number = tonumber(value)
    if is_whole(number, limit or 2 ^ 31) then return number end
    error(("%s must be a whole number, not %s"):format(what, quoted(value)), 0)
end

--- `value` as a number, which NaN is not; `what` is what it stands for.
function M.number(value, what)
    local number = tonumber(value)
    if number and number == number then return number end
    error(("%s must be a number, not %s"):format(what, quoted(value)), 0)
end

--- `value` as a number of things to take at most, whole and not below `least`; it may be infinite.
function M.most(value, what, least)
    return math.max(least, math.floor(M.number(value, what)))
end

--- `value`, which must be the path of a file; `method` is what needs it.
function M.path(value, method)
    if type(value) == "string" and value ~= "" then return value end
    error(("%s needs the path of a file, not %s"):format(method, quoted(value)), 0)
end

--- `options`, or an empty table if there are none; `method` is what takes them, those of the list `names` alone if it
--- is given.
function M.options(options, method, names)
    if options == nil then return {} end
    if type(options) ~= "table" then
        error(("%s takes its options as a table, not %s"):format(method, quoted(options)), 0)
    end
    local known = {}
    for _, name in ipairs(names or {}) do known[name] = true end
    for name in pairs(names and options or {}) do
        if not known[name] then
            name = tostring(name)
            error(("%s has no option '%s'%s"):format(method, name, suggest.sentence(name, names)), 0)
        end
    end
    return options
end

return M
