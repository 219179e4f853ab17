--- moonloom from Lua.
--
--     local moonloom = require "moonloom"
--     local model = moonloom.load("data/tiny-gpt-oss.gguf")
--     local session = model:session()
--     session:feed("Once upon a time")
--     for _ = 1, 20 do session:step(session:logits():argmax()) end
--     print(session:text())
--
-- Recipes work on moonloom.current(), the model that -m named or the small one in data/.
--
-- For whoever builds a prompt on top:
--   moonloom.interactive   set it to true: generate and chat then stream what they make, and the value they return has
--                          .streamed = true. Show value:summary() in place of tostring(value) for such a value, once.
--   moonloom.last          the last generation; moonloom.resume() goes on with it.
--   moonloom.chat()        the current chat (made on demand): chat:say(text) -> reply, with .streamed and :summary().
--   moonloom.is_interrupt(problem), moonloom.interrupt   the error of Ctrl-C.
local arguments = require "moonloom.recipe.arguments"
local desk = require "moonloom.desk"
local ffi = require "ffi"
local interrupt = require "moonloom._core.interrupt"
local live = require "moonloom.recipe.live" -- from here on `require "recipes.x"` finds recipes
local machine = require "moonloom.machine"
local ml = require "moonloom._core.ffi"
local models = require "moonloom.models"
local policy = require "moonloom.cache.policy"
local pool = require "moonloom.pool"
local restore = require "moonloom.cache.restore"
local saved = require "moonloom.cache.saved"
local session = require "moonloom.session"
local store = require "moonloom.cache.store"
require "moonloom._core.moved"
require "moonloom.recipe.chain" -- a type of parameters
require "moonloom.recipe.door" -- and they can be run

local M = {
    version = ffi.string(ml.C.ml_version()),
    home = ml.home,
    interrupt = interrupt.error,
    is_interrupt = interrupt.is_interrupt,
    tensor = require "moonloom.tensor", -- moonloom.tensor.new{...}, zeros, randn, load

    -- lua/moonloom/models.lua
    load = models.load,
    loading = models.loading,
    use = models.use,
    path = models.path,
    current = models.current,
    tokenizer = models.tokenizer,

    -- lua/moonloom/pool.lua
    pool = pool.new,

    -- lua/moonloom/machine.lua
    threads = machine.threads,
    numa = machine.numa,
    isa = machine.isa,
    precision = machine.precision,
    tuning = machine.tuning,
    cpu = machine.cpu,
    bandwidth = machine.bandwidth,
    multiply_peak = machine.multiply_peak,
    now = machine.now,
    peak_bytes = machine.peak_bytes,
    memory = machine.memory,

    -- keys and values: lua/moonloom/cache/
    kv = policy.use,
    kv_memory = policy.budget,
    restore = restore.restore,
    saved = saved.open,
    step_all = session.step_all,

    wrong_usage = arguments.fail, -- raises an error about how something was called: the command exits with 2
}

--- moonloom.store(folder, { bytes = }) keeps sessions in a folder when they end, and begins new ones with what is
--- there: see lua/moonloom/cache/store.lua. moonloom.store(false) ends that; moonloom.store() tells.
function M.store(folder, options)
    if folder ~= nil then store.use(folder, options) end
    return store.current
end

--- Goes on with the last generation (moonloom.last), with other parameters if given: resume{ max_tokens = 100 }.
function M.resume(options)
    if not desk.last then error("nothing to go on with: generate something first", 0) end
    return desk.last:resume(options)
end

--- The current chat, made on demand.
function M.chat()
    return live.get("chat").current()
end

-- What is on the desk reads and writes as a field.
local on_desk = { interactive = true, last = true }

return setmetatable(M, {
    __index = function(_, name)
        if on_desk[name] then return desk[name] end
    end,
    __newindex = function(self, name, value)
        if on_desk[name] then desk[name] = value else rawset(self, name, value) end
    end,
})
