-- Generate: goes on from a prompt, token by token. The loop that does it is recipes/loop.lua.
local desk = require "moonloom.desk"
local generation = require "moonloom.generation"
local interrupt = require "moonloom._core.interrupt"
local loop = require "recipes.loop"
local moonloom = require "moonloom"
local read_file = require "moonloom._core.read_file"
local sampling = require "recipes.sampling"
local terminal = require "moonloom._core.terminal"

local M = {
    name = "generate",
    summary = "go on from a prompt",
    parameters = {
        { name = "prompt", type = "string", positional = true, doc = "text to go on from; special tokens by name" },
        { name = "prompt_file", type = "path", doc = "file with the text to go on from" },
        { name = "ids", type = "list", doc = "token ids to go on from" },
        { name = "max_tokens", type = "integer", default = 256, min = 1, doc = "tokens to make at most" },
        sampling.parameters,
        { name = "stop", type = "list", doc = "texts at which to stop" },
        { name = "cache", type = "string", default = "bf16", choices = { "bf16", "f32" }, doc = "keys and values" },
        { name = "bandwidth", type = "boolean", default = false, doc = "measure read bandwidth (--json always does)" },
        { name = "session", type = "any", from_lua = true, doc = "a session to go on in" },
    },
}

function M.loop(g)
    return loop.loop(g)
end

function M.chain(p)
    return sampling.chain(p)
end

-- The ids to go on from, and their text if it was given as text.
local function prompt_of(args, model, session)
    local given = (args.prompt and 1 or 0) + (args.prompt_file and 1 or 0) + (args.ids and 1 or 0)
    local ids, text = session:tokens(), args.prompt
    if given == 0 and #ids > 0 then return ids end
    if given ~= 1 then moonloom.wrong_usage("generate needs one of prompt, prompt_file and ids") end
    if args.prompt_file then text = read_file(args.prompt_file, "the prompt") end
    local more = args.ids or model:tokenize(text, { special = true, bos = #ids == 0 })
    for _, id in ipairs(more) do
        if type(id) ~= "number" or id % 1 ~= 0 then moonloom.wrong_usage("'%s' is no token id", tostring(id)) end
        ids[#ids + 1] = id
    end
    return ids, #ids == #more and text or nil
end

-- Writes to the terminal as it comes: the prompt dimly, each token tinted by its probability.
local function screen()
    local coloured = terminal.has_colour(1)
    return function(text, token)
        io.stdout:write(not coloured and text or token and terminal.tint(text, token.p) or terminal.dim(text))
        io.stdout:flush()
    end
end

-- Lets a generation write itself to the terminal as it comes, if somebody looks. What it has by now is what it goes on
-- from. Where a probability is shown, it is worked out with the token, not later.
function M.show(g, door)
    local shown = door and door.command and not door.json and terminal.is_terminal(1)
    g.probabilities = terminal.has_colour(1) or door and door.json
    g.streamed = desk.interactive or shown
    if not g.streamed then return end
    g.write, g.opening = screen(), g.prompt .. g.text -- written when it has been read: the bar needs the line
end

-- The session to go on in: the one that was given, or a new one.
local function session_of(args)
    local session = args.session
    if session == nil then return moonloom.current(args.model):session { cache = args.cache } end
    if type(session) ~= "table" or not session.shared_cache then
        moonloom.wrong_usage("generate: session must be a session, such as g.session or model:session()")
    end
    for _, name in ipairs { "model", "kv" } do
        if args[name] ~= nil then
            moonloom.wrong_usage("generate: %s has no effect beside session, which has one", name)
        end
    end
    return session
end

function M.run(args, door)
    local session = session_of(args)
    local model = session.model
    local ids, text = prompt_of(args, model, session)
    local g = generation.new {
        model = model, session = session, prompt_ids = ids, prompt = text, parameters = args,
        recipe = require "recipes.generate",
    }
    M.show(g, door)
    g:go()
    if g.streamed then io.stdout:write("\n") end
    if door.command and not door.json then io.stderr:write(g:summary(), "\n") end
    g.peak_bytes = moonloom.peak_bytes()
    if door.json or args.bandwidth then -- Ctrl-C here must not cost the text
        interrupt.catch(function() g.read_bandwidth = moonloom.bandwidth() end)
    end
    return g
end

return M
