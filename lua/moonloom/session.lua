--- A session: one timeline of tokens in a model's cache. Rewind it, fork it, save it, go on.
--
-- The cache is the truth: session.position tokens are in it, whatever was interrupted, and session:tokens() are those.
-- It is shared by the sessions of a model: one that begins like another starts where the two part: ?cache, ?saved.
local caches = require "moonloom.cache.cache"
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local interrupt = require "moonloom._core.interrupt"
local memory = require "moonloom.cache.memory"
local ml = require "moonloom._core.ffi"
local policy = require "moonloom.cache.policy"
local store = require "moonloom.cache.store"
local turns = require "moonloom._core.turns"
local C, check = ml.C, ml.check

local M = {}

-- Rows of one prefill pass. Where every row wants logits of a large vocabulary, at most 64, so that they stay small.
local CHUNK, CHUNK_WITH_LOGITS, LARGE_VOCABULARY = 512, 64, 16384

local Session = {}

-- All sessions that are not closed.
local open = setmetatable({}, { __mode = "k" })

-- Session.sequence is anchor[0]. What ends a session must not lead to it or the model: finalizers hold it.
local function new_session(model, cache, sequence)
    cache.users = cache.users + 1
    local identity, tokenizer = store.current and cache.knows and model:identity(), model.tokenizer
    local function leave(anchor)
        if identity and store.current then store.current:keep(cache.handle, anchor[0], identity, tokenizer) end
        C.ml_sequence_free(cache.handle, anchor[0])
        cache:leave()
    end
    local self = setmetatable({ model = model, adopted = 0, _cache = cache, _leave = leave }, Session)
    self._anchor = ffi.gc(ffi.new("int32_t[1]", sequence), function(anchor)
        cache:drop(function() leave(anchor) end)
    end)
    open[self] = true
    return self
end

--- Closes all sessions, so that the store has them.
function M.close_all()
    for session in pairs(open) do session:close() end
    caches.sweep_all()
end

--- An empty session of `model` whose cache is of `kind`, "bf16" (default) or "f32"; with `alone` it has a cache of its
--- own, which remembers no prefixes. `kv` is the policy of the cache (see moonloom.cache.policy), or nil.
function M.new(model, kind, alone, kv)
    kind = kind or "bf16"
    local cache = alone and caches.new(model, kind, 0, kv) or model:cache(kind, kv)
    local out = ffi.new("int32_t[1]")
    cache:sweep()
    local status = C.ml_sequence_create(cache.handle, out)
    if status ~= C.ML_OK then
        if alone then cache:free() end
        check(status)
    end
    return new_session(model, cache, out[0])
end

-- ---- fields and bookkeeping

function Session:__index(key)
    if key == "sequence" then
        return rawget(self, "_anchor") and self._anchor[0]
    elseif key == "position" then
        return tonumber(check(C.ml_sequence_length(Session.shared_cache(self).handle, self.sequence)))
    end
    return Session[key]
end

--- The cache object, which forks share. For modules of lua/.
function Session:shared_cache()
    if not rawget(self, "_anchor") then error("this session is closed", 3) end
    return self._cache
end

-- The ids in the cache, from 0.
local function held(self)
    return C.ml_sequence_ids(self:shared_cache().handle, self.sequence)
end

--- The token ids that are in the session.
function Session:tokens()
    local list, ids = {}, held(self)
    for i = 1, self.position do list[i] = ids[i - 1] end
    return list
end

--- The text of the tokens, special tokens by their names.
function Session:text()
    return self.model:detokenize(self:tokens())
end

--- Bytes of the pages of all sessions that share the cache, and of what closed ones left behind.
function Session:bytes()
    local handle = self:shared_cache().handle
    self._cache:sweep()
    local kept = C.ml_cache_kept(handle)
    return tonumber(C.ml_cache_bytes(handle) - kept), tonumber(kept)
end

--- Where the memory is, with high-water marks: what moonloom.memory() tells, and `position` and `kv`, the pool that the
--- pages of this session and its forks come from: { reserved, reserved_peak, used, used_peak, pages, free_pages,
--- free_blocks, largest_block, lost, fragmentation, budget }. Sizes are bytes; ml_pool_info in core/moonloom.h explains
--- them.
function Session:stats()
    local report = memory.report()
    report.position = self.position
    report.kv = memory.pool(function(info) C.ml_cache_memory(self:shared_cache().handle, info) end)
    return report
end

--- session:policy{ bits = 8, hot_tokens = 1024 } or session:policy "balanced": what becomes of keys and values as the
--- session goes on; see moonloom.cache.policy for all fields. It holds for all sessions that share the cache, and may
--- change between two tokens. Returns the session. Without an argument: the fields in use, or nil if all is plain.
function Session:policy(kv)
    local cache = self:shared_cache()
    if kv == nil then return cache.policy and cache.policy:fields() or policy.read(cache.handle, cache.config) end
    cache:govern(kv)
    return self
end

--- Pages of the cache that are in use, and how many of them are quantised.
function Session:pages()
    local pages, quantised = ffi.new("int64_t[1]"), ffi.new("int64_t[1]")
    C.ml_cache_pages(self:shared_cache().handle, pages, quantised)
    return tonumber(pages[0]), tonumber(quantised[0])
end

--- Bytes of a page of 64 tokens of `layer` (from 0): as the policy has full ones, or with `plain` as a new one.
function Session:page_bytes(layer, plain)
    layer = given.whole(layer, "a layer")
    return tonumber(check(C.ml_cache_page_bytes(self:shared_cache().handle, layer, plain and 1 or 0)))
end

--- What packing and quantising make of one full page of `layer` (from 0): { bytes, packed, unsplit, key_error,
--- value_error }: bytes of the page as it is, packed by splitting its bytes and zstd, and by zstd alone; and for a
--- plain page the root mean square errors { bits8, bits4 } as shares of the numbers. nil if there is no full page.
function Session:sample(layer)
    layer = given.whole(layer, "a layer")
    return require("moonloom.cache.levels").sample(self:shared_cache().handle, self.sequence, layer)
end

--- For benchmarks only: puts all pages into the spill file and measures how fast they come back. The policy needs a
--- budget and a spill file. Returns { pages, bytes, packed, zstd, zstd_seconds, memory_seconds, disk_seconds,
--- check_seconds, stream_seconds }: see ml_promotion in core/moonloom.h.
function Session:promotion()
    return require("moonloom.cache.levels").promotion(self:shared_cache().handle, self.sequence)
end

--- What lies where: print(session:levels()) draws the levels of the cache by layer; session:levels():data() is the
--- same as tables. See moonloom.cache.levels.
function Session:levels()
    self:shared_cache():sweep()
    return require("moonloom.cache.levels").of(self)
end

--- print(session:tree()) draws all sessions that share the cache, and what closed ones left behind, as a tree of the
--- tokens that they have in common; session:tree():data() is the same as tables. See moonloom.cache.tree. Options:
--- { kept = 20 }, at most so many branches that nobody has open.
function Session:tree(options)
    options = given.options(options, "session:tree", { "kept" })
    local cache, sessions = self:shared_cache(), {}
    cache:sweep()
    for session in pairs(open) do
        if session._cache == cache then sessions[#sessions + 1] = session end
    end
    table.sort(sessions, function(a, b) return a.sequence < b.sequence end)
    return require("moonloom.cache.tree").of(self, sessions, options.kept and given.most(options.kept, "kept", 0))
end

--- For benchmarks only: adds `count` random tokens with random keys and values without computing anything, the same
--- ones for the same seed, within the policy. What is in the session then is worth nothing but for measuring. Returns
--- the session.
function Session:fill_random(count, seed)
    local cache = self:shared_cache()
    count, seed = given.whole(count, "the number of tokens", 2 ^ 53), given.whole(seed or 1, "a seed", 2 ^ 53)
    self._logits = nil
    check(C.ml_sequence_fill_random(cache.handle, self.sequence, count, seed))
    cache:settle(self.position)
    return self
end

local function checked_position(self, position, verb)
    local length = self.position
    if type(position) ~= "number" or position % 1 ~= 0 or position < 0 or position > length then
        error(("cannot %s %s: the session has %d tokens"):format(verb, tostring(position), length), 3)
    end
    return position
end

-- ---- going forward

local function keep_logits(self, batch, row)
    self._logits, self._logits_at = batch:logits(row), self.position
end

-- A pass of `ids`, of which those from `from` on want logits (true) or the best: with others in a pool, else alone. The
-- policy of the cache is left to the caller with `later`. Returns the batch, and its row before the first of these.
local function pass(self, ids, want, from, later)
    local batch, before = turns.take(self, ids, want, from)
    if batch then return batch, before end
    if #ids == 1 then
        batch = rawget(self, "_step") or self.model:batch(1)
        self._step = batch
    else
        batch = self.model:verify_batch(#ids)
    end
    batch:clear()
    for i, id in ipairs(ids) do batch:add(self, id, i >= from and want) end
    return batch:forward(later), 0
end

--- Feeds one token; its logits are there afterwards. Returns the session.
function Session:step(id)
    local batch, before = pass(self, { given.token(id) }, true, 1)
    keep_logits(self, batch, before + 1)
    return self
end

--- Feeds one token and returns the best next one, and its logit, without working out all logits: the same token as
--- session:step(id):logits():argmax() gives, faster (see ML_WANT_BEST in core/moonloom.h).
function Session:best(id)
    local batch, before = pass(self, { given.token(id) }, "best", 1)
    self._logits = nil
    return batch:best(before + 1)
end

--- session:verify(ids, "logits" | "best", from) -> list. Feeds `ids` in one pass and returns what follows each of them
--- from ids[from] (1) on: logits, or { id =, logit = } of the best token. They are all in the session then; keep() has
--- to take back what turns out wrong before anything else is fed, and applies the policy of the cache, which verify()
--- does not. Each row has the numbers of a pass of its own as long as there are no more than certain() says.
function Session:verify(ids, want, from)
    if type(ids) ~= "table" or #ids == 0 then error("verify takes a list of token ids", 2) end
    if want ~= "logits" and want ~= "best" then
        error(('verify wants "logits" or "best", not %s'):format(tostring(want)), 2)
    end
    from = given.whole(from or 1, "the first row")
    for i = 1, #ids do given.token(ids[i]) end
    local batch, before = pass(self, ids, want == "best" and want or true, from, true)
    local rows = {}
    for i = from, #ids do
        if want == "best" then
            local id, logit = batch:best(before + i)
            rows[#rows + 1] = { id = id, logit = logit }
        else
            rows[#rows + 1] = batch:logits(before + i)
        end
    end
    self._logits, self._logits_at = want == "logits" and rows[#rows] or nil, self.position
    return rows
end

--- Ends what verify() began: forgets what it fed beyond `position`, without keeping it as a prefix for others, and
--- applies the policy of the cache to the rest. Returns the session.
function Session:keep(position)
    checked_position(self, position, "keep")
    local cache = self:shared_cache()
    if position < self.position then
        check(C.ml_sequence_forget(cache.handle, self.sequence, position))
        self._logits = nil
    end
    if not turns.settles() then cache:settle(position) end
    return self
end

--- How many tokens may go through the model in one pass and have the numbers that they have one at a time: until a
--- policy that rounds makes the next page cold, 1 at least; more than anybody has where it rounds nothing.
function Session:certain()
    local cache = self:shared_cache()
    if cache.policy and cache.policy.source.at then return 1 end -- it may say something else after each token
    return tonumber(check(C.ml_sequence_certain(cache.handle, self.sequence)))
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
    if type(what) == "table" then
        for i = 1, #what do given.token(what[i]) end -- before anything happens
        return what
    end
    if type(what) ~= "string" then error("feed takes text or a list of token ids", 3) end
    return self.model:tokenize(what, { special = options.special, bos = self.position == 0 })
end

-- Takes over from the store what it knows of the tokens of the session and the `count` ids after them. Returns how many
-- of these.
local function adopt_stored(self, ids, count)
    local position, handle = self.position, self:shared_cache().handle
    local all = ffi.new("int32_t[?]", position + count)
    if position > 0 then ffi.copy(all, held(self), position * 4) end
    ffi.copy(all + position, ids, count * 4)
    local identity, kind = self.model:identity(), self._cache.kind
    local sequence = store.current:load(handle, all, position + count, position, identity, kind)
    if not sequence then return 0 end
    check(C.ml_sequence_free(handle, self.sequence))
    self._anchor[0] = sequence
    return self.position - position
end

-- Takes over what other sessions know of these ids, then what the store does; the last one is always left. Returns how
-- many.
local function adopt(self, ids)
    local count, out = #ids - 1, ffi.new("int64_t[1]")
    if count < 1 or not self:shared_cache().knows then return 0 end
    local array = ffi.new("int32_t[?]", count)
    for i = 1, count do array[i - 1] = ids[i] end
    check(C.ml_cache_adopt(self._cache.handle, self.sequence, array, count, out))
    local adopted = tonumber(out[0])
    if store.current then adopted = adopted + adopt_stored(self, array + adopted, count - adopted) end
    if adopted > 0 then
        self._logits = nil
        self.adopted = self.adopted + adopted
    end
    return adopted
end

--- session:feed(text | ids, { progress =, each =, special =, chunk = }) -> session
-- Feeds a prompt in chunks; logits of its last token are there afterwards. An empty session begins with the
-- begin-of-text token where the file asks for it (for text, not for ids). `special = false` takes names such as
-- <|start|> as plain text. `progress(done, total)` is called after each chunk, `each(position, logits)` for every
-- token. `chunk` is the number of tokens in a chunk at most. If it is interrupted, the chunks that are done stay:
-- session.position tells how far it came. What an open or closed session of the model has computed for the same
-- beginning is taken over, not computed again (session.adopted counts these tokens), unless `each` wants to see every
-- token.
function Session:feed(what, options)
    options = given.options(options, "session:feed")
    local ids = to_ids(self, what, options)
    local many = options.each and self.model:config().vocabulary > LARGE_VOCABULARY
    local chunk = given.most(options.chunk or (many and CHUNK_WITH_LOGITS or CHUNK), "chunk", 1)
    local at = options.each and 1 or adopt(self, ids) + 1
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
--- tokens were computed. Options as for feed().
function Session:sync(ids, options)
    if type(ids) ~= "table" then error("sync takes a list of token ids", 2) end
    local same, adopted = 0, self.adopted
    local position, own = self.position, held(self)
    while same < position and same < #ids and own[same] == ids[same + 1] do same = same + 1 end
    if same < position then self:rewind(same) end
    local rest = {}
    for i = same + 1, #ids do rest[#rest + 1] = ids[i] end
    self:feed(rest, options)
    return #rest - (self.adopted - adopted)
end

--- Steps many sessions of one cache in one pass: step_all({ s1, s2 }, { id1, id2 }).
function M.step_all(sessions, ids)
    if type(sessions) ~= "table" or type(ids) ~= "table" or #sessions ~= #ids then
        error("step_all needs one token for each session", 2)
    end
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
    local id = held(self)[position - 1]
    self:rewind(position - 1)
    interrupt.finally(function() self:step(id) end, function()
        if self.position < position then self:step(id) end -- one Ctrl-C must not cost the session a token
    end)
    return self._logits
end

-- ---- going back and apart

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
    local fork = new_session(self.model, cache, out[0])
    if position == length then fork._logits, fork._logits_at = rawget(self, "_logits"), rawget(self, "_logits_at") end
    return fork
end

--- Saves the session: moonloom.restore(path) goes on from it, bit for bit, in any process that opens the same model.
--- The file appears whole or not at all; a failure leaves the session as it was. See moonloom.cache.saved. Returns the
--- session.
function Session:save(path)
    path = given.path(path, "session:save")
    local cache = self:shared_cache()
    local model = self.model
    require("moonloom.cache.saved").write(path, cache.handle, self.sequence, model:identity(), model.tokenizer)
    return self
end

--- Ends the session and frees its pages now instead of when it is collected.
function Session:close()
    local anchor = rawget(self, "_anchor")
    if not anchor then return end
    self._anchor, self._logits, self._step = nil, nil, nil
    open[self] = nil
    ffi.gc(anchor, nil)
    self._leave(anchor)
    self._cache:sweep()
end

function Session:__tostring()
    if not rawget(self, "_anchor") then return "session (closed)" end
    return ("session of %s: %d tokens, %s cache of %.1f MB"):format(self.model.name, self.position, self._cache.kind,
        self:bytes() / 1e6)
end

return M
