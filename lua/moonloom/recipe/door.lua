--- The doors of a recipe: arguments checked, run, shaped for JSON.
--
-- A recipe is a live file that returns { name, summary, parameters, run [, format] }: see recipe/live.lua for the file,
-- recipe/arguments.lua for the parameters. `run(arguments, door)` gets every parameter by name, and
-- door = { json =, command = } (both false when called from Lua). `format(value)` shapes the JSON.
local arguments = require "moonloom.recipe.arguments"
local live = require "moonloom.recipe.live"
local options = require "moonloom.recipe.options"
local policy = require "moonloom.cache.policy"

local M = {}

--- { name, summary, path, parameters } of a live value that is a recipe, or nil.
function M.describe(value)
    local name, path, recipe = live.origin(value)
    if not recipe or not recipe.run then return nil end
    return { name = name, summary = recipe.summary, path = path, parameters = arguments.flat(recipe.parameters) }
end

--- Runs a recipe with a table of arguments, or with one value for its first positional parameter.
function M.run(value, given, door)
    live.report(live.refresh())
    local name, _, recipe = live.origin(value)
    if not recipe.run then error(("%s is no recipe: it has no run function"):format(name), 0) end
    if given ~= nil and (type(given) ~= "table" or getmetatable(given)) then
        given = arguments.positional(recipe.parameters, given)
    end
    local checked = arguments.check(name, recipe.parameters, given or {})
    options.apply(checked)
    door = door or { json = false, command = false }
    if checked.kv == nil then return recipe.run(checked, door) end
    return policy.during(checked.kv, recipe.run, checked, door)
end

--- The JSON value of what a recipe returned.
function M.plain(value, result)
    local _, _, recipe = live.origin(value)
    if recipe.format then return recipe.format(result) end
    if type(result) == "table" and type(result.json) == "function" then return result:json() end
    return result
end

live.call = M.run
live.judge("", function(value)
    if value.run then return arguments.problem(value.parameters) end
end)

return M
