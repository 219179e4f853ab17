--- What becomes of the keys and values of a session as it goes on: a table of
--
--   hot_tokens    the newest tokens that stay plain (default 256)
--   first_tokens  the first tokens that do: attention sinks (default 0)
--   key_bits      16 (plain, the default), 8 or 4 bits a number
--   value_bits    likewise
--   bits          both at once
--   rotate        turn keys by a Hadamard matrix before they are quantised (default true)
--
-- and, without any loss,
--
--   memory        bytes that the cache may have for pages: a number or text such as "2G" (default: no limit, or what
--                 --kv-memory says)
--   disk          bytes of pages in the spill file (default: no limit)
--   spill         folder of the spill file (default: none); nothing is left there when the session ends
--   window        what becomes of pages that left the window of a window layer: "cold" (packed in memory, the
--                 default), "disk" or "keep"
--   full          when nothing can go down any more: "error" (the default), or "evict": gives up the session that was
--                 used least recently
--
-- A policy that replaces another one holds for what is in the cache, too, wherever it lies: pages with more bits than
-- it says are quantised again, from what they are (so 8 bits that become 4 are a little worse than 4 from the start);
-- those with fewer stay as they are.
--
-- Bits are a number for all, a table by layer (from 0, with `default` for those that are not in it), whose items are
-- numbers or tables by KV head likewise, or a function(layer, head) that gives a number.
--
-- In place of a table: the name of one in recipes/policies/NAME.lua ("balanced"), a file that returns one ("mine.lua",
-- as a path), or bits as text ("8", "8,4" for keys and values). Files are taken up again when they change, between two
-- tokens. A table may also have
--
--   summary       a line about it
--   source        the paper or the program that it follows
--   parameters    values that whoever names the policy may change, as a recipe has them: see recipe/arguments.lua.
--                 "balanced(hot_tokens=512)" or { "balanced", hot_tokens = 512 } is then the policy with that value.
--                 One with the name of a field is that field
--   at            function(now, p) that returns the fields that are different now, or nil; it is called after every
--                 pass, with now = { position =, bytes =, layers =, kv_heads =, window =, window_period = } and the
--                 parameters by name
local arguments = require "moonloom.recipe.arguments"
local ffi = require "ffi"
local listing = require "moonloom.recipe.listing"
local live = require "moonloom.recipe.live"
local ml = require "moonloom._core.ffi"
local notation = require "moonloom.recipe.notation"
local suggest = require "moonloom._core.suggest"
local C, check = ml.C, ml.check

local M = {}

local DEFAULTS = { hot_tokens = 256, first_tokens = 0, rotate = true }
local FIELDS = { "bits", "disk", "first_tokens", "full", "hot_tokens", "key_bits", "memory", "rotate", "spill",
    "value_bits", "window" }
local WINDOW = { cold = C.ML_LEVEL_COLD, disk = C.ML_LEVEL_DISK, keep = C.ML_LEVEL_HOT }
local FULL = { error = 0, evict = 1 }
local known = {}
for _, name in ipairs(FIELDS) do known[name] = true end

local function fail(...)
    error(("kv policy: " .. select(1, ...)):format(select(2, ...)), 0)
end

local function checked_table(policy)
    if type(policy) ~= "table" then fail("a table is needed, such as { bits = 8 }, not %s", type(policy)) end
    for name in pairs(policy) do
        if not known[name] then
            local word = tostring(name)
            fail("there is no '%s'%s", word, suggest.sentence(word, FIELDS))
        end
    end
end

local function tokens(policy, name)
    local count = policy[name]
    if count == nil then return DEFAULTS[name] end
    if type(count) ~= "number" or count % 1 ~= 0 or count < 0 or count > 2 ^ 40 then
        fail("%s is a number of tokens, not %s", name, tostring(count))
    end
    return count
end

-- One number out of `what`, which may be tables by layer and head, or a function of them.
local function bits_at(what, name, layer, head)
    if type(what) == "function" then what = what(layer, head) end
    for _, index in ipairs { layer, head } do
        if type(what) ~= "table" then break end
        local item = what[index]
        if item == nil then item = what.default end
        what = item == nil and 16 or item
    end
    if what ~= 16 and what ~= 8 and what ~= 4 then
        fail("%s of layer %d, head %d are 16, 8 or 4, not %s", name, layer, head, tostring(what))
    end
    return what
end

local function fill_bits(policy, name, config)
    local what = policy[name]
    if what == nil then what = policy.bits end
    if what == nil then what = 16 end
    local list = ffi.new("uint8_t[?]", config.layers * config.kv_heads)
    for layer = 0, config.layers - 1 do
        for head = 0, config.kv_heads - 1 do
            list[layer * config.kv_heads + head] = bits_at(what, name, layer, head)
        end
    end
    return list
end

local UNITS = { [""] = 1, k = 2 ^ 10, m = 2 ^ 20, g = 2 ^ 30, t = 2 ^ 40 }

--- A number of bytes out of a number, or text such as "2G" or "512 MB" (K, M, G, T are powers of 1024); nil if it is
--- none.
function M.bytes(what)
    if type(what) == "string" then
        local number, unit = what:match("^%s*(%d+%.?%d*)%s*([kKmMgGtT]?)[iI]?[bB]?%s*$")
        what = number and tonumber(number) * UNITS[unit:lower()]
    end
    return type(what) == "number" and what >= 0 and what <= 2 ^ 50 and math.floor(what) or nil
end

local function bytes(policy, name, default)
    if policy[name] == nil then return default end
    return M.bytes(policy[name]) or fail("%s is a number of bytes, such as '2G', not %s", name, tostring(policy[name]))
end

local function choice(policy, name, words, default)
    local given = policy[name] or default
    local list = {}
    for known_word in pairs(words) do list[#list + 1] = known_word end
    table.sort(list)
    return words[given] or fail("%s is one of %s, not %s", name, table.concat(list, ", "), tostring(given))
end

--- Sets where the pages of a cache handle go, as the policy says.
function M.place(handle, policy)
    local spill = policy.spill
    if spill ~= nil and type(spill) ~= "string" then fail("spill is the path of a folder, not %s", tostring(spill)) end
    local window = choice(policy, "window", WINDOW, "cold")
    if window == C.ML_LEVEL_DISK and not spill then fail("window = 'disk' needs spill, a folder for it") end
    check(C.ml_cache_places(handle, ffi.new("ml_places", {
        memory = bytes(policy, "memory", M.memory), disk = bytes(policy, "disk", 0), spill = spill, window = window,
        evict = choice(policy, "full", FULL, "error"),
    })))
end

--- Bytes that a cache may have unless its policy says otherwise; 0: no limit. See --kv-memory.
M.memory = 0

-- Sets the policy of a cache handle of a model with `config`; if it is refused, that of the fields `before` stays.
local function apply(handle, config, policy, before)
    checked_table(policy)
    local rotate = policy.rotate
    if rotate == nil then rotate = DEFAULTS.rotate end
    if type(rotate) ~= "boolean" then fail("rotate is true or false, not %s", tostring(rotate)) end
    local key_bits, value_bits = fill_bits(policy, "key_bits", config), fill_bits(policy, "value_bits", config)
    local filled = ffi.new("ml_policy", {
        hot_tokens = tokens(policy, "hot_tokens"), first_tokens = tokens(policy, "first_tokens"),
        key_bits = key_bits, value_bits = value_bits, rotate = rotate and 1 or 0,
    })
    M.place(handle, policy)
    local fine, problem = pcall(check, C.ml_cache_policy(handle, filled))
    if fine then return end
    M.place(handle, before or { window = "keep" })
    error(problem, 0)
end

-- The bits {layers, kv_heads} as a policy has them: a number where all are alike, else tables by layer and head.
local function listed(bits, config)
    local list, alike = {}, true
    for layer = 0, config.layers - 1 do
        list[layer] = {}
        for head = 0, config.kv_heads - 1 do
            list[layer][head] = bits[layer * config.kv_heads + head]
            alike = alike and list[layer][head] == bits[0]
        end
    end
    return alike and bits[0] or list
end

--- What a cache handle of a model with `config` does with full pages, as fields of a policy; nil if they stay as they
--- are. For caches whose policy came with a saved session.
function M.read(handle, config)
    local out, bits = ffi.new("ml_policy"), ffi.new("uint8_t[?]", 2 * config.layers * config.kv_heads)
    if C.ml_cache_read_policy(handle, out, bits) == 0 then return nil end
    return { hot_tokens = tonumber(out.hot_tokens), first_tokens = tonumber(out.first_tokens),
        key_bits = listed(bits, config), value_bits = listed(bits + config.layers * config.kv_heads, config),
        rotate = out.rotate == 1 }
end

-- ---- policies by name, and such that change

--- What sessions have that do not say: see moonloom.kv().
M.default = nil

--- Names of all policies, sorted: NAME of the files policies/NAME.lua, and of kv_NAME.lua, where they were once.
function M.names()
    local names, seen = live.files("policies"), {}
    for _, name in ipairs(names) do seen[name] = true end
    for _, name in ipairs(live.files("", "^kv_([%w_-]+)%.lua$")) do
        if not seen[name] then names[#names + 1] = name end
    end
    table.sort(names)
    return names
end

local told = {} -- files in the old place that were told of

-- The name (for `live`) of the file of policy `name`, or nil.
local function find(name)
    if live.find("policies." .. name) then return "policies." .. name end
    local old = live.find("kv_" .. name)
    if not old then return nil end
    local _, path = live.origin(old)
    if not told[path] then
        live.reporter(("%s works, but policies have a folder now: move it to policies/%s.lua beside it"):format(path,
            name))
    end
    told[path] = true
    return "kv_" .. name
end

--- The table of policy `name`, and the path of its file; or nil.
function M.describe(name)
    local value = live.find(find(name) or "policies." .. name)
    if not value then return nil end
    local _, path, policy = live.origin(value)
    return policy, path
end

--- All policies: { { name, signature, summary, source, path }, ... }; printed, a line each.
function M.list()
    return listing.of_files(M.names(), M.describe)
end

-- The name for `live` of the file that `name` means, a name or a path; it is there.
local function locate(name)
    local path = name:find("/", 1, true) and name or name:find("%.lua$") and "./" .. name
    if path then
        return live.value(path) and path or fail("there is no file %s", name)
    end
    local file = find(name)
    if file then return file end
    local names = M.names()
    fail("there is no policy '%s'%s (there are: %s)", name, suggest.sentence(name, names), table.concat(names, ", "))
end

local Policy = {}
Policy.__index = Policy

-- The parameters of the policy of a file, by name.
local function values_of(self, source)
    local owner = "kv policy " .. self.entry[1]
    return arguments.check_own(owner, source.parameters, arguments.by_name(owner, source.parameters, self.entry))
end

-- The policy of a name or a file, perhaps with values: { "balanced", hot_tokens = 512 }.
local function named(entry)
    local self = setmetatable({ name = notation.write(entry), file = locate(entry[1]), entry = entry }, Policy)
    values_of(self, live.value(self.file))
    return self
end

--- A policy out of what a user gives: a table of fields, a name (perhaps with values), a file, bits, or true for
--- "balanced". It is for one cache.
function M.choose(what)
    if what == true then what = "balanced" end
    if type(what) == "table" then
        return type(what[1]) == "string" and named(what) or setmetatable({ table = what }, Policy)
    elseif type(what) ~= "string" then
        fail("a table or a name is needed, such as { bits = 8 }, not %s", type(what))
    end
    local keys, values = what:match("^(%d+),?(%d*)$")
    if keys then
        return setmetatable({ name = what, table = { key_bits = tonumber(keys),
            value_bits = tonumber(values ~= "" and values or keys) } }, Policy)
    end
    if not what:find("[(=]") or what:find("/", 1, true) then return named { what } end
    local entries, problem = notation.read(what)
    if not entries then fail("%s", problem) end
    if entries[2] then fail("one policy is needed, not %d: '%s'", #entries, what) end
    return named(entries[1])
end

local function copied(value)
    if type(value) ~= "table" then return value end
    local copy = {}
    for key, item in pairs(value) do copy[key] = copied(item) end
    return copy
end

local ABOUT = { "at", "parameters", "source", "summary" } -- what a file has besides fields

-- The fields at a position, as a new table.
local function evaluate(self, handle, config, position)
    local source, fields = self.table or live.value(self.file), {}
    local p = self.entry and values_of(self, source) or {}
    local function add(list)
        for name, value in pairs(list) do fields[name] = copied(value) end
    end
    add(source)
    for name, value in pairs(p) do
        if known[name] then fields[name] = copied(value) end
    end
    if type(source.at) == "function" then
        add(source.at({ position = position, bytes = tonumber(C.ml_cache_bytes(handle)), layers = config.layers,
            kv_heads = config.kv_heads, window = config.window, window_period = config.window_period }, p) or {})
    end
    for _, name in ipairs(ABOUT) do fields[name] = nil end
    return fields, source
end

local function same(a, b)
    if type(a) ~= "table" or type(b) ~= "table" then return a == b end
    for key, value in pairs(a) do
        if not same(value, b[key]) then return false end
    end
    for key in pairs(b) do
        if a[key] == nil then return false end
    end
    return true
end

--- Puts a cache handle of a model with `config`, which came to `position`, under the policy; ml_cache_settle() applies
--- it. If it is refused, `before`, the policy until then or nil, stays.
function Policy:apply(handle, config, position, before)
    local fields, source = evaluate(self, handle, config, position)
    apply(handle, config, fields, before and before.applied)
    self.tried, self.applied, self.source = fields, fields, source
end

--- Only says where the pages of a cache go. Nothing of that changes a number.
function Policy:place(handle, config)
    local fields = evaluate(self, handle, config, 0)
    checked_table(fields)
    M.place(handle, fields)
end

--- The same after a pass, where the policy may have changed. A problem is told once, and what was before stays.
function Policy:follow(handle, config, position)
    if self.file then live.poll() end
    local source = self.table or live.value(self.file)
    if source == self.source and not source.at then return end
    local fine, problem = pcall(function()
        local fields = evaluate(self, handle, config, position)
        if same(fields, self.tried) then return end
        self.tried = fields
        apply(handle, config, fields, self.applied)
        self.applied = fields
    end)
    self.source = source
    if fine or problem == self.told then return end
    self.told = problem
    live.reporter(("the policy %s cannot be used: %s\n    the one before stays in use"):format(self.name or "",
        tostring(problem)))
end

--- The fields in use, a copy, with its name if it has one as `name`.
function Policy:fields()
    local copy = copied(self.applied)
    copy.name = self.name
    return copy
end

--- moonloom.kv("balanced") makes that the policy for keys and values of the sessions that are made from then on, unless
--- they say otherwise: a name, a file, or a table; see lua/moonloom/cache/policy.lua. moonloom.kv(false) ends that;
--- moonloom.kv() tells.
function M.use(which)
    if which then M.choose(which) end -- raises a sentence if there is no such thing
    if which ~= nil then M.default = which or nil end
    return M.default
end

--- moonloom.kv_memory("2G"): so many bytes the pages of each cache may have that is made from then on, unless a policy
--- says otherwise; what is above that goes down a level, see lua/moonloom/cache/policy.lua. 0 is no limit, false
--- the same. moonloom.kv_memory() tells.
function M.budget(what)
    if what ~= nil then
        M.memory = M.bytes(what or 0)
            or error(("kv_memory is a number of bytes, such as 2G, not %s"):format(tostring(what)), 0)
    end
    return M.memory
end

--- f(...) with another default, which must be fit for choose(). Returns what it returns (one value).
function M.during(kv, f, ...)
    local before = M.default
    M.default = kv
    local fine, value = pcall(f, ...)
    M.default = before
    if not fine then error(value, 0) end
    return value
end

live.judge("^policies%.", function(value)
    local about = {}
    for _, name in ipairs(ABOUT) do about[name] = true end
    for name in pairs(value) do
        if not known[name] and not about[name] then
            return ("a policy has no field '%s'%s"):format(tostring(name), suggest.sentence(tostring(name), FIELDS))
        end
    end
    return arguments.problem(value.parameters)
end)

return M
