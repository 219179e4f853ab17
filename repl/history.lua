--- The history of the prompt, kept in $XDG_STATE_HOME/moonloom/history (else ~/.local/state). One entry a line, with
--- newlines as \n and backslashes as \\. An entry is appended by one write, so two prompts can share the file.
local native = require "repl.native"

local M = {}

local LIMIT = 2000 -- entries; the file is cut to this when it has grown to twice as many
local path, newest

local function encode(text)
    return (text:gsub("[\\\n]", { ["\\"] = "\\\\", ["\n"] = "\\n" }))
end

local function decode(line)
    return (line:gsub("\\(.)", { ["\\"] = "\\", n = "\n" }))
end

local function find_path()
    local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
    if state and state:sub(1, 1) == "/" then return state .. "/moonloom" end
    return home and home .. "/.local/state/moonloom"
end

-- Replaces the file by its newest entries; the rename is atomic.
local function cut(entries)
    local temporary = ("%s.%d"):format(path, native.process())
    local file = io.open(temporary, "w")
    if not file then return end
    local written = file:write(table.concat(entries, "\n", #entries - LIMIT + 1), "\n")
    if not (file:close() and written and os.rename(temporary, path)) then os.remove(temporary) end
end

--- Reads the file into the line editor. Without a home folder the history lives as long as the prompt.
function M.open()
    native.history_limit(LIMIT)
    local folder = find_path()
    if not folder or not native.make_folders(folder) then return end
    path = folder .. "/history"
    local file = io.open(path, "r")
    if not file then return end
    local entries, text = {}, file:read("*a") -- nothing if it is a folder
    file:close()
    for line in (text or ""):gmatch("[^\n]+") do entries[#entries + 1] = line end
    for i = math.max(1, #entries - LIMIT + 1), #entries do native.history_add(decode(entries[i])) end
    newest = entries[#entries] and decode(entries[#entries])
    if #entries > 2 * LIMIT then cut(entries) end
end

--- Adds what was typed, unless it is blank or the same as the entry before.
function M.add(text)
    if not text:find("%S") or text == newest then return end
    newest = text
    native.history_add(text)
    local file = path and io.open(path, "a")
    if not file then return end
    local line = encode(text) .. "\n"
    file:setvbuf("full", #line + 1)
    file:write(line)
    file:close()
end

return M
