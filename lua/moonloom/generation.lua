--- A generation: a prompt, the tokens that followed, what else could have stood there, and the session to go on from.
--
--     g.text  g.ids  g.stop  g.prompt  g.prompt_ids  g.session  g.seed  print(g)
--     g.tokens[i]     { id, text, logprob, top = { { id, logprob }, ... } }, i from 1
--     g:why(i)        what else could have stood at i, before and after the samplers
--     g:fork(i, { id = | text = | temperature = ... })    another way from token i on
--     g:resume{ max_tokens = 100 }                        goes on after "interrupted" or "length"
--
-- The loop that makes tokens is a recipe (recipes/generate.lua); this is what it works on. The session may be behind
-- (after an interrupt) or elsewhere (a chat went on): prepare() and advance() feed whatever is missing.
local ffi = require "ffi"
local candidates = require "moonloom.candidates"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local random = require "moonloom._core.random"
local recipe = require "moonloom.recipe.live"
local terminal = require "moonloom._core.terminal"
local C = ml.C

local M = {}

local Generation = {}
local Token = {}

local KEPT = 20 -- alternatives that are remembered for each token

-- ---- tokens

-- The best of some candidates packed into C arrays: { n, ids, logprobs }.
local function pack(left)
    local list = left:top(KEPT)
    local packed = { n = #list, ids = ffi.new("int32_t[?]", #list), logprobs = ffi.new("float[?]", #list) }
    for i, entry in ipairs(list) do packed.ids[i - 1], packed.logprobs[i - 1] = entry.id, math.log(entry.p) end
    return packed
end

local function unpack_ranking(packed)
    local list = {}
    for i = 1, packed.n do list[i] = { id = packed.ids[i - 1], logprob = packed.logprobs[i - 1] } end
    return list
end

function Token:__index(key)
    if key == "top" then return rawget(self, "_before") and unpack_ranking(self._before) end
    if key == "p" then return self.logprob and math.exp(self.logprob) end
end

function Token:__tostring()
    if not self.logprob then return ("%s (%d)"):format(terminal.quote(self.text), self.id) end
    return ("%s (%d), p %.3f"):format(terminal.quote(self.text), self.id, self.p)
end

-- ---- making one

--- A generation that has not begun: { model, session, prompt_ids, prompt (text, if it was text), parameters, recipe }.
-- `recipe` is the live recipe whose chain(parameters) and loop(generation) are used.
function M.new(options)
    local self = setmetatable(options, Generation)
    self.tokens, self.seed = {}, options.parameters.seed or random.fresh_seed()
    self.limit = options.parameters.max_tokens
    self.all = {} -- ids of prompt and tokens
    for i, id in ipairs(options.prompt_ids) do self.all[i] = id end
    self.chain = self.recipe.chain(options.parameters)
    self._decoder, self._pieces = options.model.tokenizer:decoder(), {}
    local pieces = {}
    for i, id in ipairs(options.prompt_ids) do pieces[i] = self._decoder:push(id) end
    self.prompt = options.prompt or table.concat(pieces)
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
    self.times.fed = self.times.fed + fed
    self.times.prefill_ms = self.times.prefill_ms + C.ml_time_now() - self.began
end

--- Feeds the newest token if the session does not have it yet, and takes up recipes that were saved meanwhile.
function Generation:advance()
    recipe.poll()
    local missing = #self.all - self.session.position
    if missing > 0 then self.session:step(self.all[#self.all]) end
end

--- The best next token, for push(); without the logits of the others where the newest token is still to be fed.
function Generation:best()
    recipe.poll()
    local id, logit
    if #self.all > self.session.position then
        id, logit = self.session:best(self.all[#self.all])
    else
        id, logit = self.session:logits():argmax()
    end
    if logit ~= logit or math.abs(logit) == math.huge then
        error("the logits are not finite: there is no best token", 0)
    end
    return id
end

--- Fresh candidates for the next token.
function Generation:candidates()
    local all = candidates.new(self.session:logits())
    self._before, self._lse = pack(all), all:logsumexp()
    return all
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

-- What else could have stood where `token` is, of the logits in `left`, which the sampler chain has been through.
local function remember(token, before, lse, left)
    token.logprob = left.logits[token.id] - lse
    token._before, token._after = before, pack(left)
end

--- Adds token `id`, chosen from what the sampler chain left of `left`; of one that best() gave nothing else is known.
--- Returns the token.
function Generation:push(id, left)
    local token = setmetatable({ id = id, text = self.model.tokenizer:piece(id) }, Token)
    if left then remember(token, self._before, self._lse, left) end
    local index, tokenizer = #self.tokens + 1, self.model.tokenizer
    self._pieces[index] = tokenizer:is_end(id) and "" or self._decoder:push(id)
    self.all[#self.all + 1] = id
    self.tokens[index] = token
    local now, before, times = C.ml_time_now(), rawget(self, "_pushed"), self.times
    self._pushed = now
    if before then times.steps, times.decode_ms = times.steps + 1, times.decode_ms + now - before end
    if not rawget(self, "ttft_ms") then self.ttft_ms = now - self.began end
    return token
end

-- Where the first of the stop strings begins in the text, looking only at what the last token can have finished.
local function find_stop(self)
    local stops = self.parameters.stop
    if not stops or #stops == 0 then return nil end
    local text, first = table.concat(self._pieces), nil
    local last = self._pieces[#self._pieces]
    for _, stop in ipairs(stops) do
        stop = tostring(stop)
        local at = stop ~= "" and text:find(stop, math.max(1, #text - #last - #stop + 1), true)
        if at and (not first or at < first) then first = at end
    end
    return first
end

--- Why to stop after the newest token ("end", "stop string", "length"), or nil to go on. g.watch(token), where it is
--- set, is asked first.
function Generation:finished()
    local newest, watch = self.tokens[#self.tokens], rawget(self, "watch")
    local reason = watch and watch(newest)
    if reason then return reason end
    local at = find_stop(self)
    if at then
        self.cut = at - 1
        return "stop string"
    end
    if self.model.tokenizer:is_end(newest.id) then return "end" end
    if #self.tokens >= self.limit or #self.all >= self.model:config().context then return "length" end
end

--- Gives the text that is new and certain to `write(text, token)`: what may yet be a stop string waits until `all`.
function Generation:stream(write, all)
    local hold = 0
    for _, stop in ipairs(not all and self.parameters.stop or {}) do hold = math.max(hold, #tostring(stop) - 1) end
    local written, safe, ends = self._written or 0, #self.text - hold, 0
    for i, piece in ipairs(self._pieces) do
        local start = ends
        ends = ends + #piece
        if ends > written and (ends <= safe or all) then
            write(self.text:sub(math.max(start, written) + 1, ends), self.tokens[i])
            written = math.min(ends, #self.text)
        end
    end
    self._written = written
end

-- ---- going on

-- Another generation with the first `count` tokens of this one and changed parameters.
local function branch(self, count, changes)
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
        local token = self.tokens[i]
        other.tokens[i] = token
        other.all[#other.all + 1] = token.id
        other._pieces[i] = other._decoder:push(token.id)
    end
    other._written = #other.text
    other.limit = changes.max_tokens and count + changes.max_tokens or math.max(self.limit, count + 1)
    return other
end

local function check_changes(self, changes, verb)
    local arguments = require "moonloom.recipe.arguments"
    local known = {}
    for name, value in pairs(changes) do
        if name ~= "id" and name ~= "text" then known[name] = value end
    end
    local checked = arguments.check(verb, self.recipe.parameters, known)
    for name in pairs(known) do known[name] = checked[name] end
    return known
end

-- Puts tokens in that nobody chose.
local function force(self, ids)
    for _, id in ipairs(ids) do
        self:advance()
        self:push(id, self:candidates())
    end
    self.limit = math.max(self.limit, #self.tokens + 1)
end

--- g:fork(i, { id =, text =, or any parameter of generate }) -> another generation.
-- It has the tokens before i; then the given token or text, if any; then goes on, with the parameters of this one where
-- none are given. The cache is shared, and copied only where the two differ. Without changes it draws with a new seed.
function Generation:fork(i, changes)
    if type(i) ~= "number" or i % 1 ~= 0 or i < 1 or i > #self.tokens + 1 then
        error(("fork at %s? This generation has the tokens 1 to %d"):format(tostring(i), #self.tokens), 2)
    end
    changes = given.options(changes, "fork")
    local parameters = check_changes(self, changes, "fork")
    if next(changes) == nil then parameters.seed = random.fresh_seed() end
    local other = branch(self, i - 1, parameters)
    other:prepare()
    local ids = changes.id and { changes.id }
    if changes.text then ids = self.model:tokenize(changes.text, { special = true }) end
    if ids then force(other, ids) end
    return self.recipe.loop(other)
end

--- g:resume{ max_tokens = } goes on where it stopped, at the length or interrupted. Returns the same generation.
function Generation:resume(changes)
    changes = check_changes(self, given.options(changes, "resume"), "resume")
    if self.stop == "end" then error("this generation ended by itself; fork it to go another way", 2) end
    for key, value in pairs(changes) do self.parameters[key] = value end
    self.seed = changes.seed or self.seed
    if changes.max_tokens then
        self.limit = #self.tokens + changes.max_tokens
    elseif self.stop == "length" then
        self.limit = #self.tokens + math.max(1, self.parameters.max_tokens)
    end
    self.chain = self.recipe.chain(self.parameters)
    return self.recipe.loop(self)
end

-- ---- looking at it

-- Works out what is not known of token i, one that best() gave.
local function look_back(self, i)
    local other, token = branch(self, i - 1, {}), self.tokens[i]
    other:prepare()
    local left = other:candidates()
    left:keep(1)
    remember(token, other._before, other._lse, left)
    other.session:close()
end

local Why = {}
Why.__index = Why

--- g:why(i) -> the alternatives at token i, best first: { { id, text, p, after }, ... } with probabilities of the model
--- and after the samplers; printing it shows a table.
function Generation:why(i)
    local token = self.tokens[i]
    if not token then error(("why %s? This generation has the tokens 1 to %d"):format(tostring(i), #self.tokens), 2) end
    if not token.logprob then look_back(self, i) end
    local list, after, chosen_is_there = { chosen = token, index = i }, {}, false
    for _, entry in ipairs(unpack_ranking(token._after)) do after[entry.id] = math.exp(entry.logprob) end
    local function add(id, logprob)
        list[#list + 1] = {
            id = id, text = self.model.tokenizer:piece(id), p = math.exp(logprob), after = after[id] or 0,
        }
        chosen_is_there = chosen_is_there or id == token.id
    end
    for _, entry in ipairs(token.top) do add(entry.id, entry.logprob) end
    if not chosen_is_there then add(token.id, token.logprob) end
    return setmetatable(list, Why)
end

local SHOWN = 10

function Why:__tostring()
    local lines = { ("token %d: %s"):format(self.index, tostring(self.chosen)), "        id   model  samplers  text" }
    for i, entry in ipairs(self) do
        if i <= SHOWN or entry.id == self.chosen.id then
            lines[#lines + 1] = ("%s %8d  %6.4f    %6.4f  %s"):format(entry.id == self.chosen.id and "*" or " ",
                entry.id, entry.p, entry.after, terminal.quote(entry.text))
        end
    end
    return table.concat(lines, "\n")
end

local function rate(count, ms)
    return count > 0 and ms > 0 and count / ms * 1000 or nil
end

--- Generated tokens a second, samplers and all: from token to token, so without the first.
function Generation:speed()
    return rate(self.times.steps, self.times.decode_ms)
end

--- One line: how many tokens, how fast, why it stopped.
function Generation:summary()
    local parts = { ("%d tokens (%s)"):format(#self.tokens, self.stop or "not begun") }
    local speed, prefill = self:speed(), rate(self.times.fed, self.times.prefill_ms)
    if speed then parts[#parts + 1] = ("%.1f t/s"):format(speed) end
    if rawget(self, "ttft_ms") then parts[#parts + 1] = ("first after %.0f ms"):format(self.ttft_ms) end
    if prefill then parts[#parts + 1] = ("prompt of %d at %.0f t/s"):format(#self.prompt_ids, prefill) end
    return table.concat(parts, ", ")
end

--- The JSON value of a generation; the bandwidth only if it was measured (self.read_bandwidth).
function Generation:json()
    local speed, bytes = self:speed(), self.model:bytes_per_token()
    local bandwidth = rawget(self, "read_bandwidth") or 0 / 0
    local reads_all = not self.parameters.only_best -- which reads less: nobody counts how much
    return {
        text = self.text, prompt_ids = self.prompt_ids, ids = self.ids, stop = self.stop, seed = self.seed,
        load_ms = self.model.load_ms, ttft_ms = rawget(self, "ttft_ms") or 0 / 0,
        tokens_per_second = speed or 0 / 0,
        prefill_tokens_per_second = rate(self.times.fed, self.times.prefill_ms) or 0 / 0,
        peak_bytes = rawget(self, "peak_bytes") or tonumber(C.ml_memory_peak()),
        weight_bytes_per_token = bytes, read_bandwidth = bandwidth,
        bandwidth_share = reads_all and speed and bytes * speed / bandwidth or 0 / 0,
    }
end

--- Prompt and text; on a terminal each token is tinted by its probability.
function Generation:__tostring()
    if not terminal.has_colour(1) then return self.prompt .. self.text end
    local parts, left = { terminal.dim(self.prompt) }, #self.text
    for i, piece in ipairs(self._pieces) do
        parts[#parts + 1] = terminal.tint(piece:sub(1, left), self.tokens[i].p)
        left = math.max(0, left - #piece)
    end
    return table.concat(parts)
end

return M
