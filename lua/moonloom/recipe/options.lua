--- The global options, one row each: of the command `moonloom`, and of every recipe.
--
-- A row is a parameter (see recipe/arguments.lua) with
--     where     "program": only before the name of a recipe; "recipe": only behind it, on the command line. Without it,
--               an option stands in both places, and from Lua it is a parameter of every recipe
--     short     the option as it is mostly written, if that is not --name
--     also      another way to write it
--     word      what stands for its value in help
--     needs     the same in a sentence
--     flag      true: it takes no value
--     usual     the default, in words
--     set       function(value) that carries it out for the process
--     look      function(value) in place of `set` where it is for one call of a recipe only, which sees to it itself
-- Help pages, completion, `?` and the checks read these rows.
local arguments = require "moonloom.recipe.arguments"
local interrupt = require "moonloom._core.interrupt"
local machine = require "moonloom.machine"
local models = require "moonloom.models"
local policy = require "moonloom.cache.policy"
local store = require "moonloom.cache.store"

local M = {}

M.list = {
    { name = "e", short = "-e", word = "CODE", type = "list", split = false, where = "program",
        doc = "run CODE (may be repeated); an expression that is no call shows its value" },
    { name = "i", short = "-i", where = "program", flag = true, doc = "then go on at the prompt" },
    { name = "model", short = "-m", word = "FILE", type = "any", usual = "the small one in data/", set = models.use,
        look = function() end, doc = "model file to use" },
    { name = "threads", word = "N", type = "integer", min = 0, max = 256, usual = "the physical cores",
        set = machine.threads, doc = "worker threads" },
    { name = "load", word = "map|copy", type = "string", choices = { "map", "copy" }, usual = "map",
        set = models.loading, doc = "models stay in their mapped files, or are copied into huge pages" },
    { name = "numa", word = "off|spread", type = "string", choices = { "off", "spread" }, usual = "off",
        set = machine.numa, doc = "deal threads and new memory out over the machine's memory nodes" },
    { name = "precision", word = "bf16|exact", type = "string", choices = { "bf16", "exact" }, usual = "bf16",
        set = machine.precision, doc = "of products on a matrix unit" },
    { name = "kv_store", word = "DIR", type = "path", set = store.use,
        doc = "keep sessions there when they end, and begin with what is there" },
    { name = "kv", word = "NAME|FILE|BITS", type = "any", usual = "all plain", set = policy.use, look = policy.choose,
        doc = function()
            return ("policy for keys and values: %s, a file, or bits such as 8 or 8,4"):format(
                table.concat(policy.names(), ", "))
        end },
    { name = "kv_memory", word = "BYTES", needs = "bytes, such as 2G", type = "any", usual = "no limit",
        set = policy.budget, doc = "that each cache may have for keys and values, such as 2G" },
    { name = "json", where = "recipe", flag = true, doc = "print one JSON object on standard output and nothing else" },
    { name = "version", where = "program", flag = true, doc = "version and instruction set" },
    { name = "help", also = "-h", flag = true, doc = "this text" },
}

--- The rows of the options at `where`, "program" or "recipe", but for those with a name that is a key of `own`.
function M.at(where, own)
    local list = {}
    for _, row in ipairs(M.list) do
        if (row.where or where) == where and not (own or {})[row.name] then list[#list + 1] = row end
    end
    return list
end

-- f(value), whose error is one of usage.
local function attempt(f, value)
    local fine, problem = pcall(f, value)
    if fine then return end
    if interrupt.is_interrupt(problem) then error(problem, 0) end
    arguments.fail("%s", tostring(problem))
end

--- Carries out the options among checked arguments: of one call of a recipe, or for the `whole` process.
function M.apply(checked, whole)
    for _, row in ipairs(M.list) do
        local act = not whole and row.look or row.set
        if act and checked[row.name] then attempt(act, checked[row.name]) end
    end
end

for _, row in ipairs(M.list) do
    if row.set then table.insert(arguments.common, row) end
end

return M
