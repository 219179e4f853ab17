--- Recipes: Lua files that users edit, found in folders, called through three doors, taken up again when they change.
--
-- A recipe file returns { name, summary, parameters, run [, format] }. `parameters` is a list of
--     { name = "max_tokens", type = "integer", default = 256, doc = "one line",
--       min =, max =, choices = {...}, required = true, positional = true, from_lua = true (not on the command line),
--       bare = the value of the option alone, without a word after it,
--       split = false (a word is one item of the list, with its commas) }
-- with the types string integer number boolean list path function any. `run(arguments, door)` gets every parameter
-- by name, and door = { json =, command = } (both false when called from Lua). `format(value)` shapes the JSON.
--
-- get(name) and `require "recipes.name"` return the same live value: calling it runs the recipe, its fields are the
-- newest saved ones. Recipe code runs interpreted, so that Ctrl-C always reaches it; so loops over the vocabulary
-- belong into lua/. Other files below recipes/ (`require "recipes.parts.x"`) live the same way.
local ml = require "moonloom._core.ffi"
local arguments = require "moonloom.recipe.arguments"
local interrupt = require "moonloom._core.interrupt"
local policy = require "moonloom.cache.policy"
local suggest = require "moonloom._core.suggest"
local uv = require "luv"

local M = {}

--- Called by poll() with each problem of a changed file: a text of one or two lines.
function M.reporter(problem)
    io.stderr:write("moonloom: ", problem, "\n")
end

local entries = {} -- name -> { name, path, stamp, value, proxy, failed }
local entry_of = setmetatable({}, { __mode = "k" }) -- proxy -> entry

--- Folders that are searched, the first first: $MOONLOOM_RECIPES (a list with colons), the user's, moonloom's own.
function M.folders()
    local list = {}
    for folder in (os.getenv("MOONLOOM_RECIPES") or ""):gmatch("[^:]+") do list[#list + 1] = folder end
    local config = os.getenv("XDG_CONFIG_HOME") or (os.getenv("HOME") or "") .. "/.config"
    list[#list + 1] = config .. "/moonloom/recipes"
    list[#list + 1] = ml.home .. "/recipes"
    return list
end

-- What tells one version of a file from the next, or nil if it is not there.
local function stamp_of(path)
    local stat = uv.fs_stat(path)
    if not stat or stat.type ~= "file" then return nil end
    return ("%d.%d %d %d"):format(stat.mtime.sec, stat.mtime.nsec, stat.size, stat.ino)
end

-- A name with a slash is the path of a file itself.
local function locate(name)
    if name:find("/", 1, true) then return name, stamp_of(name) end
    if not name:find("^[%w_][%w_.-]*$") then return nil end
    local file = "/" .. name:gsub("%.", "/") .. ".lua"
    for _, folder in ipairs(M.folders()) do
        local stamp = stamp_of(folder .. file)
        if stamp then return folder .. file, stamp end
    end
end

local function source_line(path, wanted)
    local number = 0
    for line in io.lines(path) do
        number = number + 1
        if number == wanted then return line:match("^%s*(.-)%s*$") end
    end
end

-- The message of a failed load, with the line it is about.
local function explain(path, problem)
    problem = tostring(problem)
    local number = problem:match(":(%d+):")
    local line = number and source_line(path, tonumber(number))
    return line and ("%s\n    %s | %s"):format(problem, number, line) or problem
end

-- Runs the file at `path`. Returns its value; or nil and a message.
local function load_value(path, name)
    local file, problem = io.open(path, "rb")
    if not file then return nil, problem end
    local text = file:read("*a")
    file:close()
    local chunk
    chunk, problem = loadstring(text, "@" .. path)
    if not chunk then return nil, explain(path, problem) end
    jit.off(chunk, true)
    local fine, value = pcall(chunk, name)
    if interrupt.is_interrupt(value) then return nil, path .. " was interrupted while it was loaded" end
    if not fine then return nil, explain(path, value) end
    if type(value) ~= "table" then
        return nil, ("%s returns a %s, not the table of a recipe"):format(path, type(value))
    end
    if value.run then
        problem = arguments.problem(value.parameters)
        if problem then return nil, ("%s: %s"):format(path, problem) end
    end
    return value
end

local function run(entry, given, door)
    M.report(M.refresh())
    local recipe = entry.value
    if not recipe.run then error(("%s is no recipe: it has no run function"):format(entry.name), 0) end
    if given ~= nil and (type(given) ~= "table" or getmetatable(given)) then
        given = arguments.positional(recipe.parameters, given)
    end
    local checked = arguments.check(entry.name, recipe.parameters, given or {})
    arguments.apply_common(checked)
    door = door or { json = false, command = false }
    if checked.kv == nil then return recipe.run(checked, door) end
    return policy.during(checked.kv, recipe.run, checked, door)
end

local function new_proxy(entry)
    local proxy = setmetatable({}, {
        __index = function(_, key) return entry.value[key] end,
        __newindex = function(_, key, value) entry.value[key] = value end,
        __call = function(_, given) return run(entry, given) end,
        __tostring = function()
            return entry.value.run and ("recipe %s: %s"):format(entry.name, entry.value.summary or "")
                or ("module %s"):format(entry.name)
        end,
    })
    entry_of[proxy] = entry
    return proxy
end

-- The entry of a name, loaded; nil if there is no such file. A file that cannot be loaded raises.
local function entry_for(name)
    local entry = entries[name]
    if entry then return entry end
    local path, stamp = locate(name)
    if not stamp then return nil end
    local value, problem = load_value(path, name)
    if not value then error(problem, 0) end
    entry = { name = name, path = path, stamp = stamp, value = value }
    entry.proxy = new_proxy(entry)
    entries[name] = entry
    return entry
end

--- The recipe `name` as a callable value, or nil if there is none.
function M.find(name)
    local entry = entry_for(name)
    return entry and entry.proxy
end

--- The recipe `name`; raises a sentence if there is none.
function M.get(name)
    return M.find(name) or error(("there is no recipe '%s'%s"):format(name, suggest.sentence(name, M.names())), 0)
end

--- The newest table that a file of that name (or path, with a slash) returned, as it is; nil if there is no such file.
--- For modules of lua/.
function M.value(name)
    local entry = entry_for(name)
    return entry and entry.value
end

-- What `pattern` takes out of the names of the files at the top of the folders, sorted.
local function scan_names(pattern)
    local seen, list = {}, {}
    for _, folder in ipairs(M.folders()) do
        local scan = uv.fs_scandir(folder)
        local file = scan and uv.fs_scandir_next(scan)
        while file do
            local name = file:match(pattern)
            if name and not seen[name] then
                seen[name] = true
                list[#list + 1] = name
            end
            file = uv.fs_scandir_next(scan)
        end
    end
    table.sort(list)
    return list
end

--- Names of all recipes, sorted.
function M.names()
    local list = {}
    for _, name in ipairs(scan_names("^([%w_-]+)%.lua$")) do
        if not name:find("^kv_") then list[#list + 1] = name end
    end
    return list
end

--- Names of all policies for keys and values, sorted: NAME of the files kv_NAME.lua.
function M.policies()
    return scan_names("^kv_([%w_-]+)%.lua$")
end

--- { name, summary, path, parameters } of a recipe value, or nil if `value` is none.
function M.describe(value)
    local entry = entry_of[value]
    if not entry or not entry.value.run then return nil end
    local recipe = entry.value
    return { name = entry.name, summary = recipe.summary, path = entry.path, parameters = recipe.parameters or {} }
end

--- Runs a recipe value with a table of arguments, as if called, behind another door.
function M.run(value, given, door)
    return run(entry_of[value], given, door)
end

--- The JSON value of what a recipe returned.
function M.plain(value, result)
    local recipe = entry_of[value].value
    if recipe.format then return recipe.format(result) end
    if type(result) == "table" and type(result.json) == "function" then return result:json() end
    return result
end

-- Looks whether the file changed, or another one stands before it now (a copy in the user's folder). Returns a problem
-- to tell, once for each version that cannot be loaded.
local function refresh_entry(entry, patient)
    local path, stamp = locate(entry.name)
    if not stamp or stamp == entry.stamp or stamp == entry.failed then return nil end
    local value, problem = load_value(path, entry.name)
    if value then
        entry.value, entry.path, entry.stamp, entry.failed, entry.suspect = value, path, stamp, nil, nil
    elseif patient and entry.suspect ~= stamp then
        entry.suspect = stamp -- perhaps half written: look again before telling
    else
        entry.failed = stamp
        return problem .. "\n    the version before stays in use"
    end
end

local function refresh(patient)
    local problems = {}
    for _, entry in pairs(entries) do
        problems[#problems + 1] = refresh_entry(entry, patient)
    end
    return problems
end

--- Takes up changed files. Returns the problems, a list of texts; the old version of such a file stays in use.
function M.refresh()
    return refresh(false)
end

--- Tells problems through M.reporter.
function M.report(problems)
    for _, problem in ipairs(problems) do M.reporter(problem) end
end

local INTERVAL = 50 -- milliseconds
local polled = 0

--- The same in a loop that runs often: looks every 50 ms at most, and reports problems itself.
function M.poll()
    local now = ml.C.ml_time_now()
    if now - polled < INTERVAL then return end
    polled = now
    M.report(refresh(true))
end

-- `require "recipes.x"`: the live value, before Lua looks for the plain file.
table.insert(package.loaders, 2, function(module)
    local name = module:match("^recipes%.(.+)$")
    if not name then return nil end
    local entry = entry_for(name)
    if not entry then return "\n\tno recipe '" .. name .. "'" end
    return function() return entry.proxy end
end)

return M
