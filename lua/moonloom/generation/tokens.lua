--- The tokens of a generation, and what else could have stood in their places.
local ffi = require "ffi"
local candidates = require "moonloom.candidates"
local terminal = require "moonloom._core.terminal"

local M = {}

local KEPT = 20 -- alternatives that are remembered for each token

-- A list of { id, p } packed into C arrays: { n, ids, logprobs }.
local function pack(list)
    local packed = { n = #list, ids = ffi.new("int32_t[?]", #list), logprobs = ffi.new("float[?]", #list) }
    for i, entry in ipairs(list) do packed.ids[i - 1], packed.logprobs[i - 1] = entry.id, math.log(entry.p) end
    return packed
end

local function unpack_ranking(packed)
    local list = {}
    for i = 1, packed.n do list[i] = { id = packed.ids[i - 1], logprob = packed.logprobs[i - 1] } end
    return list
end

-- Keeps of the candidates `left`, which the sampler chain has been through, what else could have stood there.
local function remember(token, left)
    local list, logsumexp = left:before(KEPT)
    token.logprob = left.logits[token.id] - logsumexp
    token._before, token._after = pack(list), pack(left:top(KEPT))
end

-- Works out what is not known of a token, of a pass that gave the best one alone: from a fork of the session, so the
-- numbers are those of a pass of its own.
local function look_back(token)
    local g, before = token._of, {}
    for i = 1, #g.prompt_ids + token._index - 1 do before[i] = g.all[i] end
    local session = g.session:fork(math.min(#before, g.session.position))
    session:sync(before)
    local left = candidates.new(session:logits())
    if token._best then left:keep(1) end
    remember(token, left)
    session:close()
end

local Token = {}

local looked_up = { logprob = true, _before = true, _after = true }

function Token:__index(key)
    if key == "top" then return unpack_ranking(self._before) end
    if key == "p" then return math.exp(self.logprob) end
    if not looked_up[key] or not rawget(self, "_of") then return nil end
    look_back(self)
    return rawget(self, key)
end

function Token:__tostring()
    return ("%s (%d), p %.3f"):format(terminal.quote(self.text), self.id, self.p)
end

--- Token `id` at place `index` of generation `g`: { id, text, logprob, p, top }. `left` are the candidates that it was
--- chosen from; without them, or where they were the best one alone, the last three are worked out when they are asked
--- for.
function M.new(g, index, id, left)
    local token = setmetatable({ id = id, text = g.model.tokenizer:piece(id), _of = g, _index = index }, Token)
    if left and left.logits then remember(token, left) else token._best = left ~= nil end
    return token
end

--- The same token in another generation that begins alike.
function M.copy(token, g)
    local copy = setmetatable({}, Token)
    for key, value in pairs(token) do copy[key] = value end
    copy._of = g
    return copy
end

local Why = {}
Why.__index = Why

--- The alternatives at `token`, best first: see Generation:why().
function M.why(token)
    local list, after, chosen_is_there = { chosen = token, index = token._index }, {}, false
    local tokenizer, top = token._of.model.tokenizer, token.top
    for _, entry in ipairs(unpack_ranking(token._after)) do after[entry.id] = math.exp(entry.logprob) end
    local function add(id, logprob)
        list[#list + 1] = { id = id, text = tokenizer:piece(id), p = math.exp(logprob), after = after[id] or 0 }
        chosen_is_there = chosen_is_there or id == token.id
    end
    for _, entry in ipairs(top) do add(entry.id, entry.logprob) end
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

return M
