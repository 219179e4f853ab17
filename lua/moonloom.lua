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
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local interrupt = require "moonloom._core.interrupt"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {
    version = ffi.string(C.ml_version()),
    home = ml.home,
    interrupt = interrupt.error,
    is_interrupt = interrupt.is_interrupt,
    interactive = false,
    tensor = require "moonloom.tensor", -- moonloom.tensor.new{...}, zeros, randn, load
}

local loading = "map"

local function checked_loading(how)
    if how and how ~= "map" and how ~= "copy" then error(("load is map or copy, not '%s'"):format(tostring(how)), 0) end
    return how or loading
end

--- moonloom.loading("copy") lets models be loaded that way from now on, unless load() says otherwise; "map" is the
--- default. moonloom.loading() tells.
function M.loading(how)
    loading = checked_loading(how)
    return loading
end

--- moonloom.load(path, { load = "map" | "copy" }) opens a model file. "map": the weights stay in the file, which opens
--- at once and is shared with other processes. "copy": they are copied into memory under huge pages, which takes a
--- while and may read faster.
function M.load(path, options)
    if type(path) ~= "string" then error("moonloom.load needs the path of a model file", 2) end
    options = given.options(options, "moonloom.load")
    return require("moonloom.model").load(path, checked_loading(options.load))
end

local chosen -- path of the current model
local current -- the current model, once it is loaded

--- Makes a model (a path, or a loaded one) the current one. A path is opened when it is first needed.
function M.use(which)
    if type(which) == "table" then
        chosen, current = which.path, which
    else
        chosen, current = which, nil
    end
end

--- Path of the current model, whether it is loaded or not.
function M.path()
    return chosen or ml.home .. "/data/tiny-gpt-oss.gguf"
end

--- The current model; or another for once: moonloom.current(path or model), nil for the current one.
function M.current(which)
    if type(which) == "table" and which.tokenizer then return which end
    if which and which ~= chosen then return M.load(which) end
    current = current or M.load(M.path())
    return current
end

--- The tokenizer of the current model, or of another (a path or a loaded model). Where that is not loaded yet, its file
-- is opened for the vocabulary alone: it need not hold a model that runs.
function M.tokenizer(which)
    which = which or current or M.path()
    if which == chosen and current then which = current end
    return type(which) == "table" and which.tokenizer or require("moonloom.tokenizer").open(which)
end

--- moonloom.threads(n) sets the number of threads (0: the physical cores); moonloom.threads() tells it.
function M.threads(count)
    if count then check(C.ml_threads_set(given.whole(count, "the number of threads"))) end
    return C.ml_threads_count()
end

--- moonloom.numa("spread") deals memory and threads out over the memory nodes of the machine, "off" leaves them to the
--- system: see ml_numa_set. Returns the policy in use and the number of nodes.
function M.numa(policy)
    if policy then check(C.ml_numa_set(tostring(policy))) end
    return ffi.string(C.ml_numa_policy()), C.ml_numa_nodes()
end

--- moonloom.isa(name) switches the kernels ("scalar", "avx2", "avx512", "amx", "neon", "auto"); moonloom.isa() tells
--- which are used.
function M.isa(name)
    if name then check(C.ml_isa_set(tostring(name))) end
    return ffi.string(C.ml_isa_name())
end

--- moonloom.precision(name) sets what products on a matrix unit (amx) round to: "bf16", or "exact", which is slower and
-- as near to f32 as the other instruction sets; moonloom.precision() tells it. Without a matrix unit both are the same.
function M.precision(name)
    if name then check(C.ml_precision_set(tostring(name))) end
    return ffi.string(C.ml_precision_name())
end

--- moonloom.tuning(name, false) switches an optimisation off, to see what it is worth, and true on again;
--- moonloom.tuning(name) tells; moonloom.tuning() shows all. See lua/moonloom/_core/tuning.lua.
function M.tuning(name, on)
    local tuning = require "moonloom._core.tuning"
    if name == nil then return tuning.list() end
    if on ~= nil then tuning.set(name, on) end
    return tuning.on(name)
end

--- Name of the CPU, as it tells it itself.
function M.cpu()
    return ffi.string(C.ml_cpu_name())
end

--- Read bandwidth of this machine with the threads in use, in bytes per second, measured for `milliseconds` (300).
function M.bandwidth(milliseconds)
    local out = ffi.new("double[1]")
    check(C.ml_machine_bandwidth(given.number(milliseconds or 300, "a time"), out))
    return out[0]
end

--- Raises an error about how something was called: on the command line it exits with code 2.
M.wrong_usage = require("moonloom.recipe.arguments").fail

--- Multiply peak of this machine with the threads in use, in operations per second, measured for `milliseconds` (300).
function M.multiply_peak(milliseconds)
    local out = ffi.new("double[1]")
    check(C.ml_machine_multiply_peak(given.number(milliseconds or 300, "a time"), out))
    return out[0]
end

--- Milliseconds of a monotonic clock.
function M.now()
    return C.ml_time_now()
end

--- Peak memory of this process in bytes, mapped files included.
function M.peak_bytes()
    return tonumber(C.ml_memory_peak())
end

--- Where the memory of this process is, with high-water marks.
--
-- Each line is a field { bytes, peak }, peak being the most it ever was:
--   mapped        weights in mapped files: the system may drop their pages and read them again
--   copied        weights copied into memory (load = "copy")
--   cache         what all caches have from the system for keys and values
--   activations   of all batches
--   logits        of all batches
--   scratch       of all threads
--   lua           what Lua's values take (no peak)
--   resident      the whole process, as far as it is in memory
-- and `allocations` counts how often the core has asked for memory.
function M.memory()
    return require("moonloom.cache.memory").report()
end

--- Steps many sessions of one cache in one pass: moonloom.step_all({ s1, s2 }, { id1, id2 }).
function M.step_all(sessions, ids)
    return require("moonloom.session").step_all(sessions, ids)
end

--- moonloom.restore(path, { model =, kv =, recompute = }) -> the session that session:save(path) saved.
function M.restore(path, options)
    return require("moonloom.cache.saved").restore(path, options)
end

--- What a saved session is of: print it; .text, :ids(), .tokens, .name, :check() ... No model is needed.
function M.saved(path)
    return require("moonloom.cache.saved").open(path)
end

--- moonloom.store(folder, { bytes = }) keeps sessions in a folder when they end, and begins new ones with what is
--- there: see lua/moonloom/cache/store.lua. moonloom.store(false) ends that; moonloom.store() tells.
function M.store(folder, options)
    local store = require "moonloom.cache.store"
    if folder ~= nil then store.use(folder, options) end
    return store.current
end

--- moonloom.kv("balanced") makes that the policy for keys and values of the sessions that are made from then on, unless
--- they say otherwise: a name, a file, or a table; see lua/moonloom/cache/policy.lua. moonloom.kv(false) ends that;
--- moonloom.kv() tells.
function M.kv(which)
    local policy = require "moonloom.cache.policy"
    if which then policy.choose(which) end -- raises a sentence if there is no such thing
    if which ~= nil then policy.default = which or nil end
    return policy.default
end

--- moonloom.kv_memory("2G"): so many bytes the pages of each cache may have that is made from then on, unless a policy
--- says otherwise; what is above that goes down a level, see lua/moonloom/cache/policy.lua. 0 is no limit, false
--- the same. moonloom.kv_memory() tells.
function M.kv_memory(what)
    local policy = require "moonloom.cache.policy"
    if what ~= nil then
        policy.memory = policy.bytes(what or 0) or error(("kv_memory is a number of bytes, such as 2G, not %s"):format(
            tostring(what)), 0)
    end
    return policy.memory
end

--- Goes on with the last generation (moonloom.last), with other parameters if given: resume{ max_tokens = 100 }.
function M.resume(options)
    if not M.last then error("nothing to go on with: generate something first", 0) end
    return M.last:resume(options)
end

--- The current chat, made on demand.
function M.chat()
    return require("moonloom.recipe.live").get("chat").current()
end

require "moonloom.recipe.live" -- from here on `require "recipes.x"` finds recipes

return M
