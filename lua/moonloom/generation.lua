--- A generation: a prompt, the tokens that followed, what else could have stood there, and the session to go on from.
--
--     g.text  g.ids  g.stop  g.prompt  g.prompt_ids  g.session  g.seed  print(g)      g.problem after "error"
--     g.tokens[i]     { id, text, logprob, top = { { id, logprob }, ... } }, i from 1
--     g:why(i)        what else could have stood at i, before and after the samplers
--     g:fork(i, { id = | text = | temperature = ... })    another way from token i on
--     g:resume{ max_tokens = 100 }                        goes on after "interrupted", "error" or "length"
--
-- The loop that makes tokens is a recipe (recipes/loop.lua). One step of it is
--
--     g:advance(wants) -> candidates          feeds what the session does not have yet
--     g:verify(draft, wants) -> list of them  the same, and a guess at what follows: one row for each of its tokens
--     g:push(id, candidates)                  adds a token: it is in g.all at once, in g.tokens after
--     g:commit(finished) -> reason            which asks about one token after the other whether it is the last
--
-- so a step may add any number of tokens. What came behind the last one is taken back, as if nobody had made it.
local C = require("moonloom._core.ffi").C
local candidates = require "moonloom.candidates"
local random = require "moonloom._core.random"
local recipe = require "moonloom.recipe.live"
local tokens = require "moonloom.generation.tokens"
local turns = require "moonloom._core.turns"

local M = {}

recipe.judge("^loop$", function(value)
    if type(value.loop) ~= "function" then return "a loop returns { loop = function(g) } at least" end
end)

recipe.judge("^generate$", function(value)
    if type(value.next) ~= "function" then return nil end
    return "it is a copy of an older moonloom's. The loop is a file of its own now: put what you changed into a copy "
        .. "of recipes/loop.lua beside it, and remove it"
end)

local Generation = {}

for _, part in ipairs { "going", "showing" } do
    for name, method in pairs(require("moonloom.generation." .. part)) do Generation[name] = method end
end

-- ---- making one

--- Takes up the parameters: the chain that they make.
function Generation:_take_parameters()
    self.chain = self.recipe.chain(self.parameters)
end

--- A generation that has not begun: { model, session, prompt_ids, prompt (text, if it was text), parameters, recipe }.
-- `recipe` is the live recipe whose chain(parameters) and loop(generation) are used; show(generation), where it has
-- one, prepares a fork for the screen. go() begins it. Before, a recipe may set
--     g.write(text, token)   what is certain is given to it as it comes; g.opening is written first
--     g.watch(token)         is told each token that counts, and may say why to stop after it
--     g.probabilities        true: somebody will look at them, so best tokens alone will not do
--     g.limit                the number of tokens at which to stop, if that is not parameters.max_tokens
function M.new(options)
    local self = setmetatable(options, Generation)
    self.tokens, self.pending = {}, {}
    self.seed, self.limit = options.parameters.seed or random.fresh_seed(), options.parameters.max_tokens
    self.all = {} -- ids of prompt, tokens and pending tokens
    self._sure = 0 -- so many of them the session has for good, which commit() does not take back
    self._decoder, self._pieces, self._bytes = options.model.tokenizer:decoder(), {}, 0
    local pieces = {}
    for i, id in ipairs(options.prompt_ids) do
        self.all[i] = id
        pieces[i] = self._decoder:push(id)
    end
    self.prompt = options.prompt or table.concat(pieces)
    self:_take_parameters()
    self.times = { fed = 0, prefill_ms = 0, steps = 0, decode_ms = 0 }
    return self
end

function Generation:__index(key)
    if key == "ids" then
        local ids = {}
        for i, token in ipairs(self.tokens) do ids[i] = token.id end
        return ids
    elseif key == "text" then
        local text = table.concat(self._pieces)
        local cut = rawget(self, "cut")
        return cut and text:sub(1, cut) or text
    end
    return Generation[key]
end

-- Adds a token that counts, and its text.
local function append(self, token)
    local index = #self.tokens + 1
    local piece = self.model.tokenizer:is_end(token.id) and "" or self._decoder:push(token.id)
    self.tokens[index], self._pieces[index], self._bytes = token, piece, self._bytes + #piece
end

--- Another generation with the first `count` tokens of this one and the parameters `changes` changed.
function Generation:_branch(count, changes)
    local parameters = {}
    for key, value in pairs(self.parameters) do parameters[key] = value end
    for key, value in pairs(changes) do parameters[key] = value end
    parameters.seed = changes.seed or self.seed
    local position = math.min(#self.prompt_ids + count, self.session.position)
    local other = M.new {
        model = self.model, session = self.session:fork(position), prompt_ids = self.prompt_ids, prompt = self.prompt,
        parameters = parameters, recipe = self.recipe,
    }
    for i = 1, count do
        append(other, tokens.copy(self.tokens[i], other))
        other.all[#other.all + 1] = self.tokens[i].id
    end
    other._written = other._bytes
    other.limit = changes.max_tokens and count + changes.max_tokens or math.max(self.limit, count + 1)
    return other
end

-- ---- the steps of the loop

--- Brings the session to where this generation is, whatever it did since. The time counts as prefill.
function Generation:prepare(options)
    self.began, self._pushed = C.ml_time_now(), nil
    self.stop, self.cut = nil, nil
    if #self.all == 0 then error("the prompt is empty: there is nothing to go on from", 0) end
    local context = self.model:config().context
    if #self.all >= context then
        error(("the prompt has %d tokens; the model's context ends at %d"):format(#self.all, context), 0)
    end
    local fed = self.session:sync(self.all, options)
    self._sure = #self.all
    self.times.fed = self.times.fed + fed
    self.times.prefill_ms = self.times.prefill_ms + C.ml_time_now() - self.began
end

local ROWS = 64 -- missing tokens that are fed with the newest one in one pass

-- The ids that the session does not have yet, few enough for one pass.
local function missing(self, certain)
    local ids, position = {}, self.session.position
    for i = position + 1, #self.all do ids[#ids + 1] = self.all[i] end
    if #ids <= math.min(certain, ROWS) then return ids end
    local newest = table.remove(ids)
    self.session:feed(ids)
    return { newest }
end

--- Feeds what the session does not have yet, and the ids `draft` that are guessed to follow; takes up recipes that were
--- saved meanwhile. Returns candidates for what follows the newest token, then for what follows each one of the draft:
--- of all tokens ("logits"), or the best one alone ("best", which is faster). They may be fewer than asked for, where a
--- policy of the cache would change numbers within the pass, at the end of the context, and where no pass is needed.
function Generation:verify(draft, wants)
    recipe.poll()
    local session, certain = self.session, self.session:certain()
    local ids = missing(self, certain)
    local from, vocabulary, rows = #ids, self.model:config().vocabulary, {}
    if from == 0 then
        turns.hold(true)
        return { candidates.new(session:logits()) }
    end
    local most = math.min(certain, self.model:config().context - session.position)
    for _, id in ipairs(draft or {}) do
        if #ids >= most then break end
        ids[#ids + 1] = id
    end
    local found = session:verify(ids, wants, from)
    turns.hold(true)
    self._sure, self._best_rows = #self.all, self._best_rows or wants == "best"
    for i, row in ipairs(found) do
        rows[i] = wants == "best" and candidates.single(row.id, row.logit, vocabulary) or candidates.new(row)
    end
    return rows
end

--- The one-row case of verify(): candidates for what follows the newest token.
function Generation:advance(wants)
    return self:verify(nil, wants)[1]
end

--- What samplers may know: tokens (all ids so far), position, random(), generation.
function Generation:context()
    local position, draws = #self.all, -1
    return {
        tokens = self.all, position = position, generation = self,
        random = function()
            draws = draws + 1
            return random.uniform(self.seed, position, draws)
        end,
    }
end

--- Adds token `id`, chosen from what the sampler chain left of the candidates `left`, which bring the logits that they
--- came from. It is pending until commit(). Returns the token.
function Generation:push(id, left)
    local token = tokens.new(self, #self.tokens + #self.pending + 1, id, left)
    self.all[#self.all + 1] = id
    self.pending[#self.pending + 1] = token
    return token
end

-- Makes a pending token one that counts; `timed` is whether it is of a step behind the first.
local function make_count(self, timed)
    append(self, table.remove(self.pending, 1))
    self._asking = "watch"
    local now, times = C.ml_time_now(), self.times
    if timed then times.steps, times.decode_ms = times.steps + 1, times.decode_ms + now - self._pushed end
    self._pushed = now
    self.ttft_ms = self.ttft_ms or now - (self.began or now)
end

-- Asks about the newest token. self._asking tells what is still to be asked, wherever this is stopped: a parser behind
-- g.watch takes each token once.
local function ask(self, finished)
    local watch, newest, reason = rawget(self, "watch"), self.tokens[#self.tokens], nil
    self._found = nil
    if watch and self._asking == "watch" then
        self._asking = "finished"
        reason = watch(newest)
    end
    reason = reason or finished(self)
    self.cut, self._asking = reason and self._found, nil
    return reason
end

--- Takes back what is pending, from the session as well, which then has no token that was only guessed.
function Generation:_take_back()
    self.pending = {}
    local count = #self.prompt_ids + #self.tokens
    for i = #self.all, count + 1, -1 do self.all[i] = nil end
    local sure = count <= self._sure and count or count - 1 -- nobody looked what the session has for the newest one
    self.session:keep(math.min(self.session.position, sure))
end

--- Ends a step: makes one pending token after the other count, and asks finished(g) about each, as if it were alone:
--- why to stop after it, or nil. g.watch(token), where it is set, is asked first. What is pending behind a reason is
--- taken back. Returns the reason. If finished() fails or is interrupted, the next commit() asks for that token again.
function Generation:commit(finished)
    turns.hold(false)
    self._finished = finished
    local reason, timed = nil, self._pushed ~= nil
    while not reason and (self._asking or self.pending[1]) do
        if not self._asking then make_count(self, timed) end
        reason = ask(self, finished)
    end
    self:_take_back()
    return reason
end

-- ---- why to stop: what finished() asks about the newest token

--- "stop string" if the newest token has completed one of the texts `stops`; the text then ends before it.
function Generation:reached(stops)
    local longest, window, at = 0, "", #self._pieces
    for _, stop in ipairs(stops or {}) do longest = math.max(longest, #tostring(stop)) end
    if longest == 0 then return nil end
    local newest = #self._pieces[at]
    while at > 0 and #window < newest + longest - 1 do -- all that a stop string can begin in
        window, at = self._pieces[at] .. window, at - 1
    end
    local first
    for _, stop in ipairs(stops) do
        stop = tostring(stop)
        local found = stop ~= "" and window:find(stop, math.max(1, #window - newest - #stop + 2), true)
        if found and (not first or found < first) then first = found end
    end
    if not first then return nil end
    self._found = self._bytes - #window + first - 1
    return "stop string"
end

--- "end" if the newest token ends a text.
function Generation:ended()
    return self.model.tokenizer:is_end(self.tokens[#self.tokens].id) and "end" or nil
end

--- "length" if no token may follow: the limit of this generation, or the context of the model.
function Generation:full()
    local full = #self.tokens >= self.limit or #self.prompt_ids + #self.tokens >= self.model:config().context
    return full and "length" or nil
end

-- ---- looking at it

--- g:why(i) -> the alternatives at token i, best first: { { id, text, p, after }, ... } with probabilities of the model
--- and after the samplers; printing it shows a table.
function Generation:why(i)
    local token = self.tokens[i]
    if not token then error(("why %s? This generation has the tokens 1 to %d"):format(tostring(i), #self.tokens), 2) end
    return tokens.why(token)
end

return M
