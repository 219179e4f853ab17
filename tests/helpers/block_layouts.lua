-- Blocks of every stored dtype, packed here from chosen codes and scales by the published layouts (ggml-org/ggml,
-- docs/gguf.md and ggml-common.h; OCP Microscaling Formats 1.0), with the values they stand for: a reference that
-- shares nothing with the decoders in core. layouts[dtype](random) -> bytes, values.
local bit = require "bit"
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local ffi = require "ffi"

local M = {}

local function half_value(bits)
    local sign = bits >= 0x8000 and -1 or 1
    local exponent, mantissa = band(rshift(bits, 10), 31), band(bits, 1023)
    if exponent == 0 then return sign * mantissa * 2 ^ -24 end
    return sign * (1 + mantissa / 1024) * 2 ^ (exponent - 15)
end
M.half_value = half_value

-- A random finite f16 between about 2^-8 and 2, either sign; its two bytes and its value.
local function half(random)
    local bits = bor(random(0, 1) * 0x8000, lshift(random(7, 15), 10), random(0, 1023))
    return string.char(band(bits, 255), rshift(bits, 8)), half_value(bits)
end

local function bytes_of(list, count)
    local out = {}
    for i = 0, count - 1 do out[i + 1] = string.char(list[i]) end
    return table.concat(out)
end

local function zeros(count)
    local list = {}
    for i = 0, count - 1 do list[i] = 0 end
    return list
end

local function codes(random, count, top)
    local q = {}
    for i = 0, count - 1 do q[i] = random(0, top) end
    return q
end

-- Byte j: the low four bits of element j, then of element j + 16.
local function nibbles32(q)
    local qs = {}
    for j = 0, 15 do qs[j] = bor(band(q[j], 15), lshift(band(q[j + 16], 15), 4)) end
    return bytes_of(qs, 16)
end

-- Bit i of four bytes is bit 4 of element i.
local function fifth32(q)
    local qh = zeros(4)
    for i = 0, 31 do qh[rshift(i, 3)] = bor(qh[rshift(i, 3)], lshift(rshift(q[i], 4), i % 8)) end
    return bytes_of(qh, 4)
end

local function values_of(count, f)
    local values = {}
    for i = 0, count - 1 do values[i + 1] = f(i) end
    return values
end

M.layouts = {}
local layouts = M.layouts

function layouts.f32(random)
    local cell = ffi.new("float[1]", (random(0, 2 ^ 24) - 2 ^ 23) / 2 ^ 20)
    return ffi.string(cell, 4), { cell[0] }
end

function layouts.f16(random)
    local text, value = half(random)
    return text, { value }
end

function layouts.bf16(random)
    local bits = bor(random(0, 1) * 0x8000, lshift(random(118, 128), 7), random(0, 127))
    local value = (bits >= 0x8000 and -1 or 1) * (1 + band(bits, 127) / 128) * 2 ^ (band(rshift(bits, 7), 255) - 127)
    return string.char(band(bits, 255), rshift(bits, 8)), { value }
end

function layouts.q4_0(random)
    local text, d = half(random)
    local q = codes(random, 32, 15)
    return text .. nibbles32(q), values_of(32, function(i) return d * (q[i] - 8) end)
end

function layouts.q4_1(random)
    local text, d = half(random)
    local text_m, m = half(random)
    local q = codes(random, 32, 15)
    return text .. text_m .. nibbles32(q), values_of(32, function(i) return d * q[i] + m end)
end

function layouts.q5_0(random)
    local text, d = half(random)
    local q = codes(random, 32, 31)
    return text .. fifth32(q) .. nibbles32(q), values_of(32, function(i) return d * (q[i] - 16) end)
end

function layouts.q5_1(random)
    local text, d = half(random)
    local text_m, m = half(random)
    local q = codes(random, 32, 31)
    return text .. text_m .. fifth32(q) .. nibbles32(q), values_of(32, function(i) return d * q[i] + m end)
end

function layouts.q8_0(random)
    local text, d = half(random)
    local q = codes(random, 32, 255)
    return text .. bytes_of(q, 32), values_of(32, function(i) return d * (q[i] < 128 and q[i] or q[i] - 256) end)
end

local iq4 = { [0] = -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 }

function layouts.iq4_nl(random)
    local text, d = half(random)
    local q = codes(random, 32, 15)
    return text .. nibbles32(q), values_of(32, function(i) return d * iq4[q[i]] end)
end

local e2m1 = { [0] = 0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6 }

function layouts.mxfp4(random)
    local e = random(118, 128)
    local q = codes(random, 32, 15)
    return string.char(e) .. nibbles32(q), values_of(32, function(i) return 2 ^ (e - 127) * e2m1[q[i]] end)
end

-- Two bits of 256 codes: four elements 32 apart share a byte, in halves of 128.
local function pairs256(q)
    local qs = zeros(64)
    for i = 0, 255 do
        local at = math.floor(i / 128) * 32 + i % 32
        qs[at] = bor(qs[at], lshift(band(q[i], 3), 2 * (math.floor(i / 32) % 4)))
    end
    return bytes_of(qs, 64)
end

function layouts.q2_k(random)
    local text, d = half(random)
    local text_m, dmin = half(random)
    local q, scale, min = codes(random, 256, 3), codes(random, 16, 15), codes(random, 16, 15)
    local scales = {}
    for s = 0, 15 do scales[s] = bor(scale[s], lshift(min[s], 4)) end
    return bytes_of(scales, 16) .. pairs256(q) .. text .. text_m, values_of(256, function(i)
        local s = math.floor(i / 16)
        return d * scale[s] * q[i] - dmin * min[s]
    end)
end

function layouts.q3_k(random)
    local text, d = half(random)
    local q, scale = codes(random, 256, 7), codes(random, 16, 63)
    local mask, scales = zeros(32), zeros(12)
    for i = 0, 255 do
        mask[i % 32] = bor(mask[i % 32], lshift(rshift(q[i], 2), math.floor(i / 32)))
    end
    for s = 0, 15 do
        scales[s % 8] = bor(scales[s % 8], lshift(band(scale[s], 15), 4 * math.floor(s / 8)))
        scales[8 + s % 4] = bor(scales[8 + s % 4], lshift(rshift(scale[s], 4), 2 * math.floor(s / 4)))
    end
    return bytes_of(mask, 32) .. pairs256(q) .. bytes_of(scales, 12) .. text, values_of(256, function(i)
        return d * (scale[math.floor(i / 16)] - 32) * (q[i] - 4)
    end)
end

-- Eight scales and eight mins of six bits in twelve bytes.
local function scales12(scale, min)
    local out = zeros(12)
    for s = 0, 3 do
        out[s] = bor(scale[s], lshift(rshift(scale[s + 4], 4), 6))
        out[s + 4] = bor(min[s], lshift(rshift(min[s + 4], 4), 6))
        out[s + 8] = bor(band(scale[s + 4], 15), lshift(band(min[s + 4], 15), 4))
    end
    return bytes_of(out, 12)
end

-- Four bits of 256 codes: groups 2j and 2j + 1 of 32 share the bytes from 32 j on.
local function nibbles256(q)
    local qs = zeros(128)
    for i = 0, 255 do
        local at = math.floor(i / 64) * 32 + i % 32
        qs[at] = bor(qs[at], lshift(band(q[i], 15), 4 * (math.floor(i / 32) % 2)))
    end
    return bytes_of(qs, 128)
end

local function k_values(d, dmin, q, scale, min)
    return values_of(256, function(i)
        local s = math.floor(i / 32)
        return d * scale[s] * q[i] - dmin * min[s]
    end)
end

function layouts.q4_k(random)
    local text, d = half(random)
    local text_m, dmin = half(random)
    local q, scale, min = codes(random, 256, 15), codes(random, 8, 63), codes(random, 8, 63)
    return text .. text_m .. scales12(scale, min) .. nibbles256(q), k_values(d, dmin, q, scale, min)
end

function layouts.q5_k(random)
    local text, d = half(random)
    local text_m, dmin = half(random)
    local q, scale, min = codes(random, 256, 31), codes(random, 8, 63), codes(random, 8, 63)
    local qh = zeros(32)
    for i = 0, 255 do qh[i % 32] = bor(qh[i % 32], lshift(rshift(q[i], 4), math.floor(i / 32))) end
    return text .. text_m .. scales12(scale, min) .. bytes_of(qh, 32) .. nibbles256(q), k_values(d, dmin, q, scale, min)
end

function layouts.q6_k(random)
    local text, d = half(random)
    local q, scale = codes(random, 256, 63), codes(random, 16, 255)
    local ql, qh = zeros(128), zeros(64)
    for i = 0, 255 do
        local n, j, l = math.floor(i / 128), math.floor(i / 32) % 4, i % 32
        local low, high = 64 * n + 32 * (j % 2) + l, 32 * n + l
        ql[low] = bor(ql[low], lshift(band(q[i], 15), 4 * math.floor(j / 2)))
        qh[high] = bor(qh[high], lshift(rshift(q[i], 4), 2 * j))
    end
    return bytes_of(ql, 128) .. bytes_of(qh, 64) .. bytes_of(scale, 16) .. text, values_of(256, function(i)
        local s = scale[math.floor(i / 16)]
        return d * (s < 128 and s or s - 256) * (q[i] - 32)
    end)
end

function layouts.iq4_xs(random)
    local text, d = half(random)
    local q, scale = codes(random, 256, 15), codes(random, 8, 63)
    local high, low, qs = 0, zeros(4), {}
    for s = 0, 7 do
        high = bor(high, lshift(rshift(scale[s], 4), 2 * s))
        low[math.floor(s / 2)] = bor(low[math.floor(s / 2)], lshift(band(scale[s], 15), 4 * (s % 2)))
        for j = 0, 15 do qs[16 * s + j] = bor(q[32 * s + j], lshift(q[32 * s + 16 + j], 4)) end
    end
    return text .. string.char(band(high, 255), rshift(high, 8)) .. bytes_of(low, 4) .. bytes_of(qs, 128),
        values_of(256, function(i) return d * (scale[math.floor(i / 32)] - 32) * iq4[q[i]] end)
end

--- A matrix of `rows` rows of `blocks` blocks: its bytes, and its values row after row.
function M.matrix(dtype, random, rows, blocks)
    local texts, values = {}, {}
    for i = 1, rows * blocks do
        local block
        texts[i], block = layouts[dtype](random)
        for _, value in ipairs(block) do values[#values + 1] = value end
    end
    return table.concat(texts), values
end

--- A random(low, high) with a seed of its own (Park and Miller's generator: the same on every machine).
function M.random(seed)
    local state = seed
    return function(low, high)
        state = state * 48271 % 2147483647
        return low + math.floor(state / 2147483647 * (high - low + 1))
    end
end

return M
