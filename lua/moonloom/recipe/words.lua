--- Words of a command line, read with a list of parameters; and the rows of a help page about them.
local arguments = require "moonloom.recipe.arguments"

local M = {}

-- A boolean written as --name or --no-name: the parameter and its value.
local function as_flag(parameters, name)
    for _, parameter in ipairs(parameters) do
        if parameter.type == "boolean" then
            if parameter.name == name then return parameter, true end
            if "no_" .. parameter.name == name then return parameter, false end
        end
    end
end

-- The parameter that the option `shown` is for; raises a usage error with a suggestion.
local function find(owner, parameters, shown)
    for _, parameter in ipairs(parameters) do
        if parameter.short == shown or parameter.also == shown then return parameter end
    end
    local name = shown:match("^%-%-(..+)$")
    if not name then arguments.fail("%s no option '%s'", owner and owner .. " has" or "there is", shown) end
    return arguments.parameter(owner, parameters, name:gsub("-", "_"), shown)
end

--- Sets a parameter; what a list has already stays in front.
function M.put(given, parameter, value)
    if parameter.type == "list" then
        local list = given[parameter.name] or {}
        for _, item in ipairs(value) do list[#list + 1] = item end
        value = list
    end
    given[parameter.name] = value
end

--- Takes the option at words[at] into `given`. Returns the index of its last word. `owner` is the recipe whose option
--- it is; nil: the program's.
function M.take(owner, parameters, given, words, at)
    local shown, value = words[at]:match("^(%-%-[^=]+)=(.*)$")
    shown = shown or words[at]
    local flag, on = as_flag(parameters, (shown:gsub("^%-%-", ""):gsub("-", "_")))
    if flag and not value then
        given[flag.name] = on
        return at
    end
    local parameter = find(owner, parameters, shown)
    if parameter.flag then
        if value then arguments.refuse(owner, "%s takes no value", shown) end
        given[parameter.name] = true
        return at
    end
    if not value and parameter.bare and (words[at + 1] or "-"):sub(1, 1) == "-" then
        given[parameter.name] = parameter.bare
        return at
    end
    if not value then
        at = at + 1
        value = words[at] or arguments.refuse(owner, "%s needs %s%s", shown,
            parameter.needs or parameter.word or "a value", owner and "" or "; moonloom --help lists the options")
    end
    M.put(given, parameter, arguments.from_text(owner, parameter, value, shown))
    return at
end

--- Whether a word is an option, not a value or a file.
function M.is_option(word)
    return word:sub(1, 1) == "-" and word ~= "-"
end

local WORDS = { string = "TEXT", path = "FILE", integer = "N", number = "X", list = "A,B,C", chain = "CHAIN",
    any = "VALUE" }

local function written(parameter)
    local option = parameter.short or "--" .. parameter.name:gsub("_", "-")
    if parameter.flag then return option end
    if parameter.type == "boolean" then return parameter.default == true and "--no-" .. option:sub(3) or option end
    local word = parameter.word or parameter.split == false and "WORD"
        or parameter.choices and table.concat(parameter.choices, "|")
        or WORDS[parameter.type or "any"]
    return option .. (parameter.bare and " [%s]" or " %s"):format(word)
end

local function default_of(parameter)
    local default = parameter.usual or parameter.default
    if parameter.required then return " (required)" end
    if default == nil or type(default) == "table" or default == "" or default == false then return "" end
    return (" (default %s)"):format(tostring(default))
end

--- Rows of a help page, { "--threads N", "worker threads (default the physical cores)" }, for those of the parameters
--- that the command line has.
function M.rows(parameters)
    local rows = {}
    for _, parameter in ipairs(parameters) do
        if not parameter.from_lua then
            rows[#rows + 1] = { written(parameter), arguments.doc(parameter) .. default_of(parameter) }
        end
    end
    return rows
end

--- The lines of such rows in two columns, the first `least` wide at least.
function M.columns(rows, least)
    local wide, lines = least or 0, {}
    for _, row in ipairs(rows) do wide = math.max(wide, #row[1]) end
    for i, row in ipairs(rows) do lines[i] = ("  %-" .. wide .. "s  %s"):format(row[1], row[2]) end
    return lines
end

return M
