--- Text to token ids and back. Needs the vocabulary of the model file, nothing else of it.
local arguments = require "moonloom.recipe.arguments"
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local read_file = require "moonloom._core.read_file"
local terminal = require "moonloom._core.terminal"

-- Reads all of a file, or of standard input.
local function read(path)
    if path then return read_file(path, "the text") end
    local text, problem = io.stdin:read("*a")
    return text or error("standard input: " .. problem, 0)
end

-- Bytes that would upset a terminal, and broken characters, as escapes.
local function printable(piece)
    local whole = json.utf8(piece) == piece
    return (piece:gsub(whole and "[%c\\]" or "[%c\\\128-\255]", function(byte)
        local names = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }
        return names[byte] or ("\\x%02x"):format(byte:byte())
    end))
end

-- What encoding gives: { ids }, printed as a line for each piece.
local Tokens = {}
Tokens.__index = Tokens

function Tokens:json()
    return { ids = self.ids }
end

function Tokens:__tostring()
    local colour, lines = terminal.has_colour(1), {}
    for i, id in ipairs(self.ids) do
        local piece = printable(self.tokenizer:piece(id))
        if colour then
            local code = self.tokenizer:is_special(id) and 35 or i % 2 == 0 and 36 or 32
            lines[i] = ("%s  \27[%dm%s\27[0m"):format(terminal.dim(("%8d"):format(id)), code, piece)
        else
            lines[i] = ("%8d  %s"):format(id, piece)
        end
    end
    lines[#lines + 1] = ("%d tokens"):format(#self.ids)
    return table.concat(lines, "\n")
end

-- What decoding gives: printed exactly, in JSON as whole characters.
local Text = {}
Text.__index = Text

function Text:json()
    local decoder, parts = self.tokenizer:decoder(), {}
    for i, id in ipairs(self.ids) do parts[i] = decoder:push(id) end
    return { text = table.concat(parts) .. decoder:flush() }
end

function Text:__tostring()
    return self.tokenizer:decode(self.ids)
end

-- A JSON array of ids for every JSON string on standard input, each as soon as its line is there.
local function answer_lines(tokenizer, options)
    local number = 0
    for line in io.lines() do
        number = number + 1
        local fine, text = pcall(json.decode, line)
        if not fine or type(text) ~= "string" then
            error(("line %d of standard input is no JSON string%s"):format(number, fine and "" or ": " .. text), 0)
        end
        io.stdout:write("[", table.concat(tokenizer:encode(text, options), ","), "]\n")
        io.stdout:flush()
    end
end

local function run(p)
    local given = (p.text and 1 or 0) + (p.file and 1 or 0) + (p.decode and 1 or 0) + (p.lines and 1 or 0)
    if given > 1 then arguments.fail("tokenize takes one of text, file, decode and lines") end
    local tokenizer = moonloom.tokenizer(p.model)
    local options = { special = p.special, bos = p.bos }
    if p.lines then return answer_lines(tokenizer, options) end
    if p.decode then
        local value = setmetatable({ ids = p.decode, tokenizer = tokenizer }, Text)
        value.text = tostring(value)
        return value
    end
    return setmetatable({ ids = tokenizer:encode(p.text or read(p.file), options), tokenizer = tokenizer }, Tokens)
end

return {
    name = "tokenize",
    summary = "text to token ids, or ids to text",
    parameters = {
        { name = "text", type = "string", positional = true, doc = "text to encode; standard input if none is given" },
        { name = "file", type = "path", doc = "file to encode" },
        { name = "decode", type = "list", doc = "ids to turn into text" },
        { name = "lines", type = "boolean", default = false,
            doc = "standard input is a JSON string a line; answers an array of ids for each" },
        { name = "special", type = "boolean", default = true, doc = "names such as <|start|> are special tokens" },
        { name = "bos", type = "boolean", default = false, doc = "begin-of-text token first, if the file asks for it" },
    },
    run = run,
}
