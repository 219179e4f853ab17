--- Live files: Lua files in folders that users edit, found by name, taken up again when they change.
--
-- get(name) and `require "recipes.name"` return the same live value: its fields are the newest saved ones. A name with
-- dots is a path below the folders: "samplers.top_k" is samplers/top_k.lua. Where a version cannot be loaded, the one
-- before stays in use. Code of such files runs interpreted, so that Ctrl-C always reaches it; so loops over the
-- vocabulary belong into lua/.
--
-- Nothing here knows what the files are for: judge() says what a version must be like, and M.call what calling a live
-- value does. See recipe/door.lua for recipes, recipe/chain.lua for samplers, cache/policy.lua for policies.
local ml = require "moonloom._core.ffi"
local interrupt = require "moonloom._core.interrupt"
local suggest = require "moonloom._core.suggest"
local uv = require "luv"

local M = {}

--- Called by poll() with each problem of a changed file: a text of one or two lines.
function M.reporter(problem)
    io.stderr:write("moonloom: ", problem, "\n")
end

--- What calling a live value does: M.call(value, arguments). Set by recipe/door.lua.
M.call = nil

local judges = {} -- { pattern, function(value) -> problem }

--- From now on a version of a file whose name matches `pattern` is used only if judge(value) finds no problem: it
--- returns a sentence, or nil.
function M.judge(pattern, judge)
    judges[#judges + 1] = { pattern, judge }
end

local entries = {} -- name -> { name, path, stamp, value, proxy, failed }
local entry_of = setmetatable({}, { __mode = "k" }) -- proxy -> entry
local sources = setmetatable({}, { __mode = "k" }) -- function that was read out of a proxy -> { entry, name }

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

local SHELVES = { "/", "/measure/" } -- where in a folder a plain name is looked for

-- Path and stamp of the file that a name means, or nil. A name with a slash is the path itself.
local function locate(name)
    if name:find("/", 1, true) then return name, stamp_of(name) end
    if not name:find("^[%w_][%w_.-]*$") then return nil end
    local file = name:gsub("%.", "/") .. ".lua"
    for _, folder in ipairs(M.folders()) do
        for _, shelf in ipairs(SHELVES) do
            local stamp = stamp_of(folder .. shelf .. file)
            if stamp then return folder .. shelf .. file, stamp end
        end
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

--- `problem`, the message of an error, with the line of source that it names, if it names one.
function M.explain(problem)
    local path = problem:match("^([^\n]-%.lua):%d+:")
    local file = path and not problem:find("\n    %d+ | ") and io.open(path, "rb")
    if not file then return problem end
    file:close()
    return explain(path, problem)
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
    local place = debug.getinfo(chunk, "S").short_src
    local fine, value = pcall(chunk, name)
    if interrupt.is_interrupt(value) then return nil, path .. " was interrupted while it was loaded" end
    if not fine then -- in this file, or in one that it requires, which may have been explained
        local own = tostring(value):sub(1, #place + 1) == place .. ":"
        return nil, own and explain(path, value) or M.explain(tostring(value))
    end
    if type(value) ~= "table" then
        return nil, ("%s returns a %s, not a table"):format(path, type(value))
    end
    for _, judge in ipairs(judges) do
        problem = name:find(judge[1]) and judge[2](value)
        if problem then return nil, ("%s: %s"):format(path, problem) end
    end
    return value
end

local function new_proxy(entry)
    local proxy = setmetatable({}, {
        __index = function(_, key)
            local value = entry.value[key]
            if type(value) == "function" and not sources[value] then sources[value] = { entry, key } end
            return value
        end,
        __newindex = function(_, key, value) entry.value[key] = value end,
        __call = function(self, given) return M.call(self, given) end,
        __tostring = function()
            return entry.value.run and ("recipe %s: %s"):format(entry.name, entry.value.summary or "")
                or ("module %s"):format(entry.name)
        end,
    })
    entry_of[proxy] = entry
    return proxy
end

--- `f` as it was saved last, each time it is called, if it was read out of a live module; else `f` itself.
function M.follow(f)
    if not sources[f] then return f end
    local entry, name = unpack(sources[f])
    return function(...)
        local newest = entry.value[name]
        if type(newest) ~= "function" then
            error(("%s has no function '%s' any more"):format(entry.path, tostring(name)), 0)
        end
        return newest(...)
    end
end

-- The entry of a name, loaded; nil if there is no such file. A file that cannot be loaded raises. The entry is there
-- while its file is loaded, so that a file may require itself, to have what is saved later.
local function entry_for(name)
    name = name:gsub("^measure%.", "") -- the same recipe by either name
    local entry = entries[name]
    if entry then return entry end
    local path, stamp = locate(name)
    if not stamp then return nil end
    entry = { name = name, path = path, stamp = stamp, value = {} }
    entry.proxy = new_proxy(entry)
    entries[name] = entry
    local value, problem = load_value(path, name)
    if not value then
        entries[name] = nil
        error(problem, 0)
    end
    entry.value = value
    return entry
end

--- The live value of the file of that name, or nil if there is none.
function M.find(name)
    local entry = entry_for(name)
    return entry and entry.proxy
end

--- The same; raises a sentence if there is no such file.
function M.get(name)
    return M.find(name) or error(("there is no recipe '%s'%s"):format(name, suggest.sentence(name, M.names())), 0)
end

--- Whether there is a file of that name, however broken.
function M.has(name)
    return entries[name] ~= nil or locate(name) ~= nil
end

--- The newest table that a file of that name (or path, with a slash) returned, as it is; nil if there is no such file.
--- For modules of lua/.
function M.value(name)
    local entry = entry_for(name)
    return entry and entry.value
end

--- The name, the path and the newest table of a live value; nil if `value` is none.
function M.origin(value)
    local entry = entry_of[value]
    if entry then return entry.name, entry.path, entry.value end
end

-- Adds to `seen` what `pattern` takes out of the names of the files in `folder`.
local function scan(folder, pattern, seen)
    local found = uv.fs_scandir(folder)
    local file = found and uv.fs_scandir_next(found)
    while file do
        local name = file:match(pattern)
        if name then seen[name] = true end
        file = uv.fs_scandir_next(found)
    end
end

local function sorted(seen)
    local list = {}
    for name in pairs(seen) do list[#list + 1] = name end
    table.sort(list)
    return list
end

--- Names of the files in the subfolder `shelf` of all folders, sorted: "samplers" gives the NAME of samplers/NAME.lua.
--- `pattern` takes the name out of that of a file, if it is not all before ".lua".
function M.files(shelf, pattern)
    local seen = {}
    for _, folder in ipairs(M.folders()) do scan(folder .. "/" .. shelf, pattern or "^([%w_-]+)%.lua$", seen) end
    return sorted(seen)
end

--- Names of all recipes, sorted: the files that have a run function, and those that cannot be loaded.
function M.names()
    local seen = {}
    for _, folder in ipairs(M.folders()) do
        for _, shelf in ipairs(SHELVES) do scan(folder .. shelf, "^([%w_-]+)%.lua$", seen) end
    end
    for name in pairs(seen) do
        local fine, value = pcall(M.value, name)
        if fine and not (value and value.run) then seen[name] = nil end
    end
    return sorted(seen)
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
    local problems, list = {}, {}
    for _, entry in pairs(entries) do list[#list + 1] = entry end -- loading one may add others
    for _, entry in ipairs(list) do
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
