--- Completion: names, fields, methods, parameters of recipes and samplers, commands of the prompt; samplers, policies
--- and file paths inside strings.
local catalogue = require "repl.catalogue"
local commands = require "repl.commands"
local environment = require "repl.environment"
local lexer = require "repl.lexer"
local native = require "repl.native"

local M = {}

local function starting_with(prefix, names, suffix)
    local out = {}
    for _, name in ipairs(names) do
        if name:sub(1, #prefix) == prefix then out[#out + 1] = name .. (suffix or "") end
    end
    table.sort(out)
    return out
end

-- Entries of the folder that the path `typed` is in, from byte `start` of the line on.
local function paths(typed, start)
    local folder, name = typed:match("^(.*/)([^/]*)$")
    if not folder then folder, name = "", typed end
    local place = folder:gsub("^~/", (os.getenv("HOME") or "~") .. "/")
    local found = {}
    for _, entry in ipairs(native.list_folder(place == "" and "." or place) or {}) do
        if name ~= "" or entry:sub(1, 1) ~= "." then found[#found + 1] = folder .. entry end
    end
    return start, starting_with(folder .. name, found)
end

-- Names of policies, where a string that begins after `lead` is one: kv = "..., :policy "..., ml.kv "...
local function policies(lead, typed, start)
    if not (lead:find("%f[%w_]kv%s*[=(]?%s*$") or lead:find("[:.]policy%s*%(?%s*$")) then return nil end
    local names = starting_with(typed, catalogue.names "policies")
    if #names > 0 then return start, names end
end

-- Whether the bracket `open` of `text` is the list of a chain: chain = {, or samplers.chain {.
local function is_chain(text, open)
    return open ~= nil and open.bracket == "{" and (text:sub(1, open.at - 1):find("%f[%w_]chain%s*=%s*$")
        or open.callee == "samplers.chain")
end

-- Names of samplers, where the string that begins after `lead` is one: chain = { "..., chain = { { "..., and
-- chain = "...,....
local function samplers(lead, context, typed, start)
    local open = context.open
    if lead:find("%f[%w_]chain%s*=%s*$") then
        local word = typed:match("[%w_-]*$")
        if not typed:sub(1, #typed - #word):find("^%s*$") and not typed:sub(1, #typed - #word):find(",%s*$") then
            return nil
        end
        start, typed = start + #typed - #word, word
    elseif not (is_chain(lead, open) or open and open.at == #lead:gsub("%s+$", "") and is_chain(lead, open.around)) then
        return nil
    end
    return start, starting_with(typed, catalogue.names "samplers")
end

-- Parameters of the sampler in whose entry of a chain the end of `text` stands, if a key may stand here.
local function sampler_parameters(context, text, word)
    local open = context.open
    if not open or open.bracket ~= "{" or not is_chain(text, open.around) then return nil end
    local name = text:match("^{%s*[\"']([%w_-]+)[\"']", open.at)
    if not name or not text:sub(1, #text - #word):find(",%s*$") then return nil end
    return starting_with(word, catalogue.sampler_parameters(name), "=")
end

-- Parameters of the recipe whose table is open at the end of `text`, if a key may stand here.
local function parameters(context, text, word)
    local open = context.open
    if not open or open.bracket ~= "{" or not open.callee then return nil end
    local before = text:sub(1, #text - #word):match("([{,])%s*$")
    if not before then return nil end
    local names = environment.parameters(open.callee)
    return names and starting_with(word, names, "=")
end

-- Names after the last dot or colon of `path`.
local function members(path, start)
    local owner, mark, word = path:match("^(.*)([.:])([%w_]*)$")
    local known, value = environment.resolve(owner)
    if not known then return nil end
    local names = {}
    for _, name in ipairs(environment.fields(value)) do
        if mark == "." or environment.is_callable(environment.get(value, name)) then names[#names + 1] = name end
    end
    return start + #owner + 1, starting_with(word, names)
end

local function code(text, whole, context)
    local path = text:match("[%a_][%w_]*[%w_.:%[%]\"']*$") or ""
    local start = #text - #path + 1
    if path:find("[.:]") and not text:sub(1, start - 1):find("[.:]$") then return members(path, start) end
    local word = text:match("[%w_]*$")
    if text:sub(1, #text - #word):find("[.:%d]$") then return nil end
    start = #text - #word + 1
    local keys = sampler_parameters(context, whole, word) or parameters(context, text, word)
    if keys and #keys > 0 then return start, keys end
    if word == "" then return nil end
    return start, starting_with(word, environment.names(true))
end

--- Candidates for the part of `text` (what is typed, up to the cursor) that begins at the byte returned first.
--- `before` holds the earlier lines of an unfinished chunk.
function M.candidates(text, before)
    if before == "" then
        local mark, rest = text:match("^%s*([?!%%>]%??)(.*)$")
        if mark == ">" then return nil end
        if mark and mark:sub(1, 1) == "?" then
            local word = rest:match("[%w_.:]*$")
            local shelf, name = word:match("^(%a+)%.([%w_-]*)$")
            if shelf == "samplers" or shelf == "policies" then
                return #text - #name + 1, starting_with(name, catalogue.names(shelf))
            end
            if word:find("[.:]") then return members(word, #text - #word + 1) end
            return #text - #word + 1, starting_with(word, catalogue.with_all(environment.help_names()))
        elseif mark == "!" then
            local word = rest:match("[^%s\"']*$")
            return paths(word, #text - #word + 1)
        elseif mark == "%" and not rest:find("%s") then
            return #text - #rest + 1, starting_with(rest, commands.names(), " ")
        elseif mark == "%" then
            text = (" "):rep(#text - #rest) .. rest:gsub("^%a+", function(word) return (" "):rep(#word) end)
        end
    end
    local whole = before .. text
    local context = lexer.context(whole)
    if context.kind == "comment" then return nil end
    if context.kind == "string" then
        local typed = whole:sub(context.start)
        local start, names = policies(whole:sub(1, context.start - 2), typed, #text - #typed + 1)
        if names then return start, names end
        start, names = samplers(whole:sub(1, context.start - 2), context, typed, #text - #typed + 1)
        if names then return start, names end
        return paths(typed, #text - #typed + 1)
    end
    return code(text, whole, context)
end

return M
