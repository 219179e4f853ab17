--- What the prompt knows of models: the banner, the globals, the current chat, and how generations are shown.
local desk = require "moonloom.desk"
local environment = require "repl.environment"
local ml = require "moonloom"
local recipe = require "moonloom.recipe.live"

local M = {}

--- From now on generate and chat write what they make while they make it; problems of edited recipes go to `report`.
function M.be_interactive(report)
    desk.interactive = true
    recipe.reporter = report
end

--- Opens the model file at `path` when it is needed.
M.set_model = ml.use

--- Takes up changed recipes; tells problems.
function M.refresh()
    recipe.report(recipe.refresh())
end

-- Whether resume() goes on with what stopped there: by Ctrl-C, or by an error.
local function is_stopped(value)
    return value ~= nil and (value.stop == "interrupted" or value.stop == "error")
end

--- Whether Ctrl-C left something that resume() goes on with.
function M.can_resume()
    return is_stopped(desk.last)
end

local shown = setmetatable({}, { __mode = "k" }) -- streamed value -> the summary that was shown

--- What the prompt shows for `value` in place of the pretty printer's text, or nil: the summary of a generation that
--- has just been on the screen. (When it is shown again without having gone on, its text is wanted.)
function M.display(value)
    if type(value) ~= "table" or not rawget(value, "streamed") or not value.summary then return nil end
    local summary = value:summary()
    if shown[value] == summary then return nil end
    shown[value] = summary
    return is_stopped(value) and summary .. "; resume() goes on" or summary
end

--- Says `text` in the current chat. Returns the reply.
function M.say(text)
    return ml.chat():say(text)
end

--- Milliseconds for a reader.
function M.duration(ms)
    if ms < 1 then return ("%.1f us"):format(ms * 1e3) end
    if ms < 1000 then return ("%.2f ms"):format(ms) end
    return ("%.2f s"):format(ms / 1000)
end

-- 4350000 -> "4.35 M"
local function count_text(n)
    for _, unit in ipairs { { 1e9, "B" }, { 1e6, "M" }, { 1e3, "K" } } do
        if n >= unit[1] then return ("%.3g %s"):format(n / unit[1], unit[2]) end
    end
    return tostring(n)
end

local function byte_text(n)
    if n >= 1e9 then return ("%.1f GB"):format(n / 1e9) end
    return ("%.1f MB"):format(n / 1e6)
end

--- One line about the current model, the threads and the instruction set; raises if the model cannot be opened.
function M.about_model()
    local model, threads = ml.current(), ml.threads()
    return ("%s: %s, %s parameters, %s; %d thread%s, %s"):format(model.name, model:config().architecture,
        count_text(model.weights:parameters()), byte_text(tonumber(model.weights:bytes())), threads,
        threads == 1 and "" or "s", ml.isa())
end

--- What to type, and how to get help: the other two lines for a new user.
M.first_steps = [[
Try: generate{ prompt = "Once upon a time" }  or  > Tell me a story about Tom.
Help: ? shows what there is, ?generate tells about one thing; Ctrl-D leaves.
]]

-- A value that is called, and that says how when it is only named.
local function verb(call, text)
    return setmetatable({}, { __call = function(_, ...) return call(...) end, __tostring = function() return text end })
end

--- Offers the globals of the prompt and of scripts. `help(name)` shows help.
function M.offer_globals(help)
    local function offer(name, summary, value)
        environment.offer(name, summary, function() return value end)
    end
    offer("ml", 'the library: the same as require "moonloom"', ml)
    offer("moonloom", "the same as ml: its own name, as in scripts and in help", ml)
    environment.offer("tensor", 'tensors: the same as require "moonloom.tensor"', function()
        return require "moonloom.tensor"
    end)
    environment.offer("model", "the current model (-m FILE, or the small one in data/)", ml.current)
    offer("resume", "resume() goes on with the last generation, stopped or finished", ml.resume)
    offer("help", "help() or ? shows what there is, help(\"name\") or ?name tells about one thing",
        verb(help, "help() or ? shows what there is; help(\"name\") or ?name tells about one thing"))
    offer("quit", "quit() or Ctrl-D leaves", verb(function(code) os.exit(code or 0) end, "quit() or Ctrl-D leaves"))
end

return M
