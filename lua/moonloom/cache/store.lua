--- A folder of saved sessions: prefixes that outlive the process.
--
--     moonloom.store("/var/tmp/moonloom")     -- or --kv-store /var/tmp/moonloom; moonloom.store(false) ends it
--     print(moonloom.store())                 -- what is in it
--
-- Sessions are saved there when they are closed, collected, or left open at the end of the program, if they hold at
-- least 64 tokens more than what is there already. A file is named by what it holds (see ml_sequence_content), so equal
-- sessions coincide, whoever saves them; what a longer one begins with is removed. A session that is fed a prompt takes
-- the longest beginning of it that a file of the same model, kernels and version has, if that is 64 tokens more than
-- memory knows. The files together stay within `bytes` (8 GiB): those used least recently go. What goes wrong here is
-- told on standard error and costs nothing but time.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local live = require "moonloom.recipe.live"
local ml = require "moonloom._core.ffi"
local policy = require "moonloom.cache.policy"
local progress = require "moonloom._core.progress"
local saved = require "moonloom.cache.saved"
local terminal = require "moonloom._core.terminal"
local uv = require "luv"
local C, check = ml.C, ml.check

local M = {}

local BYTES = 2 ^ 33
local WORTH = 64 -- tokens: a page
local STALE = 3600 -- seconds after which a file that is not finished has no writer any more

local Store = {}
Store.__index = Store

local function tell(problem)
    live.reporter("store: " .. tostring(problem))
end

--- Makes `folder` the store, made if it is not there; false: none. { bytes = } limits its files.
function M.use(folder, options)
    if not folder then
        M.current = nil
        return nil
    end
    if type(folder) ~= "string" then error(("a store is a folder, not %s"):format(tostring(folder)), 0) end
    local bytes = given.options(options, "moonloom.store", { "bytes" }).bytes
    bytes = policy.bytes(bytes or BYTES)
        or error(("bytes of a store are a number such as 8G, not %s"):format(tostring(bytes)), 0)
    local stat = uv.fs_stat(folder)
    if not stat then
        local made, problem = uv.fs_mkdir(folder, 448) -- rwx for the owner: there are people's texts in it
        if not made then error(("the store %s cannot be made: %s"):format(folder, problem), 0) end
    elseif stat.type ~= "directory" then
        error(("the store %s is no folder"):format(folder), 0)
    end
    M.current = setmetatable({ folder = folder, bytes = bytes, _files = {}, _told = {} }, Store)
    return M.current
end

-- The file at `path`, opened; or nil. One that is damaged, or of another format, is removed. What cannot be opened for
-- another reason may be fine another time.
local function open(self, path, inode)
    local fine, opened = pcall(saved.open, path)
    if fine and not opened.damage then return { saved = opened, path = path, inode = inode } end
    local status = fine and C.ML_E_FORMAT or type(opened) == "table" and opened.status
    local problem = fine and opened.damage or tostring(opened)
    if fine then opened:close() end
    if status == C.ML_E_FORMAT or status == C.ML_E_UNSUPPORTED then
        tell(problem .. "; it is removed")
        os.remove(path)
    elseif uv.fs_stat(path) and not self._told[path] then -- else another process removed it
        self._told[path] = true
        tell(problem)
    end
end

-- Opens what is new and forgets what is gone; removes what cannot be read and what was never finished.
local function refresh(self)
    local files, scan = {}, uv.fs_scandir(self.folder)
    local name = scan and uv.fs_scandir_next(scan)
    while name do
        local path = self.folder .. "/" .. name
        local stat = uv.fs_stat(path)
        local is_file = stat and stat.type == "file"
        if is_file and name:find("^%x+%.session$") then
            local file = self._files[name]
            if not file or file.inode ~= stat.ino then file = open(self, path, stat.ino) end
            if file then file.used, file.bytes = stat.mtime.sec + stat.mtime.nsec / 1e9, stat.size end
            files[name] = file
        elseif is_file and name:find("^%x+%.session%.part$") and os.time() - stat.mtime.sec > STALE then
            os.remove(path)
        end
        name = uv.fs_scandir_next(scan)
    end
    self._files = files
end

local function remove(self, name)
    os.remove(self._files[name].path)
    self._files[name].saved:close()
    self._files[name] = nil
end

local function touch(file)
    local now = os.time()
    uv.fs_utime(file.path, now, now)
end

-- The file that has most of the ids for this model, kernels and kind of cache, and how many.
local function best(self, ids, count, identity, kind)
    local found, most = nil, 0
    for name, file in pairs(self._files) do
        local one = file.saved
        if one.cache == kind and C.ml_saved_fits(one:handle(), identity) == C.ML_OK then
            local same = math.min(one:agreement(ids, count), tonumber(C.ml_saved_sound(one:handle())))
            if same > most then found, most = name, same end
        end
    end
    return found, most
end

--- A new sequence of the cache `handle` (of `kind`) with the longest beginning of the ids that is stored; nil if that
--- is not longer than `known` by a page.
function Store:load(handle, ids, count, known, identity, kind)
    if count - known < WORTH then return nil end
    refresh(self)
    local out = ffi.new("int32_t[1]")
    while true do
        local name, most = best(self, ids, count, identity, kind)
        if not name or most - known < WORTH then return nil end
        local file = self._files[name]
        check(C.ml_sequence_create(handle, out))
        local fine, problem = pcall(saved.load, file.saved, handle, out[0], most)
        if fine then
            touch(file)
            return out[0]
        end
        check(C.ml_sequence_free(handle, out[0]))
        if problem.status ~= C.ML_E_FORMAT then
            tell(problem)
            return nil
        end
        tell(("%s; it is removed"):format(tostring(problem)))
        remove(self, name)
    end
end

-- Removes what the ids begin with, other than `but`, and then the oldest until all files are within the budget.
local function clean(self, but, ids, count, identity, kind)
    local list, bytes = {}, 0
    for name, file in pairs(self._files) do
        local one = file.saved
        if name ~= but and one.cache == kind and one.tokens < count and one:agreement(ids, count) == one.tokens
            and C.ml_saved_fits(one:handle(), identity) == C.ML_OK then
            remove(self, name)
        else
            list[#list + 1] = { name = name, used = file.used }
            bytes = bytes + file.bytes
        end
    end
    table.sort(list, function(a, b) return a.used < b.used end)
    for _, entry in ipairs(list) do
        if bytes <= self.bytes then break end
        bytes = bytes - self._files[entry.name].bytes
        remove(self, entry.name)
    end
end

local kinds = { [tonumber(C.ML_BF16)] = "bf16", [tonumber(C.ML_F32)] = "f32" }

local function keep(self, handle, sequence, identity, tokenizer)
    local sound = tonumber(C.ml_sequence_sound(handle, sequence))
    if sound < WORTH then return end
    refresh(self)
    local ids, kind = C.ml_sequence_ids(handle, sequence), kinds[C.ml_cache_dtype(handle)]
    local name, most = best(self, ids, sound, identity, kind)
    if sound - most < WORTH then
        touch(self._files[name])
        return
    end
    local content = ffi.new("uint64_t[2]")
    check(C.ml_sequence_content(handle, sequence, identity, content))
    name = saved.hex(content) .. ".session"
    saved.write(self.folder .. "/" .. name, handle, sequence, identity, tokenizer)
    refresh(self)
    clean(self, name, ids, tonumber(C.ml_sequence_length(handle, sequence)), identity, kind)
end

--- Saves a sequence that is about to end, if that is worth it. Never raises.
function Store:keep(handle, sequence, identity, tokenizer)
    local fine, problem = pcall(keep, self, handle, sequence, identity, tokenizer)
    if not fine then tell(problem) end
end

--- { { path, tokens, bytes, used, text }, ... }, the last used first.
function Store:list()
    refresh(self)
    local list = {}
    for _, file in pairs(self._files) do
        list[#list + 1] = {
            path = file.path, tokens = file.saved.tokens, bytes = file.bytes, used = file.used, text = file.saved.text,
        }
    end
    table.sort(list, function(a, b) return a.used > b.used end)
    return list
end

function Store:__tostring()
    local list, bytes = self:list(), 0
    local lines = {}
    for i, entry in ipairs(list) do
        bytes = bytes + entry.bytes
        lines[i] = ("  %s  %7d tokens  %10s  %s"):format(os.date("%Y-%m-%d %H:%M", entry.used), entry.tokens,
            progress.amount(entry.bytes, "B"), terminal.quote(entry.text:sub(1, 40)))
    end
    table.insert(lines, 1, ("store %s: %d sessions, %s of at most %s"):format(self.folder, #list,
        progress.amount(bytes, "B"), progress.amount(self.bytes, "B")))
    return table.concat(lines, "\n")
end

return M
