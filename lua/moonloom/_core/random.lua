--- Random numbers that are the same on every machine: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
--- number generators, OOPSLA 2014), used as a counter: draw k at position p of a seed is a pure function of the three.
--- So a generation that was interrupted, forked or replayed draws the same numbers again.
local bit = require "bit"
local ffi = require "ffi"

local M = {}

local GAMMA = 0x9E3779B97F4A7C15ULL

-- The finaliser: a bijection of 64 bits in which every input bit changes every output bit.
local function mix(z)
    z = bit.bxor(z, bit.rshift(z, 30)) * 0xBF58476D1CE4E5B9ULL
    z = bit.bxor(z, bit.rshift(z, 27)) * 0x94D049BB133111EBULL
    return bit.bxor(z, bit.rshift(z, 31))
end

local function u64(number)
    return ffi.cast("uint64_t", ffi.cast("int64_t", number))
end

--- Draw `k` (0, 1, ...) at `position` for `seed` (whole numbers): a number in [0, 1) with 53 random bits.
function M.uniform(seed, position, k)
    local key = mix(mix(u64(seed) + GAMMA) + (u64(position) + 1) * GAMMA)
    local bits = mix(key + (u64(k) + 1) * GAMMA)
    return tonumber(bit.rshift(bits, 11)) * 2 ^ -53
end

--- A seed to use where none was given: it differs from call to call.
local calls = 0
function M.fresh_seed()
    calls = calls + 1
    local now = require("luv").hrtime()
    return tonumber(bit.band(mix(u64(now) + u64(calls) * GAMMA), 0x7fffffffULL))
end

return M
