--- Recipes on the command line: options, --help, --json and exit codes, all from the parameters.
local arguments = require "moonloom.recipe.arguments"
local interrupt = require "moonloom._core.interrupt"
local json = require "moonloom.file.json"
local recipe = require "moonloom.recipe.live"

local M = {}

local function option_name(parameter)
    return "--" .. parameter.name:gsub("_", "-")
end

local function value_word(parameter)
    local words = { string = "TEXT", path = "FILE", integer = "N", number = "X", list = "A,B,C", any = "VALUE" }
    if parameter.split == false then return "WORD" end
    return parameter.choices and table.concat(parameter.choices, "|") or words[parameter.type or "any"]
end

local function usage_line(info)
    local words = { "usage: moonloom", (info.name:gsub("_", " ")) } -- either will do
    for _, parameter in ipairs(info.parameters) do
        if parameter.positional then
            local word = parameter.name:upper()
            if parameter.split == false then word = "-- " .. word end
            words[#words + 1] = parameter.required and word or ("[%s]"):format(word)
        end
    end
    words[#words + 1] = "[options]"
    return table.concat(words, " ")
end

local function describe_default(parameter)
    local default = parameter.default
    if parameter.required then return " (required)" end
    if default == nil or type(default) == "table" or default == "" or default == false then return "" end
    return (" (default %s)"):format(tostring(default))
end

local function row_of(parameter)
    local left = option_name(parameter)
    if parameter.type == "boolean" then
        if parameter.default == true then left = "--no-" .. left:sub(3) end
    else
        left = left .. (parameter.bare and " [%s]" or " %s"):format(value_word(parameter))
    end
    return { left, (parameter.doc or "") .. describe_default(parameter) }
end

--- The help page of a recipe.
function M.help(info)
    local rows, own = {}, {}
    for _, parameter in ipairs(info.parameters) do
        own[parameter.name] = true
        if not parameter.from_lua then rows[#rows + 1] = row_of(parameter) end
    end
    rows[#rows + 1] = { "-m FILE", "model file to use (default data/tiny-gpt-oss.gguf)" }
    rows[#rows + 1] = { "--threads N", "worker threads (default: the physical cores)" }
    rows[#rows + 1] = { "--load map|copy", "weights stay in the file, or are copied into huge pages (default map)" }
    rows[#rows + 1] = { "--numa off|spread", "deal threads and memory out over memory nodes (default off)" }
    rows[#rows + 1] = { "--precision bf16|exact", "of products on a matrix unit (default bf16)" }
    rows[#rows + 1] = { "--kv-store DIR", "keep sessions there when they end, and begin with what is there" }
    if not own.kv then
        rows[#rows + 1] = { "--kv NAME|FILE|BITS", "policy for keys and values: balanced, max_context, fastest, "
            .. "tiny_memory, ... (default all plain)" }
    end
    rows[#rows + 1] = { "--kv-memory BYTES", "for keys and values, such as 2G (default no limit)" }
    rows[#rows + 1] = { "--json", "print one JSON object on standard output and nothing else" }
    rows[#rows + 1] = { "--help", "this text" }
    local wide = 0
    for _, row in ipairs(rows) do wide = math.max(wide, #row[1]) end
    local lines = { usage_line(info), "", "  " .. (info.summary or ""), "", "options:" }
    for _, row in ipairs(rows) do
        lines[#lines + 1] = ("  %s%s  %s"):format(row[1], (" "):rep(wide - #row[1]), row[2])
    end
    lines[#lines + 1] = ("\nsource: %s"):format(info.path)
    return table.concat(lines, "\n")
end

-- Sets a parameter; what a list has already stays in front.
local function put(given, parameter, value)
    if parameter.type == "list" then
        local list = given[parameter.name] or {}
        for _, item in ipairs(value) do list[#list + 1] = item end
        value = list
    end
    given[parameter.name] = value
end

-- Puts a word without an option into the next positional parameter; a list takes all that come.
local function take_positional(info, given, word)
    for _, parameter in ipairs(info.parameters) do
        if parameter.positional and (given[parameter.name] == nil or parameter.type == "list") then
            local value = arguments.from_text(info.name, parameter, word, parameter.name)
            put(given, parameter, value)
            return
        end
    end
    arguments.fail("%s: what is '%s'?", info.name, word)
end

-- A boolean written as --name or --no-name: the parameter and its value.
local function as_flag(info, name)
    for _, parameter in ipairs(info.parameters) do
        if parameter.type == "boolean" then
            if parameter.name == name then return parameter, true end
            if "no_" .. parameter.name == name then return parameter, false end
        end
    end
end

-- Takes the option `word` at `words[at]`; returns the index of its last word.
local function take_option(info, given, words, at)
    local word = words[at]
    local shown, value = word:match("^(%-%-[^=]+)=(.*)$")
    shown = shown or word
    local name = shown == "-m" and "model" or shown:match("^%-%-(.+)$")
    if not name then arguments.fail("%s has no option '%s'", info.name, word) end
    if name == "json" or name == "help" then arguments.fail("%s: %s takes no value", info.name, shown) end
    name = name:gsub("-", "_")
    local flag, on = as_flag(info, name)
    if flag and not value then
        given[flag.name] = on
        return at
    end
    local parameter = arguments.parameter(info.name, info.parameters, name, shown)
    if not value and parameter.bare and (words[at + 1] or "-"):sub(1, 1) == "-" then
        given[parameter.name] = parameter.bare
        return at
    end
    if not value then
        at = at + 1
        value = words[at] or arguments.fail("%s: %s needs a value", info.name, shown)
    end
    put(given, parameter, arguments.from_text(info.name, parameter, value, shown))
    return at
end

-- Reads the words of a command line: arguments, and { json =, help = }.
local function parse(info, words)
    local given, asked, at, options = {}, { json = false }, 1, true
    while words[at] do
        local word = words[at]
        if options and word == "--" then
            options = false
        elseif options and word == "--json" then
            asked.json = true
        elseif options and (word == "--help" or word == "-h") then
            asked.help = true
        elseif options and word:sub(1, 1) == "-" and word ~= "-" then
            at = take_option(info, given, words, at)
        else
            take_positional(info, given, word)
        end
        at = at + 1
    end
    return given, asked
end

local function show(live, result, as_json)
    if result == nil then return end
    if as_json then
        io.stdout:write(json.encode(recipe.plain(live, result)), "\n")
    elseif type(result) == "table" and result.streamed then
        return -- it is on the screen already
    else
        local meta = type(result) == "table" and getmetatable(result)
        local text = (type(result) ~= "table" or meta and meta.__tostring) and tostring(result)
            or json.encode(recipe.plain(live, result))
        io.stdout:write(text, text:sub(-1) == "\n" and "" or "\n")
    end
end

-- Whether a result is what there was at Ctrl-C: a generation, a reply, a table of bench.
local function is_partial(result)
    return type(result) == "table" and (result.stop == "interrupted" or result.interrupted == true)
end

-- Returns the exit code.
local function execute(name, words)
    local live = recipe.get(name)
    local info = recipe.describe(live) or arguments.fail("%s is no recipe: it has no run function", name)
    local given, asked = parse(info, words)
    if asked.help then
        io.stdout:write(M.help(info), "\n")
        return 0
    end
    if given.model then
        require("moonloom").use(given.model)
        given.model = nil
    end
    local result = recipe.run(live, given, { json = asked.json, command = true })
    show(live, result, asked.json)
    local fine, problem = io.stdout:flush()
    if not fine then error("standard output: " .. tostring(problem), 0) end
    return is_partial(result) and 130 or 0
end

--- Runs recipe `name` with a list of words. Returns the exit code: 0; 1 after a failure, which is told on standard
-- error; 2 after wrong usage; 130 where Ctrl-C left a part of the result. An interrupt that left nothing goes through.
function M.run(name, words)
    local fine, problem = pcall(execute, name, words)
    if fine then return problem end
    if interrupt.is_interrupt(problem) then error(problem, 0) end
    io.stdout:flush()
    io.stderr:write("moonloom: ", tostring(problem), "\n")
    if not arguments.is_usage(problem) then return 1 end
    local known, live = pcall(recipe.find, name)
    local info = known and live and recipe.describe(live)
    if info then io.stderr:write(usage_line(info), ("; moonloom %s --help lists them\n"):format(name)) end
    return 2
end

return M
