--- The machine: threads, memory nodes, instruction sets, switches, and what can be measured of it.
--
-- Threads are the physical cores unless you say otherwise. No more threads are awake than there are processors for, and
-- none spins for long; beside a process that computes all the time, whoever waits for a preempted thread sleeps, but
-- cannot do its work. numa "spread" is for machines with several sockets: memory that is touched from then on is dealt
-- out over all nodes, and the threads run on the nodes in turn. Use it with load "copy". It has only been run on a
-- machine with one node.
--
-- print(session:stats()) and print(moonloom.memory()) say where the memory is, with high-water marks: weights, cache
-- pages, activations, logits, scratch, sketches, the whole process. BENCHMARKS.md has what was measured.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local memory = require "moonloom.cache.memory"
local ml = require "moonloom._core.ffi"
local tuning = require "moonloom._core.tuning"
local C, check = ml.C, ml.check

local M = {}

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
    return memory.report()
end

return M
