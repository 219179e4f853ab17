--- Candidates for the next token: what samplers work on. A view on the logits with changes beside it: nothing of the
--- size of the vocabulary is copied or sorted unless a sampler asks for that many.
--
--     candidates:logit(id)            its logit now            candidates:set(id, logit), :add(id, bias), :ban(id)
--     candidates:top(5)               the best, with p         candidates:scale(1 / temperature)
--     candidates:probability(id), :logsumexp()                 candidates:keep(40)  only the best 40
--     candidates:best() -> id, logit                           candidates:keep_above(logit)
--     candidates:rank_of_mass(0.95)   how many make up 95 %    candidates:sample(u) -> id, for u in [0, 1)
--     candidates:before(5)            the best before any change
--
-- Until something is dropped, values are scale * logits, except for the changed ids; the ranking is found as far as it
-- is needed. Once something is dropped, the ranking is all there is. Probabilities are normalised in double. Equal
-- values rank by id.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {}

local Candidates = {}
Candidates.__index = Candidates

local HEAD = 64 -- how much of the ranking is found at once at least

--- Candidates over a logits object.
function M.new(logits)
    return setmetatable({
        logits = logits, n = tonumber(logits.count),
        factor = 1, changed = {}, changes = 0,
        limited = false, ids = nil, values = nil, ranked = 0, -- the ranking, from 0
        top_value = nil, mass = nil, -- the normaliser, while it is known
        raw_ids = nil, raw_values = nil, raw = 0, -- the best plain logits, as far as they were looked for, from 0
        raw_mass = nil, -- their normaliser, once it is known
    }, Candidates)
end

--- The best token alone, where a pass worked out nothing else: a list of one, without logits behind it.
function M.single(id, logit, vocabulary)
    if logit ~= logit or math.abs(logit) == math.huge then
        error("the logits are not finite: there is no best token", 0)
    end
    return setmetatable({
        n = vocabulary, factor = 1, changed = {}, changes = 0,
        limited = true, ids = ffi.new("int32_t[1]", id), values = ffi.new("double[1]", logit), ranked = 1,
    }, Candidates)
end

-- The floats, which a later pass may have taken away.
local function data(self)
    if not self.logits then error("only the best token is known here: samplers.wants() tells what a chain needs", 0) end
    return self.logits:pointer()
end

local function is_better(value, id, other_value, other_id)
    return value > other_value or value == other_value and id < other_id
end

-- The changed ids that are not banned, best first.
local function sorted_changes(self)
    local list = {}
    for id, value in pairs(self.changed) do
        if value > -math.huge then list[#list + 1] = id end
    end
    local changed = self.changed
    table.sort(list, function(a, b) return is_better(changed[a], a, changed[b], b) end)
    return list
end

-- Merges the `k` best plain logits with the changed ids into the ranking. Beyond the worst of the k nothing is known
-- of the others, so a changed id that comes after it has to wait, unless these are all.
local function merge(self, k, raw_ids, raw_values)
    local changes, changed, factor = sorted_changes(self), self.changed, self.factor
    local ids, values = ffi.new("int32_t[?]", k + #changes), ffi.new("double[?]", k + #changes)
    local count, next_change = 0, 1
    for i = 0, k - 1 do
        local id, value = raw_ids[i], factor * raw_values[i]
        while changes[next_change] and is_better(changed[changes[next_change]], changes[next_change], value, id) do
            ids[count], values[count] = changes[next_change], changed[changes[next_change]]
            count, next_change = count + 1, next_change + 1
        end
        if not changed[id] and value > -math.huge then
            ids[count], values[count] = id, value
            count = count + 1
        end
    end
    while k == self.n and changes[next_change] do
        ids[count], values[count] = changes[next_change], changed[changes[next_change]]
        count, next_change = count + 1, next_change + 1
    end
    self.ids, self.values, self.ranked = ids, values, count
end

-- The `k` best plain logits, in two arrays.
local function raw_ranking(self, k)
    if self.raw < k then
        self.raw_ids, self.raw_values, self.raw = ffi.new("int32_t[?]", k), ffi.new("float[?]", k), k
        check(C.ml_logits_topk(data(self), self.n, k, self.raw_ids, self.raw_values))
    end
    return self.raw_ids, self.raw_values
end

-- Finds the ranking of the first `wanted` candidates, or of all if there are fewer. Returns how many are ranked.
local function rank(self, wanted)
    wanted = math.min(wanted, self.n)
    if self.limited or self.ranked >= wanted or self.complete then return self.ranked end
    local k = math.min(self.n, math.max(HEAD, wanted + self.changes, self.ranked * 16))
    merge(self, k, raw_ranking(self, k))
    self.complete = k == self.n
    return self.ranked
end

-- The changed ids, ascending, as the core wants them.
local function skip_list(self)
    local list = {}
    for id in pairs(self.changed) do list[#list + 1] = id end
    table.sort(list)
    local skip = ffi.new("int32_t[?]", #list + 1)
    for i, id in ipairs(list) do skip[i - 1] = id end
    return list, skip
end

local NOT_FINITE = "the logits are not finite: there are no probabilities to sample from"

-- Raises what is to say where no candidate is left. NaN ranks last: a best logit that is NaN means that all are.
local function fail_empty(self, level)
    local finite = not self.logits or select(2, self.logits:argmax()) > -math.huge
    error(finite and "the samplers left no candidate" or NOT_FINITE, level)
end

local number = ffi.new("double[1]")

-- The largest value, and the sum of exp(value - largest) over all candidates.
local function normaliser(self)
    if self.mass then return self.top_value, self.mass end
    if rank(self, 1) == 0 then fail_empty(self, 0) end
    local top, sum = self.values[0], 0
    if self.limited then
        for i = 0, self.ranked - 1 do sum = sum + math.exp(self.values[i] - top) end
    else
        local list, skip = skip_list(self)
        check(C.ml_logits_mass(data(self), self.n, self.factor, top, skip, #list, number))
        sum = number[0]
        for _, id in ipairs(list) do sum = sum + math.exp(self.changed[id] - top) end
        if self.factor == 1 and #list == 0 then self.raw_mass = sum end
    end
    if not (sum > 0 and sum < math.huge) then
        error(NOT_FINITE, 0)
    end
    self.top_value, self.mass = top, sum
    return top, sum
end

local function forget_ranking(self)
    self.ranked, self.complete, self.mass = 0, nil, nil
end

-- Index of `id` in the ranking, or nil.
local function find(self, id)
    for i = 0, self.ranked - 1 do
        if self.ids[i] == id then return i end
    end
end

local function checked_id(self, id)
    if not (type(id) == "number" and id >= 0 and id < self.n and id % 1 == 0) then
        error(("token %s is outside the vocabulary of %d"):format(tostring(id), self.n), 3)
    end
    return id
end

--- The logit of a token as it is now; minus infinity if it was dropped.
function Candidates:logit(id)
    checked_id(self, id)
    if self.limited then
        local at = find(self, id)
        return at and self.values[at] or -math.huge
    end
    return self.changed[id] or self.factor * data(self)[id]
end

-- Moves the candidate at `at` of a limited ranking to where `value` puts it.
local function move(self, at, value)
    local ids, values = self.ids, self.values
    local id, last = ids[at], self.ranked - 1
    while at < last and is_better(values[at + 1], ids[at + 1], value, id) do
        ids[at], values[at] = ids[at + 1], values[at + 1]
        at = at + 1
    end
    while at > 0 and is_better(value, id, values[at - 1], ids[at - 1]) do
        ids[at], values[at] = ids[at - 1], values[at - 1]
        at = at - 1
    end
    ids[at], values[at] = id, value
    if value == -math.huge then self.ranked = at end
end

--- Gives a token another logit; what was dropped stays dropped.
function Candidates:set(id, value)
    checked_id(self, id)
    if value ~= value or value == math.huge then error(("token %d cannot have the logit %s"):format(id, value), 2) end
    if self.limited then
        local at = find(self, id)
        if at then move(self, at, value) end
        self.mass = nil
        return
    end
    if not self.changed[id] then self.changes = self.changes + 1 end
    self.changed[id] = value
    forget_ranking(self)
end

--- Adds to the logit of a token.
function Candidates:add(id, bias)
    self:set(id, self:logit(id) + bias)
end

--- Takes a token out.
function Candidates:ban(id)
    self:set(id, -math.huge)
end

--- Multiplies all logits by a positive factor.
function Candidates:scale(factor)
    if not (factor > 0 and factor < math.huge) then error("the factor must be positive and finite", 2) end
    if factor == 1 then return end
    self.factor, self.mass = self.factor * factor, nil
    for id, value in pairs(self.changed) do self.changed[id] = value * factor end
    for i = 0, self.ranked - 1 do self.values[i] = self.values[i] * factor end
end

--- Number of candidates.
function Candidates:count()
    if self.limited or self.complete then return self.ranked end
    local count = self.n
    for _, value in pairs(self.changed) do
        if value == -math.huge then count = count - 1 end
    end
    return count
end

--- Keeps only the best `count` (one at least).
function Candidates:keep(count)
    count = math.max(1, math.floor(count))
    if count >= self:count() then return end
    self.ranked = math.min(rank(self, count), count)
    self.limited, self.mass = true, nil
end

--- Keeps only those whose logit is at least `value`, and the best one.
function Candidates:keep_above(value)
    local at, known = 0, rank(self, 1)
    while at < known and self.values[at] >= value do
        at = at + 1
        if at == known then known = rank(self, known + 1) end
    end
    self:keep(at)
end

--- How many of the best make up at least the share `p` of the probability.
function Candidates:rank_of_mass(p)
    if p >= 1 then return self:count() end
    local top, mass = normaliser(self)
    local at, known, sum = 0, rank(self, 1), 0
    while at < known do
        sum = sum + math.exp(self.values[at] - top)
        at = at + 1
        if sum >= p * mass then return at end
        if at == known then known = rank(self, known + 1) end
    end
    return at
end

--- Id and logit of the best candidate.
function Candidates:best()
    if rank(self, 1) == 0 then fail_empty(self, 3) end
    return self.ids[0], self.values[0]
end

--- log(sum(exp(logits))) over the candidates: the log-probability of one is its logit minus this.
function Candidates:logsumexp()
    local top, mass = normaliser(self)
    return top + math.log(mass)
end

--- Probability of a token among the candidates.
function Candidates:probability(id)
    local top, mass = normaliser(self)
    return math.exp(self:logit(id) - top) / mass
end

--- The best `count`: { { id =, logit =, p = }, ... }.
function Candidates:top(count)
    local top, mass = normaliser(self)
    local list = {}
    for i = 1, math.min(count, rank(self, count)) do
        local value = self.values[i - 1]
        list[i] = { id = self.ids[i - 1], logit = value, p = math.exp(value - top) / mass }
    end
    return list
end

--- What the model said before any change: the best `count` as top() lists them, and log(sum(exp(logits))) of all.
function Candidates:before(count)
    local k = math.min(count, self.n)
    local ids, values = raw_ranking(self, k)
    local top, list = values[0], {}
    if not self.raw_mass then
        check(C.ml_logits_mass(data(self), self.n, 1, top, nil, 0, number))
        self.raw_mass = number[0]
    end
    if not (self.raw_mass > 0 and self.raw_mass < math.huge) then error(NOT_FINITE, 0) end
    for i = 1, k do
        local value = values[i - 1]
        if value > -math.huge then
            list[#list + 1] = { id = ids[i - 1], logit = value, p = math.exp(value - top) / self.raw_mass }
        end
    end
    return list, top + math.log(self.raw_mass)
end

local picked = ffi.new("int32_t[1]")

--- Draws a token: `u` is uniform in [0, 1).
function Candidates:sample(u)
    local top, mass = normaliser(self)
    local target, sum = u * mass, 0
    if self.limited then
        for i = 0, self.ranked - 1 do
            sum = sum + math.exp(self.values[i] - top)
            if sum > target then return self.ids[i] end
        end
        return self.ids[self.ranked - 1]
    end
    local list, skip = skip_list(self)
    for _, id in ipairs(list) do
        sum = sum + math.exp(self.changed[id] - top)
        if sum > target then return id end
    end
    local status = C.ml_logits_pick(data(self), self.n, self.factor, top, skip, #list, target - sum, picked)
    if status == C.ML_E_NOT_FOUND then return (self:best()) end -- every weight is on changed ids
    check(status)
    return picked[0]
end

return M
