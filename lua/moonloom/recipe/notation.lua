--- Names with values as text: how a chain of samplers, or a policy with other numbers, is written on a command line.
--
--     top_k=40,min_p=0.05,temperature=0.8      entries in order, separated by commas
--     name    name=value    name(value, value, key=value)
--
-- A value is a number, true, false, a word, "a text" or 'a text' (where it has commas, brackets or blanks), or a list
-- [value, value]. In Lua an entry is { name, value, value, key = value }.
local M = {}

-- What is read: { text, at }. Takes what `pattern` captures there, after blanks; or nil.
local function take(reader, pattern)
    local found, after = reader.text:match("^%s*(" .. pattern .. ")()", reader.at)
    if found then reader.at = after end
    return found
end

local function fail(reader, what)
    local rest = reader.text:sub(reader.at)
    error({ problem = ("%s is missing %s in '%s'"):format(what,
        rest:find("%S") and ("before '%s'"):format(rest:match("^%s*(.-)%s*$")) or "at the end", reader.text) })
end

local plain = { ["true"] = true, ["false"] = false }

local function read_value(reader)
    for _, quote in ipairs { '"', "'" } do
        local text = take(reader, quote .. "[^" .. quote .. "]*" .. quote)
        if text then return text:sub(2, -2) end
    end
    if take(reader, "%[") then
        local list = {}
        if take(reader, "%]") then return list end
        repeat list[#list + 1] = read_value(reader) until not take(reader, ",")
        return take(reader, "%]") and list or fail(reader, "a ]")
    end
    local word = take(reader, "[^%s,=()%[%]\"']+")
    if not word then fail(reader, "a value") end
    if plain[word] ~= nil then return plain[word] end
    return tonumber(word) or word
end

local function read_entry(reader)
    local entry = { take(reader, "[%w_-]+") or fail(reader, "a name") }
    if take(reader, "=") then
        entry[2] = read_value(reader)
    elseif take(reader, "%(") and not take(reader, "%)") then
        repeat
            local key = reader.text:match("^%s*([%w_]+)%s*=", reader.at)
            if key then
                if entry[key] ~= nil then
                    error({ problem = ("%s is given twice in '%s'"):format(key, reader.text) })
                end
                take(reader, "[%w_]+%s*=")
                entry[key] = read_value(reader)
            else
                entry[#entry + 1] = read_value(reader)
            end
        until not take(reader, ",")
        if not take(reader, "%)") then fail(reader, "a )") end
    end
    return entry
end

--- The entries that a text is of: { { name, value, key = value }, ... }; or nil and a sentence about what is wrong.
function M.read(text)
    local reader, entries = { text = text, at = 1 }, {}
    local fine, problem = pcall(function()
        repeat entries[#entries + 1] = read_entry(reader) until not take(reader, ",")
        if text:find("%S", reader.at) then fail(reader, "a comma") end
    end)
    if fine then return entries end
    if type(problem) ~= "table" or not problem.problem then error(problem, 0) end
    return nil, problem.problem
end

--- A value as it is written in an entry.
function M.value(value)
    if type(value) == "string" and (value == "" or value:find("[%s,=()%[%]\"']") or tonumber(value)
            or plain[value] ~= nil) then
        return value:find('"', 1, true) and ("'%s'"):format(value) or ('"%s"'):format(value)
    elseif type(value) == "number" then
        return ("%.15g"):format(value)
    elseif type(value) ~= "table" or getmetatable(value) then
        return tostring(value)
    end
    local items = {}
    for i, item in ipairs(value) do items[i] = M.value(item) end
    return "[" .. table.concat(items, ", ") .. "]"
end

-- The text of { name, value, key = value } as name(value, key=value).
local function call(entry)
    local keys, words = {}, {}
    for key in pairs(entry) do
        if type(key) == "string" then keys[#keys + 1] = key end
    end
    table.sort(keys)
    for i = 2, #entry do words[#words + 1] = M.value(entry[i]) end
    for _, key in ipairs(keys) do words[#words + 1] = ("%s=%s"):format(key, M.value(entry[key])) end
    return #words == 0 and entry[1] or ("%s(%s)"):format(entry[1], table.concat(words, ", "))
end

--- The text of an entry, the shortest there is.
function M.write(entry)
    local keys = 0
    for key in pairs(entry) do keys = keys + (type(key) == "string" and 1 or 0) end
    if keys == 0 and #entry == 2 then return ("%s=%s"):format(entry[1], M.value(entry[2])) end
    return call(entry)
end

return M
