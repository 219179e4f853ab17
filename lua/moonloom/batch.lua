--- A batch: rows of tokens that go through the model together, as a whole or step by step.
--
--     local batch = model:batch(8)
--     batch:add(session, id, true)              -- the next token of that session; true: it wants logits (or "best")
--     batch:embed()
--     for l = 0, model:config().layers - 1 do
--         batch:attention(l)                    -- or batch:layer(l) for all three
--         batch:router(l)                       -- batch:expert_ids() may be changed here
--         batch:experts(l)
--         batch:residual()                      -- tensor {rows, width}: read it, change it
--     end
--     batch:head()
--     batch:logits(1)                           -- rows count from 1, as in tensors; layers and token ids from 0
--     batch:commit()                            -- only now the sessions have these tokens
--
-- batch:forward() does all of that at once.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local logits_view = require "moonloom.logits"
local C, check = ml.C, ml.check

local M = {}

local Batch = {}
Batch.__index = Batch

-- Session -> how many rows of it are in the batch. Weak, because a session holds its batch.
local function no_rows()
    return setmetatable({}, { __mode = "k" })
end

--- A batch of at most `capacity` rows for `model`.
function M.new(model, capacity)
    local out = ffi.new("ml_batch *[1]")
    capacity = given.whole(capacity, "the capacity of a batch")
    check(C.ml_batch_create(model:handle(), capacity, out))
    return setmetatable({
        _handle = ffi.gc(out[0], C.ml_batch_free), model = model, capacity = capacity,
        epoch = ffi.new("double[1]"), -- changes whenever logits that were given out become invalid
        added = no_rows(),
    }, Batch)
end

--- Takes all rows out.
function Batch:clear()
    C.ml_batch_clear(self._handle)
    self.cache, self.added = nil, no_rows()
    return self
end

local wants = { [true] = C.ML_WANT_LOGITS, [false] = C.ML_WANT_NOTHING, best = C.ML_WANT_BEST }

--- Adds token `id` as the next one of `session`. Returns the row, from 1. `want` is true for a row that wants logits,
--- or "best" for one that wants the best token alone, which is faster if no row wants logits. All sessions of a batch
--- share one cache, as those of one model and kind do, unless they were made with prefixes = false: then only forks of
--- one another.
function Batch:add(session, id, want)
    if type(session) ~= "table" or not session.shared_cache then
        error(("a token is added to a session, not to %s"):format(tostring(session)), 2)
    end
    local cache = session:shared_cache()
    if self.cache and self.cache ~= cache then
        error("the sessions of a batch must share one cache: be of one model and kind, or forks of one session", 2)
    end
    local added = self.added[session] or 0
    local position, wanted = session.position + added, wants[want or false]
    if not wanted then error(('a row wants true, false or "best", not %s'):format(tostring(want)), 2) end
    check(C.ml_batch_add(self._handle, given.token(id), position, session.sequence, wanted))
    self.cache, self.added[session] = cache, added + 1
    return self:rows()
end

--- Number of rows.
function Batch:rows()
    return tonumber(C.ml_batch_rows(self._handle))
end

local function cache_of(self)
    return self.cache and self.cache.handle or error("the batch has no rows: add some first", 3)
end

-- The same for what begins a pass.
local function fresh_cache_of(self)
    if self.cache then self.cache:sweep() end
    return cache_of(self)
end

-- After a pass: applies the policy of the cache, which may be another one by now.
local function settle(self)
    local position = 0
    if self.cache.policy then
        for session in pairs(self.added) do position = math.max(position, session.position) end
    end
    self.added = no_rows() -- whatever becomes of the pages, the sessions have the tokens
    self.cache:settle(position)
end

--- The whole pass: embed, every layer, head, commit. On failure the sessions are as before. With `later` the policy of
--- the cache is not applied yet: rows that may be taken back again must not make pages cold. Then the caller does it.
function Batch:forward(later)
    local cache = fresh_cache_of(self)
    self.epoch[0] = self.epoch[0] + 1
    check(C.ml_forward(cache, self._handle))
    if later then self.added = no_rows() else settle(self) end
    return self
end

--- Fills the residual stream with the embeddings of the tokens.
function Batch:embed()
    local cache = fresh_cache_of(self)
    self.epoch[0] = self.epoch[0] + 1
    check(C.ml_forward_embed(cache, self._handle))
    return self
end

--- Layer `l` (from 0) as a whole: attention, router, experts.
function Batch:layer(l)
    check(C.ml_forward_layer(cache_of(self), self._handle, given.whole(l, "a layer")))
    return self
end

--- Attention of layer `l`, added to the residual stream.
function Batch:attention(l)
    check(C.ml_forward_attention(cache_of(self), self._handle, given.whole(l, "a layer")))
    return self
end

--- Router of layer `l`: chooses experts. Nothing happens in a dense model.
function Batch:router(l)
    check(C.ml_forward_router(cache_of(self), self._handle, given.whole(l, "a layer")))
    return self
end

--- The chosen experts of layer `l` (or its feed-forward block), added to the residual stream.
function Batch:experts(l)
    check(C.ml_forward_experts(cache_of(self), self._handle, given.whole(l, "a layer")))
    return self
end

--- Logits of the rows that want them, from the residual stream as it is now.
function Batch:head()
    local cache = cache_of(self)
    self.epoch[0] = self.epoch[0] + 1
    check(C.ml_forward_head(cache, self._handle))
    return self
end

--- Adds the rows to their sessions.
function Batch:commit()
    local cache = cache_of(self)
    check(C.ml_forward_commit(cache, self._handle))
    settle(self)
    return self
end

local function view(self, which)
    local out = ffi.new("ml_tensor *[1]")
    check(C.ml_batch_tensor(self._handle, which, out))
    return require("moonloom.tensor").wrap(out[0])
end

--- The residual stream: f32 {rows, width}, a view that may be changed between steps.
function Batch:residual()
    return view(self, C.ML_VIEW_RESIDUAL)
end

--- f32 {rows, experts}, after router().
function Batch:router_logits()
    return view(self, C.ML_VIEW_ROUTER_LOGITS)
end

--- i32 {rows, experts used}, best first, after router(); may be changed before experts().
function Batch:expert_ids()
    return view(self, C.ML_VIEW_EXPERT_IDS)
end

--- f32 {rows, experts used}, after router(); may be changed before experts().
function Batch:expert_weights()
    return view(self, C.ML_VIEW_EXPERT_WEIGHTS)
end

--- What the last pass read and multiplied: { weight_bytes, cache_bytes, operations }.
function Batch:work()
    local work = ffi.new("ml_work")
    C.ml_batch_work(self._handle, work)
    return {
        weight_bytes = tonumber(work.weight_bytes), cache_bytes = tonumber(work.cache_bytes),
        operations = work.operations,
    }
end

local floats = ffi.new("const float *[1]")

--- Logits of row `row` (from 1), which asked for them, after head() or forward(): valid until the next pass.
function Batch:logits(row)
    check(C.ml_batch_logits(self._handle, given.whole(row, "a row") - 1, floats))
    return logits_view.view(floats[0], self.model:config().vocabulary, self)
end

local best_id, best_logit = ffi.new("int32_t[1]"), ffi.new("float[1]")

--- The token with the largest logit of row `row` (from 1), which asked for "best", and its logit.
function Batch:best(row)
    check(C.ml_batch_best(self._handle, given.whole(row, "a row") - 1, best_id, best_logit))
    return best_id[0], best_logit[0]
end

return M
