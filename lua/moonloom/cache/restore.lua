--- Restoring a saved session: a session that goes on from what session:save(path) wrote. See moonloom.cache.saved.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local interrupt = require "moonloom._core.interrupt"
local ml = require "moonloom._core.ffi"
local models = require "moonloom.models"
local policy = require "moonloom.cache.policy"
local saved_sessions = require "moonloom.cache.saved"
local C, check = ml.C, ml.check

local M = {}

-- An error of the core, with what can be done about it.
local function hint(problem, words)
    if getmetatable(problem) ~= ml.Error then error(problem, 0) end
    error(setmetatable({ status = problem.status, message = problem.message .. words }, ml.Error), 0)
end

local AGAIN = "; its token ids are whole: { recompute = true } computes the session again from them"

-- A session for what `saved` holds, empty, under the places of the policy `kv` (or nil).
local function new_session(saved, model, kv)
    -- What is quantised, or has a budget of its own, has a cache of its own.
    local shared = not saved.policy and saved.quantised == 0 and not kv
    local session = model:session { cache = saved.cache, prefixes = shared, kv = false }
    if not kv then return session end
    local fine, problem = pcall(function()
        policy.choose(kv):place(session:shared_cache().handle, model:config())
    end)
    if fine then return session end
    session:close()
    error(problem, 0)
end

--- moonloom.restore(path, { model =, kv =, recompute = false, progress = }) -> the session as it was when it was saved.
-- The model is the current one unless given; it must be the one that the session is of. Pages come back in the format
-- that they were saved in, and go on under the policy that they were saved under. What a policy says of memory, disk
-- and window, which was not saved and changes no number, comes from `kv` (default: what moonloom.kv() says), or
-- --kv-memory: a session that is larger than the budget comes back, too, as far as there is a level below. The rest of
-- `kv`, if it is given, holds from the next pass on.
--
-- Nothing that is damaged is taken. With `recompute`, whatever is wrong with the pages, or another model of the same
-- tokenizer, leads to computing them anew from the ids; that takes as long as reading the prompt did, so it is not done
-- unasked.
function M.restore(path, options)
    options = given.options(options, "moonloom.restore", { "model", "kv", "recompute", "progress" })
    local kv = options.kv
    if kv == nil then kv = policy.default end
    local saved = saved_sessions.open(path)
    local model = models.current(options.model)
    local fits = C.ml_saved_fits(saved:handle(), model:identity())
    local sentence = ffi.string(C.ml_last_error())
    local session = new_session(saved, model, kv)
    local fine, problem = pcall(function()
        if fits ~= C.ML_OK then error(setmetatable({ status = tonumber(fits), message = sentence }, ml.Error), 0) end
        local handle = session:shared_cache().handle
        check(C.ml_saved_policy(saved:handle(), handle, ffi.new("int[1]")))
        saved_sessions.load(saved, handle, session.sequence, saved.tokens)
    end)
    if not fine and options.recompute and not interrupt.is_interrupt(problem) and saved:same_tokens(model) then
        fine, problem = pcall(session.feed, session, saved:ids(), options)
        if not fine then hint(problem, "") end
    elseif not fine then
        session:close()
        local damaged = type(problem) == "table" and problem.status == C.ML_E_FORMAT
        hint(problem, damaged and AGAIN or fits ~= C.ML_OK and "; open that one, or -m names it" or "")
    end
    saved:close()
    if not options.kv then return session end
    fine, problem = pcall(session.policy, session, options.kv)
    if fine then return session end
    session:close()
    hint(problem, "")
end

return M
