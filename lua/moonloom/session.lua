--- A session: one timeline of tokens in a model's cache. Rewind it, fork it, go on.
--
-- The cache is the truth: session.position tokens are in it, whatever was interrupted, and session:tokens() are those.
local ffi = require "ffi"
local ml = require "moonloom.ffi"
local C, check = ml.C, ml.check

local M = {}

-- Rows of one prefill pass. Where every row wants logits of a large vocabulary, at most 64, so that they stay small.
local CHUNK, CHUNK_WITH_LOGITS, LARGE_VOCABULARY = 512, 64, 16384

local Session = {}

-- ---- the cache that a session and its forks share; it goes with the last of them

local Cache = {}
Cache.__index = Cache

local dtypes = { bf16 = C.ML_BF16, f32 = C.ML_F32 }

local function new_cache(model, kind)
    local dtype = dtypes[kind] or error(("a cache is bf16 or f32, not '%s'"):format(tostring(kind)), 0)
    local out = ffi.new("ml_cache *[1]")
    check(C.ml_cache_create(model:handle(), dtype, out))
    return setmetatable({ handle = out[0], model = model, kind = kind, sessions = 0 }, Cache)
end

function Cache:leave(sequence)
    C.ml_sequence_free(self.handle, sequence)
    self.sessions = self.sessions - 1
    if self.sessions == 0 then
        C.ml_cache_free(self.handle)
        self.handle = nil
    end
end

local function new_session(model, cache, sequence, ids)
    cache.sessions = cache.sessions + 1
    local self = setmetatable({ model = model, sequence = sequence, ids = ids, _cache = cache }, Session)
    self._anchor = ffi.gc(ffi.new("int32_t[1]", sequence), function(anchor)
        cache:leave(anchor[0])
    end)
    return self
end

--- An empty session of `model` with a cache of its own: `kind` "bf16" (default) or "f32".
function M.new(model, kind)
    local cache = new_cache(model, kind or "bf16")
    local out = ffi.new("int32_t[1]")
    local status = C.ml_sequence_create(cache.handle, out)
    if status ~= C.ML_OK then
        C.ml_cache_free(cache.handle)
        check(status)
    end
    return new_session(model, cache, out[0], {})
end

-- ---- fields and bookkeeping

function Session:__index(key)
    if key == "position" then
        return tonumber(check(C.ml_sequence_length(Session.shared_cache(self).handle, self.sequence)))
    end
    return Session[key]
end

--- The cache object, which forks share. For modules of lua/.
function Session:shared_cache()
    if not rawget(self, "_anchor") then error("this session is closed", 3) end
    return self._cache
end

--- Writes down which token is about to go in at `position` (from 0). It counts once the cache has it.
function Session:note(position, id)
    self.ids[position + 1] = id
end

--- The token ids that are in the session.
function Session:tokens()
    local list = {}
    for i = 1, self.position do list[i] = self.ids[i] end
    return list
end

--- The text of the tokens, special tokens by their names.
function Session:text()
    return self.model:detokenize(self:tokens())
end

--- Bytes of the cache, all forks together.
function Session:bytes()
    return tonumber(C.ml_cache_bytes(self:shared_cache().handle))
end

-- ---- going forward

local function keep_logits(self, batch, row)
    self._logits, self._logits_at = batch:logits(row), self.position
end

--- Feeds one token; its logits are there afterwards. Returns the session.
function Session:step(id)
    local batch = rawget(self, "_step") or self.model:batch(1)
    self._step = batch
    batch:clear():add(self, id, true)
    batch:forward()
    keep_logits(self, batch, 1)
    return self
end

-- Feeds ids[first..last] in one pass.
local function feed_chunk(self, ids, first, last, each)
    local batch = self.model:shared_batch(last - first + 1)
    local start = self.position
    batch:clear()
    for i = first, last do batch:add(self, ids[i], each ~= nil or i == #ids) end
    batch:forward()
    if last == #ids then keep_logits(self, batch, last - first + 1) end
    if not each then return end
    for i = first, last do each(start + i - first, batch:logits(i - first + 1)) end
end

local function to_ids(self, what, options)
    if type(what) == "table" then return what end
    if type(what) ~= "string" then error("feed takes text or a list of token ids", 3) end
    return self.model:tokenize(what, { special = options.special, bos = self.position == 0 })
end

--- session:feed(text | ids, { progress =, each =, special = }) -> session
-- Feeds a prompt in chunks; logits of its last token are there afterwards. An empty session begins with the
-- begin-of-text token where the file asks for it (for text, not for ids). `special = false` takes names such as
-- <|start|> as plain text. `progress(done, total)` is called after each chunk, `each(position, logits)` for every
-- token. If it is interrupted, the chunks that are done stay: session.position tells how far it came.
function Session:feed(what, options)
    options = options or {}
    local ids = to_ids(self, what, options)
    local chunk = CHUNK
    if options.each and self.model:config().vocabulary > LARGE_VOCABULARY then chunk = CHUNK_WITH_LOGITS end
    local at = 1
    while at <= #ids do
        local last = math.min(at + chunk - 1, #ids)
        if last == at and not options.each then
            self:step(ids[at])
        else
            feed_chunk(self, ids, at, last, options.each)
        end
        if options.progress then options.progress(last, #ids) end
        at = last + 1
    end
    return self
end

--- Makes the session hold exactly `ids`: keeps what they have in common, rewinds, feeds the rest. Returns how many
--- tokens were fed. Options as for feed().
function Session:sync(ids, options)
    local same = 0
    local position = self.position
    while same < position and same < #ids and self.ids[same + 1] == ids[same + 1] do same = same + 1 end
    if same < position then self:rewind(same) end
    local rest = {}
    for i = same + 1, #ids do rest[#rest + 1] = ids[i] end
    self:feed(rest, options)
    return #rest
end

--- Steps many sessions of one cache in one pass: step_all({ s1, s2 }, { id1, id2 }).
function M.step_all(sessions, ids)
    if #sessions ~= #ids then error("step_all needs one token for each session", 2) end
    if #sessions == 0 then return end
    local batch = sessions[1].model:shared_batch(#sessions)
    batch:clear()
    for i, session in ipairs(sessions) do batch:add(session, ids[i], true) end
    batch:forward()
    for i, session in ipairs(sessions) do keep_logits(session, batch, i) end
end

--- Logits after the last token. They are a view: valid until this session (or, after a prefill, another one of the
--- model) goes on. Where they are gone, after rewind() or fork(), the last token is fed again.
function Session:logits()
    local position = self.position
    local logits = rawget(self, "_logits")
    if logits and self._logits_at == position and logits:valid() then return logits end
    if position == 0 then error("this session is empty: feed it a prompt first", 2) end
    local id = self.ids[position]
    self:rewind(position - 1)
    self:step(id)
    return self._logits
end

-- ---- going back and apart

local function checked_position(self, position, verb)
    local length = self.position
    if type(position) ~= "number" or position % 1 ~= 0 or position < 0 or position > length then
        error(("cannot %s %s: the session has %d tokens"):format(verb, tostring(position), length), 3)
    end
    return position
end

--- Forgets everything from `position` (0 ... session.position) on. Returns the session.
function Session:rewind(position)
    checked_position(self, position, "rewind to")
    check(C.ml_sequence_rewind(self:shared_cache().handle, self.sequence, position))
    self._logits = nil
    return self
end

--- A session that shares the first `position` tokens (default: all). Pages are copied only when one of the two writes.
function Session:fork(position)
    local length = self.position
    position = checked_position(self, position or length, "fork at")
    local cache, out = self:shared_cache(), ffi.new("int32_t[1]")
    check(C.ml_sequence_fork(cache.handle, self.sequence, position, out))
    local ids = {}
    for i = 1, position do ids[i] = self.ids[i] end
    local fork = new_session(self.model, cache, out[0], ids)
    if position == length then fork._logits, fork._logits_at = rawget(self, "_logits"), rawget(self, "_logits_at") end
    return fork
end

--- Ends the session and frees its pages now instead of when it is collected.
function Session:close()
    local anchor = rawget(self, "_anchor")
    if not anchor then return end
    self._anchor, self._logits, self._step = nil, nil, nil
    ffi.gc(anchor, nil)
    self._cache:leave(anchor[0])
end

function Session:__tostring()
    if not rawget(self, "_anchor") then return "session (closed)" end
    return ("session of %s: %d tokens, %s cache of %.1f MB"):format(self.model.name, self.position, self._cache.kind,
        self:bytes() / 1e6)
end

return M
