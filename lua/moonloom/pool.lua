--- Loops side by side: requests whose tokens go through the model in the same passes.
--
--     local pool = moonloom.pool()
--     for seed = 1, 20 do pool:add(generate, { prompt = "Once upon a time", seed = seed }) end
--     local values = pool:run()      -- what each of them returned, in order
--
-- A request is a recipe with its arguments, or any function with its own. It runs as a coroutine and need not know:
-- where it feeds a token (session:step, best, verify, and so g:advance), it waits, and one pass does all that wait. On
-- plain caches each gets the numbers that it gets alone; under a policy that rounds it does so in a cache of its own,
-- as with kv = { bits = 8 }. Requests of different caches take different passes.
--
-- A request that fails stops for itself: its value is then the generation with stop = "error" and a problem, or, if
-- there is none, a table { stop, problem, trace }. pool:cancel(i) stops one as Ctrl-C would; Ctrl-C stops all.
-- pool:resume() goes on with all that were stopped. print(values) shows them, values:json() is for JSON.
--
-- Which of those that wait go next is a recipe, recipes/schedule.lua. pool.passes, pool.rows and pool.most tell how
-- many passes there were, of how many rows in all, and of how many at most.
local arguments = require "moonloom.recipe.arguments"
local desk = require "moonloom.desk"
local given = require "moonloom._core.expect"
local interrupt = require "moonloom._core.interrupt"
local live = require "moonloom.recipe.live"
local ml = require "moonloom._core.ffi"
local policy = require "moonloom.cache.policy"
local progress = require "moonloom._core.progress"
local turns = require "moonloom._core.turns"

local M = {}

local ROWS = 64

local Pool, Values, Problem = {}, {}, {}
Pool.__index, Values.__index, Problem.__index = Pool, Values, Problem

-- ---- what comes out

function Problem:__tostring()
    return self.problem
end

function Problem:json()
    return { stop = self.stop, problem = self.problem }
end

function Values:__tostring()
    local lines = {}
    for i, value in ipairs(self) do
        local failed = type(value) == "table" and value.stop == "error" and getmetatable(value) ~= Problem
        lines[i] = ("[%d] %s%s"):format(i, tostring(value), failed and "\n    error: " .. tostring(value.problem) or "")
    end
    return table.concat(lines, "\n")
end

function Values:json()
    local list = {}
    for i, value in ipairs(self) do list[i] = type(value) == "table" and value.json and value:json() or value end
    return list
end

-- A request came to its end: with a value (true if it returned none), or an error. A generation that was to go on stays
-- the value, so that it can be resumed again.
local function finish(self, request, fine, value)
    if not fine and request.resumed then
        request.resumed.stop, request.resumed.problem = "error", tostring(value)
        value = request.resumed
    elseif not fine then
        value = setmetatable({ stop = interrupt.is_interrupt(value) and "interrupted" or "error",
            problem = tostring(value), trace = debug.traceback(request.thread) }, Problem)
    elseif value == nil then
        value = true
    end
    self.values[request.index] = value
    request.done, request.thread, request.scope, request.wants = true, nil, nil, nil
    self.open = self.open - 1
end

-- ---- running one

-- What a call sets for itself goes with its request: exchanges that of the pool and that of a request.
local function exchange(scope)
    local before = { kv = policy.default, last = desk.last, chat = desk.chat, interactive = desk.interactive,
        quiet = progress.quiet }
    policy.default, progress.quiet = scope.kv, scope.quiet
    desk.last, desk.chat, desk.interactive = scope.last, scope.chat, scope.interactive
    return before
end

-- Lets a request run until it waits again, or ends. It is resumed with a batch and a row, with nothing, or with false
-- to stop. A press of Ctrl-C that it met, or that nobody took, is for all.
local function resume(self, request, ...)
    local outer, taken = exchange(request.scope), interrupt.taken
    local fine, value = turns.resume(request, ...)
    request.scope = exchange(outer)
    if interrupt.taken > taken then self.stopping, request.told = true, true end
    if interrupt.take() then self.stopping = true end
    if coroutine.status(request.thread) == "dead" then
        finish(self, request, fine, value)
    else
        request.since = self.passes
        self.line[#self.line + 1] = request
    end
end

local function begin(self, request)
    self.open = self.open + 1
    request.scope = { kv = policy.default, interactive = false, quiet = true }
    request.thread = coroutine.create(request.f)
    resume(self, request, unpack(request.arguments))
end

-- ---- passes

-- One pass of the rows of all requests in `group`, which share a cache; the policy waits. Returns the batch.
local function forward(self, group)
    local model, rows = group[1].wants.session.model, 0
    for _, request in ipairs(group) do rows = rows + #request.wants.ids end
    local batch = model:grown_batch(self.batches[model], rows)
    self.batches[model] = batch
    batch:clear()
    for _, request in ipairs(group) do
        local wants = request.wants
        request.before = batch:rows()
        for i, id in ipairs(wants.ids) do batch:add(wants.session, id, i >= wants.from and wants.want) end
    end
    return batch:forward(true)
end

local function count(self, group)
    local rows = 0
    for _, request in ipairs(group) do rows = rows + #request.wants.ids end
    self.passes, self.rows, self.most = self.passes + 1, self.rows + rows, math.max(self.most, rows)
end

-- Applies the policy of a cache after a pass.
local function settle(self, cache, position)
    local taken, fine, problem = interrupt.taken, pcall(cache.settle, cache, position)
    if fine then return end
    interrupt.take()
    if interrupt.taken > taken then self.stopping = true end
    if not interrupt.is_interrupt(problem) then live.reporter(tostring(problem)) end
end

-- A pass of requests that share a cache. One by itself makes it in its own batch, as if there were no pool, and so does
-- each of them where the pass of all fails: then the error has an owner.
local function pass(self, group)
    local cache, position, fine, batch = group[1].wants.cache, 0, true, nil
    if #group > 1 then fine, batch = pcall(forward, self, group) end
    if not fine and interrupt.is_interrupt(batch) then
        interrupt.take()
        self.stopping = true
        for _, request in ipairs(group) do
            request.told = true
            resume(self, request, false)
        end
    elseif not fine or #group == 1 then
        for _, request in ipairs(group) do
            count(self, { request })
            resume(self, request)
        end
    else
        count(self, group)
        for _, request in ipairs(group) do position = math.max(position, request.wants.session.position) end
        for _, request in ipairs(group) do resume(self, request, batch, request.before) end
        if cache.handle then settle(self, cache, position) end
    end
end

-- ---- whose turn it is

live.judge("^schedule$", function(value)
    if type(value.next) ~= "function" then return "a schedule returns { next = function(list, rows) }" end
end)

-- What the recipe says, or all that wait. It is asked safely: an error in it is told once and stops nobody.
local function ask(self, list)
    local taken, fine, chosen = interrupt.taken, pcall(function()
        return require("recipes.schedule").next(list, self.capacity)
    end)
    interrupt.take()
    if interrupt.taken > taken then self.stopping = true end
    if fine and type(chosen) == "table" and #chosen > 0 then return chosen end
    local problem = fine and "its next() returns nobody" or tostring(chosen)
    if problem ~= self.told and not self.stopping then
        live.reporter(("recipes/schedule.lua cannot be used: %s\n    requests go in turn"):format(problem))
    end
    self.told = problem
    return list
end

-- Takes those out of the line that go into the next passes.
local function choose(self)
    local list, waiting, chosen, rows = {}, {}, {}, 0
    for i, request in ipairs(self.line) do
        list[i] = { index = request.index, waited = self.passes - request.since,
            rows = request.wants and #request.wants.ids or 0 }
        waiting[request.index] = request
    end
    if #list == 0 then return {} end
    for _, item in ipairs(ask(self, { unpack(list) })) do
        local request = type(item) == "table" and waiting[item.index]
        local more = request and request.wants and #request.wants.ids or 0
        if request and (rows == 0 or rows + more <= self.capacity) then
            chosen[#chosen + 1], rows, waiting[item.index] = request, rows + more, nil
        end
    end
    local line = {}
    for _, request in ipairs(self.line) do
        if waiting[request.index] then line[#line + 1] = request end
    end
    self.line = line
    return chosen
end

-- Requests by their caches, in order.
local function groups(self, chosen)
    local list, of = {}, {}
    for _, request in ipairs(chosen) do
        local cache = request.wants and request.wants.cache
        if not cache then -- it gave way without wanting anything
            resume(self, request)
        elseif of[cache] then
            table.insert(of[cache], request)
        else
            of[cache] = { request }
            list[#list + 1] = of[cache]
        end
    end
    return list
end

-- Tells all requests in the line that are not told yet, or are to be cancelled, to stop.
local function stop_waiting(self)
    local line = self.line
    self.line = {}
    for _, request in ipairs(line) do
        if request.cancelled or self.stopping and not request.told then
            request.cancelled, request.told = nil, self.stopping
            resume(self, request, false)
        else
            self.line[#self.line + 1] = request
        end
    end
end

-- Ctrl-C is for all: also those that have not begun, which then stop before they read their prompt.
local function stop_all(self)
    self.stop = "interrupted"
    stop_waiting(self)
    for _, request in ipairs(self.requests) do
        if not request.done and not request.thread then
            ml.C.ml_interrupt_set(1)
            begin(self, request)
        end
    end
    for _, request in ipairs(self.requests) do request.told = nil end
    self.stopping = false
end

local function open_more(self)
    for _, request in ipairs(self.requests) do
        if self.open >= self.capacity or self.stopping then return end
        if not request.done and not request.thread then begin(self, request) end
    end
end

-- How many requests came to their ends.
local function ended(self)
    local done = 0
    for _, request in ipairs(self.requests) do done = done + (request.done and 1 or 0) end
    return done
end

local function work(self)
    local bar = progress.start { label = "requests", total = #self.requests, unit = "done" }
    while ended(self) < #self.requests do
        open_more(self)
        stop_waiting(self)
        if self.stopping then stop_all(self) end
        for _, group in ipairs(groups(self, choose(self))) do pass(self, group) end
        bar:update(ended(self))
    end
    bar:done()
end

-- ---- for users

--- A pool without requests: pool:add(generate, {...}), pool:run(), pool:cancel(i), pool:resume(); see
--- lua/moonloom/pool.lua. Its passes have options.rows (64) rows at most, but for a request that wants more; so many
--- requests are open at a time.
function M.new(options)
    options = given.options(options, "moonloom.pool", { "rows" })
    return setmetatable({
        capacity = given.most(options.rows or ROWS, "rows", 1), requests = {}, values = setmetatable({}, Values),
        line = {}, open = 0, -- those that wait, the first the longest; and how many have begun and not ended
        passes = 0, rows = 0, most = 0, batches = setmetatable({}, { __mode = "k" }),
    }, Pool)
end

-- An option that is of the whole process is not a request's.
local function refuse_options(list)
    for _, row in ipairs(require("moonloom.recipe.options").list) do
        if row.set and not row.look and type(list) == "table" and list[row.name] ~= nil then
            arguments.fail("%s is of the whole pool, not of a request: set it before", row.name)
        end
    end
end

--- pool:add(recipe or function, ...) -> i. Its value will be pool.values[i]; it begins with run().
function Pool:add(f, ...)
    if type(f) ~= "function" and not (getmetatable(f) or {}).__call then
        error(("a pool takes a recipe or a function, not %s"):format(tostring(f)), 2)
    end
    if type(f) == "table" then refuse_options((...)) end
    local index = #self.requests + 1
    self.requests[index] = { index = index, f = function(...) return f(...) end, arguments = { ... } }
    return index
end

--- Runs all requests to their ends. Returns their values, in order.
function Pool:run()
    if self.running then error("this pool is running", 2) end
    self.running, self.stop, self.stopping = true, nil, false
    local began = ml.C.ml_time_now()
    local fine, problem = pcall(work, self)
    self.running, self.ms = nil, ml.C.ml_time_now() - began
    if not fine then error(problem, 0) end
    if self.stop then desk.last = self end
    return self.values
end

--- Stops request i, from a function that the pool runs: as Ctrl-C would, at its next pass.
function Pool:cancel(i)
    local request = self.requests[i] or error(("there is no request %s"):format(tostring(i)), 2)
    request.cancelled = not request.done
end

--- Goes on with all requests that were stopped by Ctrl-C or an error: with a generation where it was stopped, and with
--- other parameters if given; from the beginning where there is none. Returns all values.
function Pool:resume(changes)
    if self.running then error("this pool is running", 2) end
    local list = {}
    for i, request in ipairs(self.requests) do
        local value = self.values[i]
        if type(value) == "table" and (value.stop == "interrupted" or value.stop == "error") then
            if value._check_changes then value:_check_changes(changes, "resume") end
            list[#list + 1] = { request, value }
        end
    end
    for _, pair in ipairs(list) do
        local request, value = unpack(pair)
        request.done = nil
        if value.resume then request.f, request.arguments, request.resumed = value.resume, { value, changes }, value end
    end
    return self:run()
end

--- One line: how many requests, in how many passes of how many rows.
function Pool:summary()
    local text = ("%d request%s"):format(#self.requests, #self.requests == 1 and "" or "s")
    if not self.ms then return text .. ", not begun" end
    return ("%s in %d passes of %.1f rows, %.2f s%s"):format(text, self.passes, self.rows / math.max(self.passes, 1),
        self.ms / 1000, self.stop and " (" .. self.stop .. ")" or "")
end

function Pool:__tostring()
    return "pool: " .. self:summary()
end

return M
