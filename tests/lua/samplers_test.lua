-- Candidates and samplers against a naive implementation that sorts everything, and statistically.
local ffi = require "ffi"
local candidates = require "moonloom.candidates"
local logits_view = require "moonloom.logits"
local random = require "moonloom._core.random"
require "moonloom"
local samplers = require "recipes.samplers"
local sentence_of = require "helpers.sentence"

-- A logits object over a Lua list (id 0 first).
local function logits_of(values)
    local array = ffi.new("float[?]", #values)
    for i, value in ipairs(values) do array[i - 1] = value end
    return logits_view.view(array, #values, { epoch = ffi.new("double[1]"), array = array })
end

-- The naive twin: a sorted list of { id, logit } in doubles.
local Naive = {}
Naive.__index = Naive

local function naive_of(values)
    local list = {}
    for i, value in ipairs(values) do list[i] = { id = i - 1, logit = tonumber(ffi.cast("float", value)) } end
    return setmetatable({ list = list }, Naive):sort()
end

function Naive:sort()
    table.sort(self.list, function(a, b) return a.logit > b.logit or a.logit == b.logit and a.id < b.id end)
    while #self.list > 0 and self.list[#self.list].logit == -math.huge do table.remove(self.list) end
    local sum = 0
    for _, entry in ipairs(self.list) do sum = sum + math.exp(entry.logit - self.list[1].logit) end
    for _, entry in ipairs(self.list) do entry.p = math.exp(entry.logit - self.list[1].logit) / sum end
    return self
end

function Naive:cut(count)
    for i = #self.list, math.max(count, 1) + 1, -1 do self.list[i] = nil end
    return self:sort()
end

local naive = {}

function naive.top_k(self, k)
    self:cut(k)
end

function naive.top_p(self, p)
    local sum = 0
    for i, entry in ipairs(self.list) do
        sum = sum + entry.p
        if sum >= p then return self:cut(i) end
    end
end

function naive.min_p(self, p)
    local count = 0
    for _, entry in ipairs(self.list) do
        if entry.p >= p * self.list[1].p * (1 - 1e-12) then count = count + 1 end
    end
    self:cut(count)
end

function naive.temperature(self, t)
    for _, entry in ipairs(self.list) do entry.logit = entry.logit / t end
    self:sort()
end

function naive.repetition_penalty(self, penalty, context)
    local seen = {}
    for _, id in ipairs(context.tokens) do seen[id] = true end
    for _, entry in ipairs(self.list) do
        if seen[entry.id] then
            entry.logit = entry.logit > 0 and entry.logit / penalty or entry.logit * penalty
        end
    end
    self:sort()
end

local function same(expected, actual, what)
    assert.equal(#expected.list, actual:count(), what)
    local top = actual:top(actual:count())
    for i, entry in ipairs(expected.list) do
        assert.is_true(math.abs(entry.p - top[i].p) <= 1e-9 + 1e-9 * entry.p, what .. ": probability at rank " .. i)
        if entry.id ~= top[i].id then -- only where rounding makes a tie
            assert.is_true(math.abs(entry.logit - top[i].logit) < 1e-9, what .. ": order at rank " .. i)
        end
    end
end

local function random_values(n, spread, digits)
    local values = {}
    for i = 1, n do
        local value = (math.random() - 0.5) * spread
        values[i] = digits and math.floor(value * 10 ^ digits) / 10 ^ digits or value
    end
    return values
end

describe("candidates", function()
    it("agree with sorting everything, in random chains over random logits", function()
        math.randomseed(5)
        local names = { "top_k", "top_p", "min_p", "temperature", "repetition_penalty" }
        local arguments = {
            top_k = function(n) return math.random(1, n) end,
            top_p = function() return math.random() end,
            min_p = function() return math.random() ^ 3 end,
            temperature = function() return 0.2 + 2 * math.random() end,
            repetition_penalty = function() return 0.8 + math.random() end,
        }
        for round = 1, 400 do
            local n = math.random(1, 700)
            local values = random_values(n, ({ 0.01, 5, 40 })[math.random(3)], math.random(2) == 1 and 1 or nil)
            local context, trail = { tokens = {} }, {}
            for i = 1, math.random(0, 30) do context.tokens[i] = math.random(0, n - 1) end
            local expected, actual = naive_of(values), candidates.new(logits_of(values))
            for i = 1, math.random(1, 4) do
                local name = names[math.random(#names)]
                local argument = arguments[name](n)
                trail[i] = ("%s %g"):format(name, argument)
                naive[name](expected, argument, context)
                samplers[name](actual, argument, context)
            end
            same(expected, actual, ("round %d, n %d: %s"):format(round, n, table.concat(trail, ", ")))
        end
    end)

    it("take changes before and after something was dropped", function()
        local c = candidates.new(logits_of { 3, 2, 1, 0 })
        c:add(3, 10)
        assert.equal(3, (c:best()))
        c:ban(3)
        assert.equal(3, c:count())
        assert.equal(0, (c:best()))
        c:keep(2)
        c:set(1, 9)
        assert.equal(1, (c:best()))
        c:set(2, 100) -- dropped: stays so
        assert.equal(1, (c:best()))
        assert.equal(0, c:probability(2))
        c:ban(1)
        assert.equal(1, c:count())
        assert.equal(1, c:probability(0))
        c:ban(0)
        assert.equal(0, c:count())
        assert.has_error(function() c:best() end)
        assert.has_error(function() c:sample(0.5) end, "the samplers left no candidate")
    end)

    it("are exact on flat distributions and ties", function()
        local values = {}
        for i = 1, 1000 do values[i] = 1.5 end
        local c = candidates.new(logits_of(values))
        assert.equal(500, c:rank_of_mass(0.4999))
        c:keep(c:rank_of_mass(0.5))
        assert.is_true(c:count() == 500 or c:count() == 501)
        assert.equal(0, (c:best()))
        c:keep_above(1.5)
        assert.is_true(c:count() >= 500)
    end)

    it("refuse what has no probabilities, with a sentence", function()
        assert.has_error(function() candidates.new(logits_of { 1, 0 / 0 }):sample(0.5) end,
            "the logits are not finite: there are no probabilities to sample from")
        assert.has_error(function() candidates.new(logits_of { 1, math.huge }):sample(0.5) end,
            "the logits are not finite: there are no probabilities to sample from")
        assert.has_error(function() candidates.new(logits_of { 0 / 0, 0 / 0 }):sample(0.5) end,
            "the logits are not finite: there are no probabilities to sample from")
        assert.truthy(sentence_of(function() candidates.new(logits_of { 0 / 0, 0 / 0 }):best() end)
            :find("the logits are not finite", 1, true))
        assert.has_error(function() candidates.new(logits_of { 1 }):logit(7) end)
        assert.has_error(function() candidates.new(logits_of { 1 }):set(0, 0 / 0) end)
        assert.has_error(function() candidates.new(logits_of { 1 }):scale(0) end)
    end)

    it("draw with the right frequencies, over all tokens and over a few", function()
        local values = { 0, 1, 2, 0.5, -math.huge, 1.5, -3, 2 }
        for _, kept in ipairs { 8, 4 } do
            local c = candidates.new(logits_of(values))
            c:add(3, 0.7)
            c:scale(0.8)
            c:keep(kept)
            local counts, draws = {}, 40000
            for i = 1, draws do
                local id = c:sample(random.uniform(11, i, 0))
                counts[id] = (counts[id] or 0) + 1
            end
            local chi, cells = 0, 0
            for id = 0, 7 do
                local expected = c:probability(id) * draws
                if expected > 0 then
                    chi, cells = chi + ((counts[id] or 0) - expected) ^ 2 / expected, cells + 1
                else
                    assert.is_nil(counts[id])
                end
            end
            assert.equal(kept == 8 and 7 or 4, cells)
            assert.is_true(chi < 24, "chi-square " .. chi) -- 0.1 % of six degrees of freedom is 22.5
        end
    end)

    it("draw the ends of the range, and where all weight lies on changed tokens", function()
        local c = candidates.new(logits_of { 1, 1, 1 })
        assert.equal(0, c:sample(0))
        assert.equal(2, c:sample(1 - 2 ^ -53))
        c = candidates.new(logits_of { -math.huge, 1, -math.huge })
        c:set(0, 5)
        c:ban(1)
        assert.equal(0, c:sample(1 - 2 ^ -53))
    end)

    it("handle a vocabulary of 201,088", function()
        local n = 201088
        local array = ffi.new("float[?]", n)
        for i = 0, n - 1 do array[i] = 4 * math.sin(i * 0.37) end
        local logits = logits_view.view(array, n, { epoch = ffi.new("double[1]"), array = array })
        local c = candidates.new(logits)
        local count = c:rank_of_mass(0.9)
        c:keep(count)
        assert.equal(count, c:count())
        local worst, all, better = c:top(count)[count].logit, 0, 0
        for i = 0, n - 1 do
            local weight = math.exp(array[i])
            all = all + weight
            if array[i] > worst then better = better + weight end
        end
        assert.is_true(better < 0.9 * all)
        for i = 0, n - 1 do
            if array[i] == worst then better = better + math.exp(array[i]) end
        end
        assert.is_true(better >= 0.9 * all)
        assert.is_true(count > 10000 and count < n)
    end)
end)

describe("sampler chains", function()
    it("are checked, and run names and functions in order", function()
        assert.has_error(function() samplers.chain { "tempreature" } end)
        local seen = {}
        local chain = samplers.chain {
            function(c, context) seen[#seen + 1] = { c:count(), context.position } end,
            { "top_k", 2 },
            function(c) seen[#seen + 1] = c:count() end,
            "greedy",
        }
        local id = samplers.choose(chain, candidates.new(logits_of { 1, 5, 3 }), { position = 9, tokens = {} })
        assert.equal(1, id)
        assert.same({ { 3, 9 }, 2 }, seen)
    end)

    it("at temperature 0 take the best, before anything else is drawn", function()
        local chain = samplers.chain(samplers.usual { temperature = 0, top_k = 0, top_p = 1, min_p = 0,
            repetition_penalty = 1 })
        assert.equal(2, samplers.choose(chain, candidates.new(logits_of { 1, 2, 2.5 }), { tokens = {} }))
    end)
end)

describe("random numbers", function()
    it("are SplitMix64's on every machine", function() -- the numbers come from a twin in Python
        assert.equal(0.02708375424206655, random.uniform(1234567, 0, 0))
        assert.equal(0.3726981455032703, random.uniform(0, 100, 3))
        assert.equal(0.582769327020048, random.uniform(-5, 7, 1))
    end)

    it("are uniform, and independent of the order in which they are drawn", function()
        local bins, n = {}, 20000
        for position = 1, n do
            local bin = math.floor(random.uniform(42, position, 0) * 16)
            bins[bin] = (bins[bin] or 0) + 1
        end
        local chi = 0
        for bin = 0, 15 do chi = chi + (bins[bin] - n / 16) ^ 2 / (n / 16) end
        assert.is_true(chi < 37.7, "chi-square " .. chi) -- 0.1 % of 15 degrees of freedom
        local later = random.uniform(7, 100, 3)
        random.uniform(7, 5, 0)
        assert.equal(later, random.uniform(7, 100, 3))
        assert.are_not.equal(later, random.uniform(8, 100, 3))
        assert.are_not.equal(later, random.uniform(7, 101, 3))
        assert.are_not.equal(later, random.uniform(7, 100, 2))
    end)
end)
