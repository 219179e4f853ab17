--- How a generation goes: the way into its loop and out of it, whatever ends it; fork and resume.
--
-- This is no recipe because it has to work where a recipe fails or Ctrl-C stops one: the loop ends with the text so
-- far, with everything in the session that is on the screen, and ready for resume().
local arguments = require "moonloom.recipe.arguments"
local desk = require "moonloom.desk"
local given = require "moonloom._core.expect"
local interrupt = require "moonloom._core.interrupt"
local ml = require "moonloom._core.ffi"
local progress = require "moonloom._core.progress"
local random = require "moonloom._core.random"
local recipe = require "moonloom.recipe.live"
local turns = require "moonloom._core.turns"

local M = {}

local function read_prompt(self)
    local bar = progress.start { label = "reading", total = #self.all, unit = "tokens" }
    interrupt.finally(function()
        self:prepare { progress = function(fed, total)
            bar.total = total -- what the session has of it already is not read again
            bar:update(fed)
        end }
    end, function() bar:done() end)
end

local function never()
    return nil
end

-- Puts in the tokens that nobody chose.
local function force(self)
    while self.forced and self.forced[1] do
        local left = self:advance("logits")
        self:push(table.remove(self.forced, 1), left)
        self:commit(never)
        if self.write then self:stream(self.write) end
        self.limit = math.max(self.limit, #self.tokens + 1)
    end
end

local function attempt(self)
    read_prompt(self)
    if self.opening then self.write(self.opening) end
    self.opening = nil
    force(self)
    self.recipe.loop(self)
end

-- The message of an error with the whole path of the file that it names, which Lua cuts short.
local function with_path(problem)
    local level, info = 2, debug.getinfo(2, "Sl")
    while info and type(problem) == "string" do
        local place = ("%s:%d: "):format(info.short_src, info.currentline)
        if problem:sub(1, #place) == place and info.source:sub(1, 1) == "@" then
            return ("%s:%d: %s"):format(info.source:sub(2), info.currentline, problem:sub(#place + 1))
        end
        level = level + 1
        info = debug.getinfo(level, "Sl")
    end
    return problem
end

local LIBRARY = ml.home .. "/lua/"

-- The same; where it names a line of lua/, which a recipe gave what it cannot work with, the line of the recipe first.
local function with_recipe(problem)
    problem = with_path(problem)
    local within = type(problem) == "string" and problem:sub(1, #LIBRARY) == LIBRARY
    local place, words = (within and problem or ""):match("^(.-%.lua:%d+): (.*)$")
    local level, info = 2, debug.getinfo(2, "Sl")
    while info and place do
        if info.source:sub(1, 1) == "@" and info.source:sub(2, #LIBRARY + 1) ~= LIBRARY then
            return ("%s:%d: %s (in %s)"):format(info.source:sub(2), info.currentline, words, place:sub(#ml.home + 2))
        end
        level = level + 1
        info = debug.getinfo(level, "Sl")
    end
    return problem
end

-- Ends the step in which the loop was stopped: what it had drawn counts. Returns a reason to stop by itself, or nil.
local function end_step(self)
    local fine, reason = pcall(self.commit, self, self._finished or never)
    if fine then return reason end
    interrupt.take() -- finished() itself is broken, or Ctrl-C came again: the next step asks for that token
    pcall(self._take_back, self) -- (where the session is closed, the first problem is the one to tell)
end

-- Feeds the newest token, which the loop leaves to the next step: the session shall have what is on the screen.
local function catch_up(self)
    if #self.tokens == 0 or self.session.position ~= #self.all - 1 then return end
    local fine, problem = pcall(self.session.step, self.session, self.all[#self.all])
    if not fine and interrupt.is_interrupt(problem) then -- one Ctrl-C must not cost the session a token
        interrupt.take()
        fine, problem = pcall(self.session.step, self.session, self.all[#self.all])
    end
    if not fine then error(problem, 0) end
end

-- catch_up(), and the rest of the text for the screen.
local function finish(self)
    catch_up(self)
    if self.write then self:stream(self.write, true) end
end

-- What stopped the generation goes into g.stop and g.problem. Returns it if it is an error.
local function note(self, problem, reason)
    local interrupted = interrupt.is_interrupt(problem)
    self.stop = reason or interrupted and (self.stop or "interrupted") or "error"
    if self.stop ~= "error" then return nil end
    self.problem = tostring(problem)
    return problem
end

-- Says what stopped the generation, with the line of the recipe if it names one.
local function tell(self)
    if turns.inside() then return end
    local count = #self.tokens
    recipe.reporter(("stopped after %d token%s: %s%s"):format(count, count == 1 and "" or "s",
        recipe.explain(self.problem), desk.interactive and "\n    mend it, then resume() goes on" or ""))
end

--- Runs the loop until there is a reason to stop, which is g.stop then: what finished() said, or "interrupted" by
--- Ctrl-C, or "error" with the sentence in g.problem, if an error came after at least one new token: an earlier one is
--- raised. Whatever it was, resume() goes on. Returns the generation.
function M:go()
    if self._going then error("this generation is being made: resume it when it has stopped", 2) end
    desk.last = self
    self._going, self.stop, self.problem = true, nil, nil
    local before, trouble = #self.tokens, nil
    for _, part in ipairs { attempt, finish } do
        local fine, problem = xpcall(part, with_recipe, self)
        if not fine then
            interrupt.take()
            trouble = note(self, problem, end_step(self)) or trouble
        end
    end
    self._going = nil
    if not trouble then return self end
    if #self.tokens == before then error(trouble, 0) end
    tell(self)
    return self
end

-- What a generation has from its beginning: changing it later would have no effect.
local SETTLED = { prompt = true, prompt_file = true, ids = true, session = true, cache = true, bandwidth = true }

local function is_settled(name)
    for _, option in ipairs(arguments.common) do
        if option.name == name then return true end
    end
    return SETTLED[name]
end

--- The parameters among the changes that `verb` ("fork" or "resume") was given, checked beside those in force.
function M:_check_changes(changes, verb)
    changes = given.options(changes, verb)
    local known = {}
    for name, value in pairs(changes) do
        if is_settled(name) then arguments.fail("%s: %s has no effect on what has begun", verb, name) end
        if verb ~= "fork" or name ~= "id" and name ~= "text" then known[name] = value end
    end
    local checked = arguments.check(verb, self.recipe.parameters, known, self.parameters)
    for name in pairs(known) do known[name] = checked[name] end
    return known
end

--- g:fork(i, { id =, text =, or any parameter of generate }) -> another generation.
-- It has the tokens before i; then the given token or text, if any; then goes on, with the parameters of this one where
-- none are given. The cache is shared, and copied only where the two differ. Without changes it draws with a new seed.
function M:fork(i, changes)
    if type(i) ~= "number" or i % 1 ~= 0 or i < 1 or i > #self.tokens + 1 then
        error(("fork at %s? This generation has the tokens 1 to %d"):format(tostring(i), #self.tokens), 2)
    end
    local parameters = self:_check_changes(changes, "fork")
    changes = changes or {}
    local text = changes.text
    if text ~= nil and type(text) ~= "string" then error("fork: text must be a string", 2) end
    if text and changes.id then error("fork takes id or text, not both", 2) end
    if next(changes) == nil then parameters.seed = random.fresh_seed() end
    local other = self:_branch(i - 1, parameters)
    other.forced = changes.id and { changes.id }
    if text then other.forced = self.model:tokenize(text, { special = true }) end
    if self.recipe.show then self.recipe.show(other) end
    return other:go()
end

--- g:resume{ max_tokens = } goes on where it stopped: at the length, interrupted, or by an error that is mended now.
--- Returns the same generation.
function M:resume(changes)
    changes = self:_check_changes(changes, "resume")
    if self.stop == "end" then error("this generation ended by itself; fork it to go another way", 2) end
    for key, value in pairs(changes) do self.parameters[key] = value end
    self.seed = changes.seed or self.seed
    if changes.max_tokens then
        self.limit = #self.tokens + changes.max_tokens
    elseif self.stop == "length" then
        self.limit = #self.tokens + math.max(1, self.parameters.max_tokens)
    end
    self:_take_parameters()
    return self:go()
end

return M
