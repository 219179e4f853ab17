--- Recipes on the command line: options, --help, --json and exit codes, all from the parameters.
local arguments = require "moonloom.recipe.arguments"
local door = require "moonloom.recipe.door"
local interrupt = require "moonloom._core.interrupt"
local json = require "moonloom.file.json"
local live = require "moonloom.recipe.live"
local models = require "moonloom.models"
local options = require "moonloom.recipe.options"
local words_of = require "moonloom.recipe.words"

local M = {}

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

-- The parameters of a recipe, then the options that all have.
local function all_options(info)
    local list, own = {}, {}
    for i, parameter in ipairs(info.parameters) do list[i], own[parameter.name] = parameter, true end
    for _, row in ipairs(options.at("recipe", own)) do list[#list + 1] = row end
    return list
end

--- The help page of a recipe.
function M.help(info)
    local lines = { usage_line(info), "", "  " .. (info.summary or ""), "", "options:" }
    for _, line in ipairs(words_of.columns(words_of.rows(all_options(info)))) do lines[#lines + 1] = line end
    lines[#lines + 1] = ("\nsource: %s"):format(info.path)
    return table.concat(lines, "\n")
end

-- Puts a word without an option into the next positional parameter; a list takes all that come.
local function take_positional(info, given, word)
    for _, parameter in ipairs(info.parameters) do
        if parameter.positional and (given[parameter.name] == nil or parameter.type == "list") then
            local value = arguments.from_text(info.name, parameter, word, parameter.name)
            words_of.put(given, parameter, value)
            return
        end
    end
    arguments.fail("%s: what is '%s'?", info.name, word)
end

-- Reads the words of a command line. Returns the arguments, and whether JSON and whether help is wanted.
local function parse(info, words)
    local given, list, at, ended = {}, all_options(info), 1, false
    while words[at] do
        local word = words[at]
        if not ended and word == "--" then
            ended = true
        elseif not ended and words_of.is_option(word) then
            at = words_of.take(info.name, list, given, words, at)
        else
            take_positional(info, given, word)
        end
        at = at + 1
    end
    local as_json, help = given.json, given.help
    given.json, given.help = nil, nil
    return given, as_json == true, help
end

local function show(recipe, result, as_json)
    if result == nil then return end
    if as_json then
        io.stdout:write(json.encode(door.plain(recipe, result)), "\n")
    elseif type(result) == "table" and result.streamed then
        return -- it is on the screen already
    else
        local meta = type(result) == "table" and getmetatable(result)
        local text = (type(result) ~= "table" or meta and meta.__tostring) and tostring(result)
            or json.encode(door.plain(recipe, result))
        io.stdout:write(text, text:sub(-1) == "\n" and "" or "\n")
    end
end

-- The exit code for a result: 130 for what there was at Ctrl-C (a generation, a reply, a table of bench), 1 for what
-- there was at an error, which has been told.
local function code_of(result)
    if type(result) ~= "table" then return 0 end
    if result.stop == "interrupted" or result.interrupted == true then return 130 end
    return result.stop == "error" and 1 or 0
end

-- Returns the exit code.
local function execute(name, words)
    local recipe = live.get(name)
    local info = door.describe(recipe) or arguments.fail("%s is no recipe: it has no run function", name)
    local given, as_json, help = parse(info, words)
    if help then
        io.stdout:write(M.help(info), "\n")
        return 0
    end
    if given.model then
        models.use(given.model)
        given.model = nil
    end
    local result = door.run(recipe, given, { json = as_json, command = true })
    show(recipe, result, as_json)
    local fine, problem = io.stdout:flush()
    if not fine then error("standard output: " .. tostring(problem), 0) end
    return code_of(result)
end

--- Runs recipe `name` with a list of words. Returns the exit code: 0; 1 after a failure, which is told on standard
-- error; 2 after wrong usage; 130 where Ctrl-C left a part of the result, and 1 where an error did. An interrupt that
-- left nothing goes through.
function M.run(name, words)
    local fine, problem = pcall(execute, name, words)
    if fine then return problem end
    if interrupt.is_interrupt(problem) then error(problem, 0) end
    io.stdout:flush()
    io.stderr:write("moonloom: ", tostring(problem), "\n")
    if not arguments.is_usage(problem) then return 1 end
    local known, recipe = pcall(live.find, name)
    local info = known and recipe and door.describe(recipe)
    if info then io.stderr:write(usage_line(info), ("; moonloom %s --help lists them\n"):format(name)) end
    return 2
end

return M
