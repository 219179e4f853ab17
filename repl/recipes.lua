--- Recipes, samplers and policies as the prompt sees them: a file with an error is no obstacle to the others.
local arguments = require "moonloom.recipe.arguments"
local door = require "moonloom.recipe.door"
local live = require "moonloom.recipe.live"
local policy = require "moonloom.cache.policy"

local M = { names = live.names, policies = policy.names, describe = door.describe }

--- The recipe `name` as a callable value, or nil; raises if its file cannot be loaded.
M.find = live.find

--- Whether there is a file for a recipe of that name, however broken.
function M.is_there(name)
    return name:find("^[%w_-]+$") ~= nil and live.has(name)
end

--- { name, summary, path, parameters } of recipe `name`, or nil and a message if its file cannot be loaded.
function M.info(name)
    local fine, value = pcall(live.find, name)
    if not fine then return nil, tostring(value) end
    return value and door.describe(value)
end

--- The path of the file that a live value is of, a recipe or another one; nil if it is none.
function M.path(value)
    local _, path = live.origin(value)
    return path
end

--- Names of the parameters of recipe `value`, the ones that all have included; nil if it is no recipe.
function M.parameter_names(value)
    local info = door.describe(value)
    if not info then return nil end
    local names = {}
    for i, parameter in ipairs(arguments.all(info.parameters)) do names[i] = parameter.name end
    return names
end

return M
