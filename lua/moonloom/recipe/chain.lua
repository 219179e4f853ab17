--- Chains of samplers: found by name, checked, written, run.
--
-- A sampler is a live file samplers/NAME.lua that returns
--     summary       a line about it
--     parameters    its arguments, as a recipe has them: see recipe/arguments.lua
--     source        the paper or the program that it follows
--     apply         function(candidates, p, context): drops, scales or changes some of the candidates. p has the
--                   arguments by name; context has tokens (all ids so far), position, random() (uniform in [0, 1), from
--                   the seed) and generation
--     best          function(p), may be left out: whether only the best token is left, whatever the candidates are. A
--                   chain of such samplers needs no logits but the best one
--
-- A chain is a list; an entry is a name, { name, value, ..., key = value }, or a function(candidates, context); or the
-- chain is a text, as on the command line: see recipe/notation.lua. check() makes of an entry { function } or
-- { name, value, ..., key = value, checked }, where `checked` is a table that apply() keeps up to date.
local arguments = require "moonloom.recipe.arguments"
local live = require "moonloom.recipe.live"
local listing = require "moonloom.recipe.listing"
local notation = require "moonloom.recipe.notation"
local suggest = require "moonloom._core.suggest"

local M = {}

local Chain = {} -- a list that was checked
Chain.__index = Chain

local CHECKED = {} -- key of an entry: { file, value, p, refused }, see above

--- Names of all samplers, sorted.
function M.names()
    return live.files "samplers"
end

--- The newest table of sampler `name`, and the path of its file; nil if there is none. Raises if it cannot be loaded.
function M.describe(name)
    local value = type(name) == "string" and name:find("^[%w_-]+$") and live.find("samplers." .. name)
    if not value then return nil end
    local _, path, sampler = live.origin(value)
    return sampler, path
end

--- All samplers: { { name, signature, summary, source, path }, ... }; printed, a line each.
function M.list()
    return listing.of_files(M.names(), M.describe)
end

local function refuse_unknown(owner, name)
    local names = M.names()
    local near = suggest.sentence(name, names)
    arguments.refuse(owner, "there is no sampler '%s'%s", name,
        near ~= "" and near or "; there are " .. table.concat(names, ", "))
end

local function check_named(owner, entry)
    local name = entry[1]
    local sampler = M.describe(name) or refuse_unknown(owner, name)
    local checked = { [CHECKED] = {
        file = "samplers." .. name, value = sampler,
        p = arguments.check_own(owner, sampler.parameters, arguments.by_name(owner, sampler.parameters, entry)),
    } }
    for key, value in pairs(entry) do checked[key] = value end
    return checked
end

local FORMS = "a name, { name, values ... } or a function"

-- An entry, checked; `owner` says which it is.
local function check_entry(owner, entry)
    if type(entry) ~= "table" or getmetatable(entry) and getmetatable(entry).__call then entry = { entry } end
    local first = entry[1]
    if type(first) == "string" then return check_named(("%s (%s)"):format(owner, first), entry) end
    if type(first) ~= "function" and not (getmetatable(first) or {}).__call then
        arguments.refuse(owner, "%s is needed, not %s", FORMS, arguments.quoted(first))
    end
    local checked = {}
    for key, value in pairs(entry) do checked[key] = value end
    checked[1] = live.follow(first)
    return checked
end

-- A sentence about the first entry that has no effect, because one before it leaves the best token alone; or nil.
local function idle(chain)
    local ends
    for i, entry in ipairs(chain) do
        local takes_best = M.takes_best(entry)
        if ends and type(entry[1]) == "string" and not takes_best then
            return ("entry %d (%s) has no effect: %s before it leaves only the best token"):format(i, entry[1],
                notation.write(ends))
        end
        if takes_best then ends = ends or entry end
    end
end

--- Checks a chain: a list or a text. Raises a usage error that says which entry is wrong; `where` is what the chain was
--- given as. Returns the chain for apply(); one that was checked is returned as it is.
function M.check(list, where)
    where = where or "chain"
    if getmetatable(list) == Chain then return list end
    if type(list) == "string" then
        local entries, problem = notation.read(list)
        if not entries then arguments.refuse(where, "%s", problem) end
        list = entries
    end
    if type(list) ~= "table" then arguments.refuse(where, "a list of samplers is needed, not %s",
        arguments.quoted(list)) end
    for key in pairs(list) do
        if type(key) ~= "number" then
            arguments.refuse(where, "a list of entries has no '%s'; { { \"top_k\", 40 }, \"greedy\" } is one",
                tostring(key))
        elseif key > 1 and list[key - 1] == nil then
            arguments.refuse(where, "entry %d is nil", key - 1)
        end
    end
    local chain = setmetatable({}, Chain)
    for i, entry in ipairs(list) do chain[i] = check_entry(("%s, entry %d"):format(where, i), entry) end
    local problem = idle(chain)
    if problem then arguments.refuse(where, "%s", problem) end
    return chain
end

-- Takes up what was saved of the sampler of an entry. A version that does not fit the values is told of once.
local function refresh(entry, checked)
    local value = live.value(checked.file)
    if value == checked.value or value == checked.refused then return end
    local owner = ("chain (%s)"):format(entry[1])
    local fine, p = pcall(function()
        return arguments.check_own(owner, value.parameters, arguments.by_name(owner, value.parameters, entry))
    end)
    if fine then
        checked.value, checked.p = value, p
    else
        checked.refused = value
        live.reporter(("%s\n    the version before stays in use"):format(tostring(p)))
    end
end

--- Applies one entry of a checked chain, the sampler as it was saved last.
function M.apply(entry, candidates, context)
    local checked = entry[CHECKED]
    if not checked then return entry[1](candidates, context, unpack(entry, 2)) end
    refresh(entry, checked)
    return checked.value.apply(candidates, checked.p, context)
end

--- Whether after this entry only the best token is left, whatever the candidates are.
function M.takes_best(entry)
    local checked = entry[CHECKED]
    if not checked then return false end
    refresh(entry, checked)
    return checked.value.best ~= nil and checked.value.best(checked.p) == true
end

--- A sampler as a function(candidates, value, ..., context), the context at any place; raises if there is none
--- of that name. So one sampler can use another: samplers.top_k(candidates, 40).
function M.as_function(name)
    if not M.describe(name) then refuse_unknown(nil, tostring(name)) end
    return function(candidates, ...)
        local entry, context = { name }, nil
        for i = 1, select("#", ...) do
            local value = select(i, ...)
            if type(value) == "table" and value.tokens then context = value else entry[#entry + 1] = value end
        end
        return M.apply(check_named(name, entry), candidates, context)
    end
end

function Chain:__tostring()
    local words = {}
    for i, entry in ipairs(self) do
        words[i] = type(entry[1]) == "string" and notation.write(entry) or "a function"
    end
    return #words > 0 and table.concat(words, ", ") or "no samplers"
end

arguments.types.chain = { "a chain of samplers", function(value, where)
    return value and M.check(value, where) -- false: none
end }

live.judge("^samplers$", function(value)
    if type(value.wants) == "function" then return nil end
    return "it is a copy of an older moonloom's. Samplers are files samplers/NAME.lua now: put what you changed into "
        .. "such files beside it, and remove it"
end)

live.judge("^samplers%.", function(value)
    if type(value.apply) ~= "function" then
        return "a sampler returns { summary, parameters, source, apply = function(candidates, p, context) }"
    elseif value.best ~= nil and type(value.best) ~= "function" then
        return "best must be a function(p) that says whether only the best token is left"
    end
    return arguments.problem(value.parameters)
end)

return M
