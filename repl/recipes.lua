--- Recipes as the prompt sees them: a file with an error is no obstacle to the others.
local recipe = require "moonloom.recipe.live"

local M = { names = recipe.names, policies = recipe.policies, describe = recipe.describe }

--- The recipe `name` as a callable value, or nil; raises if its file cannot be loaded.
M.find = recipe.find

--- { name, summary, path, parameters } of recipe `name`, or nil and a message if its file cannot be loaded.
function M.info(name)
    local fine, value = pcall(recipe.find, name)
    if not fine then return nil, tostring(value) end
    return value and recipe.describe(value)
end

--- Names of the parameters of recipe `value`, the ones that all have included; nil if it is no recipe.
function M.parameter_names(value)
    local info = recipe.describe(value)
    if not info then return nil end
    local names = {}
    for _, list in ipairs { info.parameters, require("moonloom.recipe.arguments").common } do
        for _, parameter in ipairs(list) do names[#names + 1] = parameter.name end
    end
    return names
end

return M
