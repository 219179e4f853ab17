--- Arguments: types, defaults and checks from a list of parameters. Recipes, samplers and policies have such lists.
--
-- A parameter is { name =, type =, default =, doc = "one line",
--     min =, max =, choices = {...}, required = true, positional = true, from_lua = true (not on the command line),
--     bare = the value of the option alone, without a word after it,
--     split = false (a word is one item of the list, with its commas) }
-- with the types string integer number boolean list path function chain any. In place of one there may be a list of
-- parameters that several recipes share (such as sampling.parameters). Such a list may have a field check, a
-- function(arguments, given) that returns a sentence about what does not go together, or nil; `given` has the names of
-- what was given, as keys.
local notation = require "moonloom.recipe.notation"
local suggest = require "moonloom._core.suggest"

local M = {}

--- An error about how something was called, as opposed to what went wrong: the command exits with 2.
local Usage = { __tostring = function(self) return self.message end }

--- Raises such an error.
function M.fail(format, ...)
    error(setmetatable({ message = format:format(...) }, Usage), 0)
end

function M.is_usage(value)
    return getmetatable(value) == Usage
end

--- Raises a usage error about what `owner` (a recipe, say, or nil) was given.
function M.refuse(owner, format, ...)
    M.fail("%s%s", owner and owner .. ": " or "", format:format(...))
end

--- The parameters that every recipe has besides its own. recipe/options.lua fills this list.
M.common = {}

--- A list of parameters without lists in it.
function M.flat(parameters)
    local list = {}
    for _, parameter in ipairs(parameters or {}) do
        for _, one in ipairs(parameter.name and { parameter } or parameter) do list[#list + 1] = one end
    end
    return list
end

--- The parameters of a recipe and then those that every recipe has.
function M.all(parameters)
    local list, own = M.flat(parameters), {}
    for _, parameter in ipairs(list) do own[parameter.name] = true end
    for _, parameter in ipairs(M.common) do
        if not own[parameter.name] then list[#list + 1] = parameter end
    end
    return list
end

--- The line of help of a parameter. (Where it depends on what files there are, `doc` is a function that makes it.)
function M.doc(parameter)
    return type(parameter.doc) == "function" and parameter.doc() or parameter.doc or ""
end

-- Names that a mistyped one may have been meant to be.
local function names_of(parameters)
    local names = {}
    for _, parameter in ipairs(parameters) do
        if #parameter.name > 1 then names[#names + 1] = parameter.name end
    end
    return names
end

--- The parameter of that name in a flat list; raises a usage error with a suggestion. `shown` is how it was written as
--- an option. Without an owner it is one of the program.
function M.parameter(owner, parameters, name, shown)
    for _, parameter in ipairs(parameters) do
        if parameter.name == name then return parameter end
    end
    local near = suggest.nearest(name, names_of(parameters))
    if near and shown then near = "--" .. near:gsub("_", "-") end
    M.fail("%s no %s '%s'%s", owner and owner .. " has" or "there is", shown and "option" or "parameter", shown or name,
        near and ("; did you mean '%s'?"):format(near) or "")
end

local function is_callable(value)
    local meta = type(value) == "table" and getmetatable(value)
    return type(value) == "function" or meta and meta.__call ~= nil
end

-- Words of a list: numbers where they are numbers.
local function split(text)
    local list = {}
    for word in text:gmatch("[^,]+") do list[#list + 1] = tonumber(word) or word end
    return list
end

local function number_of(word)
    local number = tonumber(word)
    if number == nil then return word end
    return number
end

local SPOKEN = { ["true"] = true, yes = true, ["1"] = true, ["false"] = false, no = false, ["0"] = false }

local function boolean_of(word)
    if SPOKEN[word] == nil then return word end
    return SPOKEN[word]
end

--- type -> { what it is called in a sentence, check(value, where) -> checked value or nil, from_text(word) -> value }.
--- A check may raise a better sentence itself, which begins with `where`. recipe/chain.lua adds the type chain.
M.types = {
    string = { "a string", function(v)
        return (type(v) == "string" or type(v) == "number") and tostring(v) or nil
    end },
    path = { "a file name", function(v) return type(v) == "string" and v or nil end },
    integer = { "a whole number", function(v)
        return type(v) == "number" and v == math.floor(v) and math.abs(v) <= 2 ^ 53 and v or nil
    end, number_of },
    number = { "a number", function(v)
        return type(v) == "number" and v - v == 0 and v or nil -- finite
    end, number_of },
    boolean = { "true or false", function(v) if type(v) == "boolean" then return v end end, boolean_of },
    list = { "a list", function(v) return type(v) == "table" and v or nil end, split },
    ["function"] = { "a function", function(v) return is_callable(v) and v or nil end },
    any = { "a value", function(v) return v end },
}

--- `value` in a sentence: a text in quotes; what has no text of its own by its kind, not by its address.
function M.quoted(value)
    local kind = type(value)
    if kind == "string" then return ("'%s'"):format(value) end
    if kind == "nil" or kind == "number" or kind == "boolean" or (getmetatable(value) or {}).__tostring then
        return tostring(value)
    end
    return "a " .. kind
end

--- `value` as the parameter wants it; raises a usage error. `shown` is how the parameter was written, if not as its
--- name.
function M.check_value(owner, parameter, value, shown)
    shown = shown or parameter.name
    local kind = M.types[parameter.type or "any"]
    local checked = kind[2](value, owner and owner .. ": " .. shown or shown)
    if checked == nil then M.refuse(owner, "%s must be %s, not %s", shown, kind[1], M.quoted(value)) end
    if parameter.min and type(checked) == "number" and checked < parameter.min then
        M.refuse(owner, "%s must be at least %.15g, not %.15g", shown, parameter.min, checked)
    elseif parameter.max and type(checked) == "number" and checked > parameter.max then
        M.refuse(owner, "%s must be at most %.15g, not %.15g", shown, parameter.max, checked)
    elseif parameter.choices then
        local words = {}
        for i, choice in ipairs(parameter.choices) do
            if choice == checked then return checked end
            words[i] = tostring(choice)
        end
        M.refuse(owner, "%s must be one of %s, not %s", shown, table.concat(words, ", "), M.quoted(value))
    end
    return checked
end

-- Checks arguments against `known`, a flat list, and fills in what is in `before`, then the defaults.
local function check(owner, parameters, known, given, before)
    local checked = {}
    for name, value in pairs(given) do
        checked[name] = M.check_value(owner, M.parameter(owner, known, tostring(name)), value)
    end
    for _, parameter in ipairs(M.flat(parameters)) do
        local name = parameter.name
        if checked[name] == nil then checked[name] = (before or {})[name] end
        if checked[name] == nil then
            if parameter.required then M.fail("%s needs %s: %s", owner, name, M.doc(parameter)) end
            checked[name] = parameter.default
        end
    end
    for _, shared in ipairs(parameters or {}) do
        local problem = shared.check and shared.check(checked, given)
        if problem then M.refuse(owner, "%s", problem) end
    end
    return checked
end

--- Checks a table of arguments against the parameters of a recipe, and those that all have. What is not given is filled
--- in from `before` (the arguments of a generation that goes on another way, say), then with the defaults.
function M.check(owner, parameters, given, before)
    return check(owner, parameters, M.all(parameters), given, before)
end

--- The same for what is no recipe, such as a sampler.
function M.check_own(owner, parameters, given)
    return check(owner, parameters, M.flat(parameters), given)
end

--- The values of an entry { name, value, ..., key = value }, such as of a chain, by the names of the parameters.
function M.by_name(owner, parameters, entry)
    local given, list, count = {}, M.flat(parameters), #entry - 1
    if count > #list then
        M.refuse(owner, "takes %d value%s, not %d", #list, #list == 1 and "" or "s", count)
    end
    for i = 1, count do given[list[i].name] = entry[i + 1] end
    for key, value in pairs(entry) do
        if type(key) == "string" then
            if given[key] ~= nil then M.refuse(owner, "%s is given twice", key) end
            given[key] = value
        end
    end
    return given
end

--- How an entry is written, with its parameters: "repetition_penalty(penalty, last=64)".
function M.signature(name, parameters)
    local words = {}
    for i, parameter in ipairs(M.flat(parameters)) do
        local default = parameter.default
        words[i] = default == nil and parameter.name or ("%s=%s"):format(parameter.name, notation.value(default))
    end
    return #words == 0 and name or ("%s(%s)"):format(name, table.concat(words, ", "))
end

--- A single value in place of a table goes to the first positional parameter, or the first of all.
function M.positional(parameters, value)
    local list = M.flat(parameters)
    for _, parameter in ipairs(list) do
        if parameter.positional then return { [parameter.name] = value } end
    end
    if not list[1] then M.fail("this recipe takes no arguments") end
    return { [list[1].name] = value }
end

--- The value of a word on the command line for a parameter; `shown` is how the option was written.
function M.from_text(owner, parameter, word, shown)
    if parameter.from_lua then M.refuse(owner, "%s can only be given from Lua", shown) end
    local read, value = M.types[parameter.type or "any"][3], word
    if parameter.split == false then
        value = { word }
    elseif read then
        value = read(word)
    end
    return M.check_value(owner, parameter, value, shown)
end

local FIELDS = { "bare", "choices", "default", "doc", "from_lua", "max", "min", "name", "positional", "required",
    "split", "type" }
local is_field = {}
for _, field in ipairs(FIELDS) do is_field[field] = true end

--- What is wrong with a list of parameters, or nil.
function M.problem(parameters)
    if parameters ~= nil and type(parameters) ~= "table" then return "parameters must be a list" end
    for i, parameter in ipairs(parameters or {}) do
        if type(parameter) ~= "table" or not (parameter.name or parameter[1]) then
            return ("parameter %d has no name"):format(i)
        end
    end
    for i, parameter in ipairs(M.flat(parameters)) do
        if type(parameter) ~= "table" or type(parameter.name) ~= "string" then
            return ("parameter %d has no name"):format(i)
        elseif not M.types[parameter.type or "any"] then
            return ("parameter %s has the unknown type '%s'"):format(parameter.name, tostring(parameter.type))
        end
        for field in pairs(parameter) do
            if not is_field[field] then
                return ("parameter %s has the unknown field '%s'%s"):format(parameter.name, tostring(field),
                    suggest.sentence(tostring(field), FIELDS))
            end
        end
    end
end

return M
