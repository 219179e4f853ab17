-- Chat: turns of a person and the model. gpt-oss talks in harmony (lua/moonloom/chat/harmony.lua); others by their
-- template.
local arguments = require "moonloom.recipe.arguments"
local desk = require "moonloom.desk"
local generation = require "moonloom.generation"
local harmony = require "moonloom.chat.harmony"
local moonloom = require "moonloom"
local sampling = require "recipes.sampling"
local template = require "moonloom.chat.template"
local terminal = require "moonloom._core.terminal"

local M = {
    name = "chat",
    summary = "talk with the model; without a message, line by line",
    parameters = {
        { name = "message", type = "string", positional = true, doc = "what to say; default: lines of the terminal" },
        { name = "system", type = "string", doc = "the system message itself; default: as the model was trained" },
        { name = "developer", type = "string", doc = "instructions: what people call the system prompt" },
        { name = "reasoning", type = "string", choices = { "low", "medium", "high" }, doc = "effort of the analysis" },
        { name = "max_tokens", type = "integer", default = 2048, min = 1, doc = "tokens of a turn at most" },
        sampling.parameters,
        { name = "cache", type = "string", default = "bf16", choices = { "bf16", "f32" }, doc = "keys and values" },
    },
}

-- ---- a reply: fields analysis, commentary, final, text, stop, fed, generation, messages

local Reply = {}

local function joined(messages, channel)
    local parts = {}
    for _, message in ipairs(messages) do
        if message.channel == channel then parts[#parts + 1] = message.content end
    end
    return table.concat(parts, "\n")
end

function Reply:__index(key)
    if key == "messages" then return self.listener() end
    if key == "analysis" or key == "commentary" then return joined(self.messages, key) end
    if key == "final" then -- a model that forgets the channel means its answer
        local final = joined(self.messages, "final")
        return final ~= "" and final or joined(self.messages, nil)
    end
    if key == "text" then return self.final end
    if key == "stop" then return self.generation.stop end
    return Reply[key]
end

function Reply:__tostring()
    local coloured, parts = terminal.has_colour(1), {}
    for _, channel in ipairs { "analysis", "commentary" } do
        local text = self[channel]
        if text ~= "" then
            text = ("[%s] %s"):format(channel, text)
            parts[#parts + 1] = coloured and terminal.dim(text) or text
        end
    end
    if self.final ~= "" then parts[#parts + 1] = self.final end
    return table.concat(parts, "\n\n")
end

function Reply:summary()
    return self.generation:summary()
end

local function plain_messages(messages)
    local list = {}
    for i, message in ipairs(messages) do
        list[i] = {
            role = message.role, channel = message.channel, recipient = message.recipient,
            content_type = message.content_type, content = message.content,
        }
    end
    return list
end

function Reply:json()
    local value = self.generation:json()
    value.analysis, value.commentary, value.final, value.text = self.analysis, self.commentary, self.final, self.final
    value.messages, value.fed = plain_messages(self.messages), self.fed
    return value
end

-- ---- showing a turn while it comes

-- The analysis dim and apart, the answer plain.
local function screen()
    local coloured = terminal.has_colour(1)
    local function write(message, text)
        local is_answer = message.channel == "final" or not message.channel
        io.stdout:write(coloured and not is_answer and terminal.dim(text) or text)
        io.stdout:flush()
    end
    return {
        open = function(message)
            if message.channel and message.channel ~= "final" then write(message, ("[%s] "):format(message.channel)) end
        end,
        text = write,
        close = function(message) write(message, message.channel == "final" and "\n" or "\n\n") end,
    }
end

-- ---- the two ways to talk: each renders messages, and listens to a generation (returns a function that gives the
-- messages so far)

local ways = {}

ways.harmony = {
    opening = function(model, p)
        local messages = { { role = "system", content = p.system or harmony.system_text(model, p) } }
        if p.developer then
            messages[2] = { role = "developer", content = harmony.developer_text(p.developer) }
        end
        return messages
    end,
    render = function(model, messages) return harmony.render(model.tokenizer, messages) end,
    listen = function(g, streamed)
        local parser = harmony.parser(g.model.tokenizer, streamed and screen() or nil)
        g.watch = function(token) return parser:push(token.id) and "end" end
        return function() return parser:all() end
    end,
}

ways.template = {
    opening = function(_, p)
        local messages = {}
        if p.system then messages[1] = { role = "system", content = p.system } end
        if p.developer then messages[#messages + 1] = { role = "developer", content = p.developer } end
        return messages
    end,
    render = function(model, messages) return template.render(model, template.of(model), messages) end,
    listen = function(g, streamed)
        g.parameters.stop = template.of(g.model).stop
        if streamed then
            g.write = function(text)
                io.stdout:write(text)
                io.stdout:flush()
            end
        end
        return function()
            return { { role = "assistant", channel = "final", content = g.text:match("^%s*(.-)%s*$") } }
        end
    end,
}

-- ---- a chat: c.turns, c.messages, c:say(text), c:undo()

M.methods = {}

local Chat = {}
-- Methods are looked up in the newest saved version of this file.
function Chat:__index(key)
    local methods = require("recipes.chat").methods
    if key == "messages" then return methods.list(self) end
    return methods[key]
end

-- All messages: the opening, then every turn.
function M.methods:list()
    local messages = {}
    for _, message in ipairs(self.opening) do messages[#messages + 1] = message end
    for _, turn in ipairs(self.turns) do
        messages[#messages + 1] = turn.user
        for _, message in ipairs(turn.reply and turn.reply.messages or {}) do messages[#messages + 1] = message end
    end
    return messages
end

-- A chat that has not begun, with arguments that were checked.
local function begin(p)
    local model = moonloom.current(p.model)
    local way = harmony.frame(model.tokenizer) and "harmony" or "template"
    return setmetatable({
        model = model, session = model:session { cache = p.cache }, parameters = p, way = way,
        opening = ways[way].opening(model, p), turns = {},
    }, Chat)
end

function M.new(p)
    return begin(arguments.check("chat", M.parameters, p or {}))
end

-- Says something and returns the reply. Only what changed since the last turn is fed: reply.fed tells how many tokens.
function M.methods:say(text, streamed)
    if type(text) ~= "string" then error(("a chat is told a text, not %s"):format(tostring(text)), 2) end
    if streamed == nil then streamed = desk.interactive end
    local way, turn = ways[self.way], { user = { role = "user", content = text } }
    self.turns[#self.turns + 1] = turn
    local fine, problem = pcall(function()
        local ids, branch = way.render(self.model, self.messages)
        local parameters = {}
        for name, value in pairs(self.parameters) do parameters[name] = value end
        local g = generation.new {
            model = self.model, session = self.session, prompt_ids = ids, parameters = parameters,
            recipe = require "recipes.generate",
        }
        turn.reply = setmetatable({ generation = g, streamed = streamed, branch = branch, fed = 0 }, Reply)
        g.streamed = streamed
        turn.reply.listener = way.listen(g, streamed)
        g:go()
        turn.reply.fed = g.times.fed
        if streamed then io.stdout:write("\n") end
    end)
    if not fine then
        table.remove(self.turns)
        error(problem, 0)
    end
    return turn.reply
end

-- Takes back the last turn. Returns what had been said.
function M.methods:undo()
    local turn = table.remove(self.turns)
    return turn and turn.user.content
end

function M.methods:json()
    return { messages = plain_messages(self.messages) }
end

function Chat:__tostring()
    local lines = {}
    for _, turn in ipairs(self.turns) do
        lines[#lines + 1] = "> " .. turn.user.content
        lines[#lines + 1] = tostring(turn.reply)
    end
    if #lines == 0 then return ("chat with %s; nothing said yet"):format(self.model.name) end
    return table.concat(lines, "\n\n")
end

-- The chat that lines with > go to; a new one if there is none, or if the model changed.
function M.current()
    local open = desk.chat
    if not open or open.model ~= moonloom.current() and not open.parameters.model then
        open = M.new {}
        desk.chat = open
    end
    return open
end

-- Reads lines until the end of the input.
local function converse(chat, door)
    local is_person, streamed = terminal.is_terminal(0), terminal.is_terminal(1) and not door.json
    while true do
        if is_person then io.stderr:write("> ") end
        local line = io.read("*l")
        if not line then break end
        if line:find("%S") then
            local reply = chat:say(line, streamed)
            if not streamed and not door.json then io.stdout:write(tostring(reply), "\n\n") end
            io.stdout:flush()
        end
    end
    return door.json and chat or nil
end

-- Starts a chat, which becomes the current one, and says the message.
function M.run(args, door)
    local message = args.message
    args.message = nil
    local chat = begin(args)
    desk.chat = chat
    if not message then
        if door.command then return converse(chat, door) end
        return chat
    end
    return chat:say(message, desk.interactive or door.command and not door.json and terminal.is_terminal(1))
end

return M
