--- Harmony, the chat format of gpt-oss (openai/harmony): messages to token ids, and token ids to messages.
--
--     <|start|>role<|channel|>name to=recipient <|constrain|>json<|message|>text<|end|>
--
-- The frame is made of special tokens by their ids; what users write is always plain text: <|end|> in it stays text.
-- A turn of the model has many messages: analysis (its thoughts), commentary (calls, asides), final (the answer). It is
-- over at <|return|> or <|call|>, not at <|end|>. The parser takes what a model makes: a recipient in the role or in
-- the channel, parts that are missing, parts that are doubled, an end in the middle.
local M = {}

local FRAME = { "start", "end", "message", "channel", "constrain", "return", "call" }

--- The ids of the frame's tokens by name; nil if the vocabulary does not have them.
function M.frame(tokenizer)
    local frame = {}
    for _, name in ipairs(FRAME) do
        frame[name] = tokenizer:find("<|" .. name .. "|>")
        if not frame[name] then return nil end
    end
    return frame
end

-- ---- messages to ids

--- The text of the system message as it was trained: { reasoning = "low" | "medium" | "high", date = "2025-06-28" }.
-- The tiny model in data/ (general.name "tiny-gpt-oss") was trained with a system message of its own.
function M.system_text(model, options)
    if model.name == "tiny-gpt-oss" then
        return "You tell short stories.\nReasoning: " .. (options.reasoning or "low")
    end
    return table.concat({
        "You are ChatGPT, a large language model trained by OpenAI.",
        "Knowledge cutoff: 2024-06",
        "Current date: " .. (options.date or os.date("%Y-%m-%d")),
        "",
        "Reasoning: " .. (options.reasoning or "medium"),
        "",
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.",
    }, "\n")
end

--- The text of the developer message, which is what people call the system prompt.
function M.developer_text(instructions)
    return "# Instructions\n\n" .. instructions
end

--- What of `messages` is sent again: the analysis of a turn goes once the turn has its final message.
function M.history(messages)
    local kept, answered = {}, false
    for i = #messages, 1, -1 do
        local message = messages[i]
        if message.role ~= "assistant" then
            answered = answered and message.role ~= "user"
        elseif message.channel == "final" then
            answered = true
        end
        if not (answered and message.role == "assistant" and message.channel == "analysis") then
            table.insert(kept, 1, message)
        end
    end
    return kept
end

local function append(ids, more)
    for _, id in ipairs(more) do ids[#ids + 1] = id end
end

--- Token ids of messages { role, content or ids, channel, recipient, content_type }, then the start of the model's
--- turn. Also the position of the last <|start|>user: what comes before it stays the same in the next turn.
function M.render(tokenizer, messages)
    local frame, ids, branch = M.frame(tokenizer), {}, 0
    local function text(part)
        append(ids, tokenizer:encode(part, { special = false }))
    end
    for _, message in ipairs(M.history(messages)) do
        local from_model = message.role == "assistant"
        local recipient = message.recipient and " to=" .. message.recipient or ""
        if message.role == "user" then branch = #ids end
        ids[#ids + 1] = frame.start
        text(message.role .. (from_model and "" or recipient))
        if message.channel then
            ids[#ids + 1] = frame.channel
            text(message.channel .. (from_model and recipient or "") .. (message.content_type and " " or ""))
        end
        if message.content_type then
            ids[#ids + 1] = frame.constrain
            text(message.content_type)
        end
        ids[#ids + 1] = frame.message
        if message.ids then append(ids, message.ids) else text(message.content) end
        ids[#ids + 1] = message.ended == "call" and frame.call or frame["end"]
    end
    ids[#ids + 1] = frame.start
    text("assistant")
    return ids, branch
end

-- ---- ids to messages

local Parser = {}
Parser.__index = Parser

local LONGEST_HEADER = 64 -- tokens: what is longer is text of a message whose <|message|> is missing
local MOST_MESSAGES = 32 -- in one turn: a model that never ends it is stopped

local channels = { "analysis", "commentary", "final" }

local function nothing() end

--- A parser for the model's turn, which begins inside the header of its first message ("assistant" is known).
-- sinks: { open(message), text(message, piece), close(message) }, called as things become known; all optional.
function M.parser(tokenizer, sinks)
    sinks = sinks or {}
    local by_id = {}
    for name, id in pairs(assert(M.frame(tokenizer), "this vocabulary has no harmony tokens")) do by_id[id] = name end
    return setmetatable({
        tokenizer = tokenizer, by_id = by_id, decoder = tokenizer:decoder(),
        open = sinks.open or nothing, text = sinks.text or nothing, close = sinks.close or nothing,
        messages = {}, -- those that are complete
        message = nil, -- the one whose text is coming in
        header = { role = "assistant" }, part = "role", header_length = 0, -- parts of the header that is coming in
        over = nil, -- why the turn is over: "return", "call", "end", "final", "role", "messages"
    }, Parser)
end

local function start_header(self, role)
    self.header, self.part, self.header_length = { role = role or "" }, "role", 0
end

-- Takes "to=x" out of a part of the header. Returns what is left, trimmed, and x.
local function take_recipient(part)
    local recipient = part:match("to=(%S+)")
    return (part:gsub("%s*to=%S+", " "):gsub("^%s+", ""):gsub("%s+$", "")), recipient
end

-- The known name a text begins with, and what follows it; else its first word, and what follows.
local function split_name(text, names)
    for _, name in ipairs(names) do
        if text:sub(1, #name) == name then return name, text:sub(#name + 1):match("^%s*(.*)$") end
    end
    local word, rest = text:match("^(%S+)%s*(.*)$")
    return word, rest or ""
end

-- The message that a header announces, and text in it that belongs to none of its parts.
local function read_header(header)
    local role_text, recipient = take_recipient(header.role)
    local role, rest = split_name(role_text, { "assistant" })
    local message = { role = role or "assistant", recipient = recipient, content = "", ids = {} }
    if header.channel then
        local channel_text, channel_recipient = take_recipient(header.channel)
        message.channel, rest = split_name(channel_text, channels)
        message.recipient = channel_recipient or message.recipient
    end
    local kind = header.constrain and header.constrain:match("%S+")
    if kind then
        message.content_type = kind
        rest = header.constrain:match("^%s*%S+%s*(.-)%s*$")
    elseif rest == "json" or rest == "code" then
        message.content_type, rest = rest, ""
    end
    return message, rest
end

local function add_text(self, piece)
    if piece == "" then return end
    self.message.content = self.message.content .. piece
    self.text(self.message, piece)
end

-- The header is complete: the text of its message begins. Without <|message|>, what is left of it is that text.
local function open_message(self, is_cut)
    local message, rest = read_header(self.header)
    self.header, self.message = nil, message
    if message.role ~= "assistant" then self.over = "role" end
    self.open(message)
    if is_cut and rest ~= "" then
        message.ids = nil -- not the tokens that came in
        add_text(self, rest)
    end
end

local function close_message(self, how)
    local message = self.message
    add_text(self, self.decoder:flush())
    message.ended, self.message = how, nil
    self.messages[#self.messages + 1] = message
    self.close(message)
    if how == "return" or how == "call" then
        self.over = how
    elseif message.role == "assistant" and message.channel == "final" then
        self.over = self.over or "final"
    elseif #self.messages >= MOST_MESSAGES then
        self.over = "messages"
    end
end

-- The rest of a header that never came to its <|message|>: empty ones are dropped.
local function close_header(self, how)
    open_message(self, true)
    if self.message.content == "" and not self.message.recipient then
        self.message = nil
        if how == "return" or how == "call" then self.over = how end
    else
        close_message(self, how)
    end
end

local function push_in_header(self, kind, id)
    if kind == "message" then
        open_message(self)
    elseif kind == "channel" or kind == "constrain" then
        self.part = kind
        self.header[kind] = ""
    elseif kind == "start" then
        close_header(self, nil)
        start_header(self)
    elseif kind then
        close_header(self, kind)
    else
        self.header[self.part] = self.header[self.part] .. self.tokenizer:piece(id)
        self.header_length = self.header_length + 1
        if self.header_length > LONGEST_HEADER then open_message(self, true) end
    end
end

local function push_in_text(self, kind, id)
    local message = self.message
    if kind == "end" or kind == "return" or kind == "call" then
        close_message(self, kind)
    elseif kind == "start" then
        close_message(self, nil)
        start_header(self)
    elseif kind == "channel" then -- the next message, without <|end|><|start|>
        close_message(self, nil)
        start_header(self, message.role)
        self.part, self.header.channel = "channel", ""
    elseif not kind and not self.tokenizer:is_special(id) then
        if message.ids then message.ids[#message.ids + 1] = id end
        add_text(self, self.decoder:push(id))
    end -- stray <|message|>, <|constrain|> and other special tokens are dropped
end

--- Takes the next token of the model. Returns why the turn is over, or nil.
function Parser:push(id)
    local kind = self.by_id[id]
    if not kind and self.tokenizer:is_end(id) then
        if self.message then close_message(self, "end") elseif self.header then close_header(self, "end") end
        self.over = self.over or "end"
    elseif self.message then
        push_in_text(self, kind, id)
    elseif self.header then
        push_in_header(self, kind, id)
    elseif kind == "start" then
        start_header(self)
    elseif kind == "channel" then -- <|start|>assistant is missing
        start_header(self, "assistant")
        self.part, self.header.channel = "channel", ""
    elseif kind == "return" or kind == "call" then
        self.over = kind
    elseif not kind and not self.tokenizer:is_special(id) then -- text without any header
        start_header(self, "assistant")
        open_message(self)
        push_in_text(self, nil, id)
    end
    return self.over
end

--- All messages of the model so far, the unfinished one included.
function Parser:all()
    local list = {}
    for _, message in ipairs(self.messages) do
        if message.role == "assistant" then list[#list + 1] = message end
    end
    if self.message and self.message.role == "assistant" then list[#list + 1] = self.message end
    return list
end

--- The messages in `ids`, which follow <|start|>assistant; and why the turn is over, if it is.
function M.parse(tokenizer, ids)
    local parser = M.parser(tokenizer)
    for _, id in ipairs(ids) do
        if parser:push(id) then break end
    end
    return parser:all(), parser.over
end

return M
