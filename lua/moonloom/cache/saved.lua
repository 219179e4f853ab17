--- Saved sessions: what session:save(path) wrote.
--
--     session = model:session():feed("Once upon a time")
--     session:save("story.session")                   -- ids, text, keys and values: whole or not at all
--     session = moonloom.restore("story.session")     -- goes on bit for bit, in any process that opens the same model
--     local saved = moonloom.saved("story.session")   -- no model is needed for this (also: moonloom inspect FILE)
--     print(saved)                                    -- what it is of, how large, how its text begins and ends
--     saved.text, saved.tokens, saved:ids(), saved.name, saved.created ...
--     moonloom.store("/var/tmp/moonloom")             -- or --kv-store DIR: keeps sessions when they end; see ?store
--
-- A saved session is one file of its own format (core/kv/file/saved.h): header, ids, text, policy, pages (split by
-- bytes and packed with zstd), index and trailer, each with a checksum. Whatever is damaged is refused by name; where
-- the ids are whole, moonloom.restore(path, { recompute = true }) computes the session again from them, which takes as
-- long as reading it did and so is not done unasked. Killing a process while it saves leaves the old file or the new
-- one.
--
-- A session larger than a budget of memory is restored all the same, its first pages going down while the last come in:
-- moonloom.restore(path, { kv = "tiny_memory" }) takes memory and disk from that policy, bits from the file.
local ffi = require "ffi"
local json = require "moonloom.file.json"
local ml = require "moonloom._core.ffi"
local progress = require "moonloom._core.progress"
local terminal = require "moonloom._core.terminal"
local C, check = ml.C, ml.check

local M = {}

local Saved = {}

local kinds = { [tonumber(C.ML_BF16)] = "bf16", [tonumber(C.ML_F32)] = "f32" }

-- Two 64-bit hashes as 32 digits.
local function hex(pair)
    return bit.tohex(tonumber(bit.rshift(pair[0], 32))) .. bit.tohex(tonumber(bit.band(pair[0], 0xffffffffULL)))
        .. bit.tohex(tonumber(bit.rshift(pair[1], 32))) .. bit.tohex(tonumber(bit.band(pair[1], 0xffffffffULL)))
end

M.hex = hex

--- The saved session at `path`: { path, bytes, tokens, sound, page_count, quantised, page_bytes, packed_bytes, created,
--- cache, layers, policy, name, file, architecture, version, isa, content, damage, text }, numbers and strings as
--- ml_saved_info in core/moonloom.h explains them. `damage` says what is damaged, if anything is (check() looks at the
--- pages, too).
function M.open(path)
    if type(path) ~= "string" then error("a saved session is named by its path", 3) end
    local out, info = ffi.new("ml_saved *[1]"), ffi.new("ml_saved_info")
    check(C.ml_saved_open(path, out))
    local handle = ffi.gc(out[0], C.ml_saved_free)
    C.ml_saved_describe(handle, info)
    local self = { path = path, _handle = handle, identity = info.identity, _info = info }
    for _, field in ipairs { "bytes", "tokens", "sound", "page_count", "quantised", "page_bytes",
        "packed_bytes", "created", "layers" } do
        self[field] = tonumber(info[field])
    end
    self.policy = info.policy == 1
    for _, field in ipairs { "name", "file", "architecture", "version", "isa" } do
        self[field] = ffi.string(info[field])
    end
    self.cache, self.content = kinds[info.dtype], hex(info.content)
    return setmetatable(self, Saved)
end

function Saved:__index(key)
    if key == "text" then
        local text = C.ml_saved_text(self:handle())
        return text ~= nil and ffi.string(text, self._info.text_bytes) or nil
    elseif key == "damage" then
        local sentence = C.ml_saved_damage(self:handle())
        return sentence ~= nil and ffi.string(sentence) or nil
    end
    return Saved[key]
end

--- The core's handle. For modules of lua/.
function Saved:handle()
    return rawget(self, "_handle") or error("this saved session is closed", 3)
end

--- The token ids, a list.
function Saved:ids()
    local ids, list = C.ml_saved_ids(self:handle()), {}
    for i = 1, self.tokens do list[i] = ids[i - 1] end
    return list
end

--- How many of the ids stand at the beginning of the `count` ids from `ids` (a pointer) on, too.
function Saved:agreement(ids, count)
    local own, same = C.ml_saved_ids(self:handle()), 0
    local most = math.min(count, self.tokens)
    while same < most and own[same] == ids[same] do same = same + 1 end
    return same
end

--- Reads everything. Returns true; or false and a sentence about what is damaged.
function Saved:check()
    if C.ml_saved_check(self:handle()) == C.ML_OK then return true end
    return false, ffi.string(C.ml_last_error())
end

--- Unmaps the file now instead of when this is collected.
function Saved:close()
    if rawget(self, "_handle") then C.ml_saved_free(ffi.gc(self._handle, nil)) end
    self._handle = nil
end

-- The first and last characters of a text, on one line, without what would move the cursor.
local function excerpt(text)
    if #text > 200 then
        text = text:sub(1, 120):gsub("[\192-\255][\128-\191]*$", "") .. " ... "
            .. text:sub(-80):gsub("^[\128-\191]+", "")
    end
    return terminal.quote(text)
end

local function printable(text)
    return (text:gsub("%c", "?"))
end

function Saved:__tostring()
    if not rawget(self, "_handle") then return "saved session (closed)" end
    local lines = {
        ("saved session %s: %d tokens, %s"):format(self.path, self.tokens, progress.amount(self.bytes, "B")),
        ("  model       %s (%s), %s"):format(printable(self.name), printable(self.architecture), printable(self.file)),
        ("  saved       %s by moonloom %s, %s"):format(os.date("%Y-%m-%d %H:%M:%S", self.created) or "at no time",
            printable(self.version), printable(self.isa)),
        ("  pages       %d of %d layers, %d quantised, %s cache: %s, here %s (%.2f times smaller)"):format(
            self.page_count, self.layers, self.quantised, self.cache, progress.amount(self.page_bytes, "B"),
            progress.amount(self.packed_bytes, "B"),
            self.page_bytes / math.max(1, self.packed_bytes)),
        ("  text        %s"):format(self.text and excerpt(self.text) or "(damaged)"),
    }
    if self.damage then lines[#lines + 1] = "  damaged     " .. self.damage end
    return table.concat(lines, "\n")
end

--- The JSON value.
function Saved:json()
    local text = self.text and json.utf8(self.text)
    local value = { text = text, ids = self:ids(), damage = self.damage }
    for _, field in ipairs { "path", "bytes", "tokens", "page_count", "quantised", "page_bytes", "packed_bytes",
        "created", "cache", "layers", "name", "file", "architecture", "version", "isa", "content" } do
        value[field] = self[field]
    end
    return value
end

-- ---- writing and reading

--- Writes sequence `sequence` of the cache `handle` to `path`.
function M.write(path, handle, sequence, identity, tokenizer)
    local ids, list = C.ml_sequence_ids(handle, sequence), {}
    for i = 1, tonumber(check(C.ml_sequence_length(handle, sequence))) do list[i] = ids[i - 1] end
    local text = tokenizer:decode(list)
    check(C.ml_sequence_save(handle, sequence, identity, text, #text, path))
end

--- Fills the empty sequence with the first `tokens` tokens of `saved`, which must be of the model of that cache.
function M.load(saved, handle, sequence, tokens)
    check(C.ml_saved_load(saved:handle(), handle, sequence, tokens))
end

--- Whether the ids mean the same to `model`.
function Saved:same_tokens(model)
    local own, other = self.identity.tokenizer, model:identity().tokenizer
    return own[0] == other[0] and own[1] == other[1]
end

return M
