--- Arguments of recipes: types, defaults and checks from the list of parameters.
local interrupt = require "moonloom._core.interrupt"
local suggest = require "moonloom._core.suggest"

local M = {}

--- An error about how something was called, as opposed to what went wrong: the command exits with 2.
local Usage = { __tostring = function(self) return self.message end }

function M.fail(format, ...)
    error(setmetatable({ message = format:format(...) }, Usage), 0)
end

function M.is_usage(value)
    return getmetatable(value) == Usage
end

--- Parameters that every recipe has.
M.common = {
    { name = "model", type = "any", doc = "model file to use (-m); default: the current model" },
    { name = "threads", type = "integer", min = 1, max = 256, doc = "worker threads; default: the physical cores" },
    { name = "load", type = "string", choices = { "map", "copy" }, doc = "how models are loaded from now on: "
        .. "weights in mapped files, or copied into huge pages; default: map" },
    { name = "numa", type = "string", choices = { "off", "spread" }, doc = "spread: deal threads and new memory "
        .. "out over the machine's memory nodes; default: off" },
    { name = "precision", type = "string", choices = { "bf16", "exact" },
        doc = "of products on a matrix unit; default bf16" },
    { name = "kv_store", type = "path", doc = "folder where sessions are kept when they end, and found again by how "
        .. "they begin" },
    { name = "kv", type = "any", doc = "policy for keys and values: balanced, max_context, fastest, tiny_memory, a "
        .. "file, or bits such as 8 or 8,4; default: all plain" },
    { name = "kv_memory", type = "any", doc = "bytes that each cache may have for keys and values, such as 2G; "
        .. "default: no limit" },
}

local function find(parameters, name)
    for _, list in ipairs { parameters or {}, M.common } do
        for _, parameter in ipairs(list) do
            if parameter.name == name then return parameter end
        end
    end
end

--- The parameter of that name; raises a usage error with a suggestion.
function M.parameter(recipe, parameters, name, shown)
    local parameter = find(parameters, name)
    if parameter then return parameter end
    local names = {}
    for _, list in ipairs { parameters or {}, M.common } do
        for _, known in ipairs(list) do names[#names + 1] = known.name end
    end
    local near = suggest.nearest(name, names)
    if near and shown then near = "--" .. near:gsub("_", "-") end
    M.fail("%s has no %s '%s'%s", recipe, shown and "option" or "parameter", shown or name,
        near and ("; did you mean '%s'?"):format(near) or "")
end

local function is_callable(value)
    local meta = type(value) == "table" and getmetatable(value)
    return type(value) == "function" or meta and meta.__call ~= nil
end

-- type -> { what it is called in a sentence, function(value) -> checked value or nil }
local types = {
    string = { "a string", function(v)
        return (type(v) == "string" or type(v) == "number") and tostring(v) or nil
    end },
    path = { "a file name", function(v) return type(v) == "string" and v or nil end },
    integer = { "a whole number", function(v)
        return type(v) == "number" and v == math.floor(v) and math.abs(v) <= 2 ^ 53 and v or nil
    end },
    number = { "a number", function(v) return type(v) == "number" and v - v == 0 and v or nil end }, -- finite
    boolean = { "true or false", function(v) if type(v) == "boolean" then return v end end },
    list = { "a list", function(v) return type(v) == "table" and v or nil end },
    ["function"] = { "a function", function(v) return is_callable(v) and v or nil end },
    any = { "a value", function(v) return v end },
}

local function quoted(value)
    return type(value) == "string" and ("'%s'"):format(value) or tostring(value)
end

local function check_value(recipe, parameter, value, shown)
    local kind = types[parameter.type or "any"]
    local checked = kind[2](value)
    shown = shown or parameter.name
    if checked == nil then M.fail("%s: %s must be %s, not %s", recipe, shown, kind[1], quoted(value)) end
    if parameter.min and type(checked) == "number" and checked < parameter.min then
        M.fail("%s: %s must be at least %.15g, not %.15g", recipe, shown, parameter.min, checked)
    elseif parameter.max and type(checked) == "number" and checked > parameter.max then
        M.fail("%s: %s must be at most %.15g, not %.15g", recipe, shown, parameter.max, checked)
    elseif parameter.choices then
        for _, choice in ipairs(parameter.choices) do
            if choice == checked then return checked end
        end
        local words = {}
        for i, choice in ipairs(parameter.choices) do words[i] = tostring(choice) end
        M.fail("%s: %s must be one of %s, not %s", recipe, shown, table.concat(words, ", "), quoted(value))
    end
    return checked
end

--- Checks a table of arguments against the parameters and fills in the defaults.
function M.check(recipe, parameters, given)
    local checked = {}
    for name, value in pairs(given) do
        local parameter = M.parameter(recipe, parameters, tostring(name))
        checked[name] = check_value(recipe, parameter, value)
    end
    for _, parameter in ipairs(parameters or {}) do
        if checked[parameter.name] == nil then
            if parameter.required then M.fail("%s needs %s: %s", recipe, parameter.name, parameter.doc or "") end
            checked[parameter.name] = parameter.default
        end
    end
    return checked
end

--- A single value in place of a table goes to the first positional parameter, or the first of all.
function M.positional(parameters, value)
    for _, parameter in ipairs(parameters or {}) do
        if parameter.positional then return { [parameter.name] = value } end
    end
    local first = (parameters or {})[1]
    if not first then M.fail("this recipe takes no arguments") end
    return { [first.name] = value }
end

-- Words of a list: numbers where they are numbers.
local function split(text)
    local list = {}
    for word in text:gmatch("[^,]+") do list[#list + 1] = tonumber(word) or word end
    return list
end

--- The value of a word on the command line for a parameter; `shown` is how the option was written.
function M.from_text(recipe, parameter, word, shown)
    local kind, value = parameter.type, word
    if parameter.from_lua then M.fail("%s: %s can only be given from Lua", recipe, shown) end
    if kind == "integer" or kind == "number" then
        value = tonumber(word)
        if value == nil then value = word end
    elseif kind == "boolean" then
        value = word == "true" or word == "yes" or word == "1"
        if not value and word ~= "false" and word ~= "no" and word ~= "0" then value = word end
    elseif kind == "list" then
        value = parameter.split == false and { word } or split(word)
    end
    return check_value(recipe, parameter, value, shown)
end

--- What is wrong with a list of parameters, or nil.
function M.problem(parameters)
    if parameters ~= nil and type(parameters) ~= "table" then return "parameters must be a list" end
    for i, parameter in ipairs(parameters or {}) do
        if type(parameter) ~= "table" or type(parameter.name) ~= "string" then
            return ("parameter %d has no name"):format(i)
        elseif not types[parameter.type or "any"] then
            return ("parameter %s has the unknown type '%s'"):format(parameter.name, tostring(parameter.type))
        end
    end
end

-- f(value), whose error is one of usage.
local function attempt(f, value)
    local fine, problem = pcall(f, value)
    if fine then return end
    if interrupt.is_interrupt(problem) then error(problem, 0) end
    M.fail("%s", tostring(problem))
end

local setters = { -- common parameter -> the function of moonloom that it is for
    { "threads", "threads" }, { "numa", "numa" }, { "kv_store", "store" }, { "kv_memory", "kv_memory" },
    { "load", "loading" }, { "precision", "precision" },
}

--- Carries out what the common parameters ask for; `model` stays for the recipe (moonloom.current(arguments.model)),
--- and the policy `kv` is only looked at.
function M.apply_common(checked)
    for _, setter in ipairs(setters) do
        if checked[setter[1]] then attempt(require("moonloom")[setter[2]], checked[setter[1]]) end
    end
    if checked.kv then attempt(require("moonloom.cache.policy").choose, checked.kv) end
end

return M
