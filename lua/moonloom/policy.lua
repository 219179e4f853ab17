--- What becomes of the keys and values of a session as it goes on: a table of
--
--   hot_tokens    the newest tokens that stay plain (default 256)
--   first_tokens  the first tokens that do: attention sinks (default 0)
--   key_bits      16 (plain, the default), 8 or 4 bits a number
--   value_bits    likewise
--   bits          both at once
--   rotate        turn keys by a Hadamard matrix before they are quantised (default true)
--
-- Bits are a number for all, a table by layer (from 0, with `default` for those that are not in it), whose items are
-- numbers or tables by KV head likewise, or a function(layer, head) that gives a number.
local ffi = require "ffi"
local ml = require "moonloom.ffi"
local suggest = require "moonloom.suggest"
local C, check = ml.C, ml.check

local M = {}

local DEFAULTS = { hot_tokens = 256, first_tokens = 0, rotate = true }
local FIELDS = { "bits", "first_tokens", "hot_tokens", "key_bits", "rotate", "value_bits" }
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

--- Sets the policy of a cache handle of a model with `config`, and applies it to what is in the cache.
function M.apply(handle, config, policy)
    checked_table(policy)
    local rotate = policy.rotate
    if rotate == nil then rotate = DEFAULTS.rotate end
    if type(rotate) ~= "boolean" then fail("rotate is true or false, not %s", tostring(rotate)) end
    local key_bits, value_bits = fill_bits(policy, "key_bits", config), fill_bits(policy, "value_bits", config)
    local filled = ffi.new("ml_policy", {
        hot_tokens = tokens(policy, "hot_tokens"), first_tokens = tokens(policy, "first_tokens"),
        key_bits = key_bits, value_bits = value_bits, rotate = rotate and 1 or 0,
    })
    check(C.ml_cache_policy(handle, filled))
    check(C.ml_cache_settle(handle))
end

return M
