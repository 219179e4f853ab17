--- What has a name without being a value at the prompt: samplers, policies, and parameters of recipes.
local arguments = require "moonloom.recipe.arguments"
local chains = require "moonloom.recipe.chain"
local policy = require "moonloom.cache.policy"
local recipes = require "repl.recipes"

local M = {}

local shelves = { -- as in `?samplers.top_k`
    samplers = { what = "a sampler", names = chains.names, describe = chains.describe },
    policies = { what = "a policy for keys and values", names = policy.names, describe = policy.describe },
}

--- Names of the samplers ("samplers") or policies ("policies").
function M.names(shelf)
    return shelves[shelf].names()
end

-- f(name) unless it raises, which a broken file makes it do.
local function attempt(f, name)
    local fine, value, path = pcall(f, name)
    if fine then return value, path end
end

-- Every item that `name` means: { shelf, name, value, path }, in order. With a shelf before it, "samplers.x", at most
-- one.
local function items(name)
    local only, bare = name:match("^(%a+)%.([%w_-]+)$")
    local found = {}
    for _, shelf in ipairs { "samplers", "policies" } do
        if not only or only == shelf then
            local value, path = attempt(shelves[shelf].describe, bare or name)
            if value then found[#found + 1] = { shelf = shelf, name = bare or name, value = value, path = path } end
        end
    end
    return found
end

-- What a parameter may be, in words.
local function limits(parameter)
    local words = {}
    if parameter.type and parameter.type ~= "any" then words[1] = arguments.types[parameter.type][1] end
    if parameter.choices then words[1] = "one of " .. table.concat(parameter.choices, ", ") end
    if parameter.min then words[#words + 1] = ("at least %.15g"):format(parameter.min) end
    if parameter.max then words[#words + 1] = ("at most %.15g"):format(parameter.max) end
    if parameter.required then words[#words + 1] = "required" end
    return #words > 0 and (" (%s)"):format(table.concat(words, ", ")) or ""
end

--- Rows { "k", "how many (a whole number, at least 0)" } of a list of parameters; `show` writes defaults.
function M.parameter_rows(parameters, show)
    local rows = {}
    for i, parameter in ipairs(arguments.flat(parameters)) do
        local default = parameter.default ~= nil and " = " .. show(parameter.default) or ""
        rows[i] = { parameter.name .. default, arguments.doc(parameter) .. limits(parameter)
            .. (parameter.usual and "; default: " .. parameter.usual or "") }
    end
    return rows
end

-- The help on one item, as lines.
local function item_page(item, look)
    local shelf, value = shelves[item.shelf], item.value
    local title = arguments.signature(item.name, value.parameters)
    local out = { ("%s   %s: %s%s"):format(look.paint("strong", title), shelf.what, value.summary or "",
        look.paint("dim", "   " .. look.short(item.path))) }
    local rows = M.parameter_rows(value.parameters, look.show)
    if #rows > 0 then out[#out + 1] = look.rows(rows) end
    if value.source then out[#out + 1] = "from: " .. value.source end
    out[#out + 1] = look.paint("dim", (item.shelf == "samplers"
        and "chain = { {\"%s\", ...} } here, --chain '%s=...' in a shell, ??samplers.%s its source"
        or "kv = \"%s\" here, --kv %s in a shell, ??policies.%s its source"):format(item.name, item.name, item.name))
    return table.concat(out, "\n")
end

-- The recipes that have a parameter `name`, by what is said of it: { { parameter, { recipe names } }, ... }.
local function users_of(name)
    local groups, by_doc = {}, {}
    for _, recipe in ipairs(recipes.names()) do
        local info = recipes.info(recipe)
        for _, parameter in ipairs(info and info.parameters or {}) do
            if parameter.name == name then
                local doc = arguments.doc(parameter)
                if not by_doc[doc] then
                    by_doc[doc] = { parameter, {} }
                    groups[#groups + 1] = by_doc[doc]
                end
                table.insert(by_doc[doc][2], recipe)
            end
        end
    end
    return groups
end

local function parameter_pages(name, look, out)
    local function add(parameter, whose)
        out[#out + 1] = ("%s   a parameter of %s"):format(look.paint("strong", name), whose)
        out[#out + 1] = look.rows(M.parameter_rows({ parameter }, look.show))
    end
    for _, group in ipairs(users_of(name)) do add(group[1], table.concat(group[2], ", ")) end
    for _, option in ipairs(arguments.common) do
        if option.name == name then add(option, "every recipe, and an option of the command") end
    end
end

--- The help on what is called `name`, or nil. `look` is { paint, show(value), short(path), rows(list) }.
function M.about(name, look)
    local out = {}
    for _, item in ipairs(items(name)) do out[#out + 1] = item_page(item, look) end
    parameter_pages(name, look, out)
    return #out > 0 and table.concat(out, "\n") or nil
end

--- The path of the file of a sampler or policy, or nil.
function M.path(name)
    local item = items(name)[1]
    return item and item.path
end

--- Rows { signature, summary } of a shelf, for the page of its recipe; nil if `name` is none.
function M.rows(name)
    if not shelves[name] then return nil end
    local rows = {}
    for i, row in ipairs(name == "samplers" and chains.list() or policy.list()) do
        rows[i] = { row.signature, row.summary }
    end
    return rows
end

--- Names of the parameters of sampler `name`.
function M.sampler_parameters(name)
    local names = {}
    local sampler = attempt(chains.describe, name)
    for i, parameter in ipairs(arguments.flat(sampler and sampler.parameters)) do names[i] = parameter.name end
    return names
end

--- The list `names` with every name that about() knows.
function M.with_all(names)
    local seen, list = {}, {}
    local function add(name)
        if not seen[name] then list[#list + 1] = name end
        seen[name] = true
    end
    for _, name in ipairs(names) do add(name) end
    for shelf in pairs(shelves) do
        for _, name in ipairs(M.names(shelf)) do add(name) end
    end
    for _, recipe in ipairs(recipes.names()) do
        local info = recipes.info(recipe)
        for _, parameter in ipairs(info and info.parameters or {}) do add(parameter.name) end
    end
    for _, option in ipairs(arguments.common) do add(option.name) end
    return list
end

return M
