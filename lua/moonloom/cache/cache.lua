--- The cache of keys and values that sessions of a model share. It goes with the last of them and the model.
--
-- A session that begins like an older one of the same model starts where the two part: what living sessions hold is
-- shared, and what closed or rewound ones leave behind stays known, up to 1 GiB a model (model:keep_prefixes(bytes),
-- least recently used go first; 0 turns it off, model:session{ prefixes = false } does for one). session.adopted counts
-- such tokens. They are taken only from whole forward passes with the same kernels, so with plain pages the result is
-- that of reading the prompt again, to the bit (on a matrix unit: see ml_precision_set). With a store the same holds
-- for later processes (?store). Under a budget of memory, kept prefixes go to the spill file before they are forgotten,
-- the least recently used first.
--
-- A cache counts its users: sessions, and the model while it holds the cache. Finalizers end them through drop(), at a
-- moment when nothing runs on the cache.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local policy = require "moonloom.cache.policy"
local C, check = ml.C, ml.check

local M = {}

local Cache = {}
Cache.__index = Cache

local caches = setmetatable({}, { __mode = "k" }) -- all that there are

local dtypes = { bf16 = C.ML_BF16, f32 = C.ML_F32 }

local function plain_cache(model, kind, kept)
    local dtype = dtypes[kind] or error(("a cache is bf16 or f32, not '%s'"):format(tostring(kind)), 0)
    local out = ffi.new("ml_cache *[1]")
    check(C.ml_cache_create(model:handle(), dtype, out))
    local status = C.ml_cache_keep(out[0], kept)
    if status == C.ML_OK and policy.memory > 0 then
        status = C.ml_cache_places(out[0], ffi.new("ml_places", { memory = policy.memory }))
    end
    if status ~= C.ML_OK then C.ml_cache_free(out[0]) end
    check(status)
    local cache = setmetatable({ handle = out[0], kind = kind, knows = kept > 0, users = 0, dropped = {},
        config = model:config() }, Cache)
    caches[cache] = true
    return cache
end

--- A cache of `model` without users. `kind` is "bf16" or "f32"; `kept` bytes of what closed sessions leave behind stay
--- known; `kv` is a policy (see moonloom.cache.policy), or nil. One that is refused raises and leaves nothing behind.
function M.new(model, kind, kept, kv)
    local cache = plain_cache(model, kind, kept)
    if not kv then return cache end
    local fine, problem = pcall(cache.govern, cache, kv)
    if fine then return cache end
    cache:free()
    error(problem, 0)
end

--- The cache of that kind which all sessions of `model` with the policy `kv` (a name, or nil) share, made on demand.
--- The model holds it with what it returns second: give that to ffi.gc() to let go.
function M.shared(model, kind, kv)
    local cache = M.new(model, kind, model.prefixes, kv)
    cache.users = 1
    return cache, ffi.gc(ffi.new("char[1]"), function()
        cache:drop(function() cache:leave() end)
    end)
end

--- Ends what was collected of all caches.
function M.sweep_all()
    for cache in pairs(caches) do cache:sweep() end
end

--- Frees a cache without users.
function Cache:free()
    C.ml_cache_free(self.handle)
    self.handle = nil
    caches[self] = nil
end

--- Puts the cache under a policy: see moonloom.cache.policy.
function Cache:govern(kv)
    local chosen = policy.choose(kv)
    chosen:apply(self.handle, self.config, 0, self.policy)
    self.policy = chosen -- whatever becomes of what follows: it is in force
    check(C.ml_cache_settle(self.handle))
end

--- After a pass that came to `position`: takes up a changed policy, and applies it.
function Cache:settle(position)
    if self.policy then self.policy:follow(self.handle, self.config, position) end
    check(C.ml_cache_settle(self.handle))
end

--- One user less. What finalizers hold, as the cache, must not lead to the model or a session.
function Cache:leave()
    self.users = self.users - 1
    if self.users == 0 then self:free() end
end

--- Has `ending()` called later: a finalizer may run in the middle of a forward pass, which a change would void.
function Cache:drop(ending)
    self.dropped[#self.dropped + 1] = ending
    if #self.dropped == self.users then self:sweep() end
end

--- Ends what was collected. For whatever begins something.
function Cache:sweep()
    local list = self.dropped
    if #list == 0 then return end
    self.dropped = {}
    for _, ending in ipairs(list) do ending() end
end

return M
