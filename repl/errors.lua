--- Errors as a reader wants them: one sentence, the line it is about with a mark, a hint.
local chunk = require "repl.chunk"
local pretty = require "repl.pretty"
local suggest = require "moonloom._core.suggest"

local M = {}

local function in_library(source)
    return source:sub(1, #MOONLOOM_HOME + 6) == "@" .. MOONLOOM_HOME .. "/lua/"
        or source:sub(1, #MOONLOOM_HOME + 7) == "@" .. MOONLOOM_HOME .. "/repl/"
end

local function in_recipes(source)
    return source:sub(1, #MOONLOOM_HOME + 10) == "@" .. MOONLOOM_HOME .. "/recipes/"
end

-- Lua frames from the failing one outwards: { source, short, line }.
local function read_frames(level)
    local frames = {}
    while true do
        local info = debug.getinfo(level, "Sl")
        if not info then return frames end
        if info.currentline > 0 then
            frames[#frames + 1] = { source = info.source, short = info.short_src, line = info.currentline }
        end
        level = level + 1
    end
end

-- Splits "place:line: message" if a frame or a typed chunk is at that place.
local function split_place(text, frames)
    for _, frame in ipairs(frames) do
        local prefix = ("%s:%d: "):format(frame.short, frame.line)
        if text:sub(1, #prefix) == prefix then return text:sub(#prefix + 1), frame end
    end
    local place, line, rest = text:match("^([^\n]-):(%d+): (.*)$")
    if not place then return text, nil end
    if chunk.source(place) then return rest, { source = "=" .. place, short = place, line = tonumber(line) } end
    local file = io.open(place, "r")
    if not file then return text, nil end
    file:close()
    return rest, { source = "@" .. place, short = place, line = tonumber(line) }
end

-- The frame to show for an error that carries no place of its own, or one inside the library: the caller's own code.
-- A sentence (an error without a place) is about what was asked for, so no line of a recipe is shown for it.
local function blame(frames, is_sentence)
    for _, frame in ipairs(frames) do
        if not in_library(frame.source) and (chunk.source(frame.short) or frame.source:sub(1, 1) == "@")
            and not (is_sentence and in_recipes(frame.source)) then
            return frame
        end
    end
end

local function describe(value)
    if type(value) == "string" then return value end
    local meta = debug.getmetatable(value)
    if type(meta) == "table" and meta.__tostring then return tostring(value) end
    return "an error value: " .. pretty.show(value)
end

-- The call stack without the shell's own part.
local function read_trace(message)
    local trace = debug.traceback(message, 4)
    local out = {}
    for line in (trace .. "\n"):gmatch("(.-)\n") do
        if line:find("in function 'protect'", 1, true) then break end
        if not line:find("/repl/shell.lua:", 1, true) then out[#out + 1] = line end
    end
    return table.concat(out, "\n")
end

--- Message handler: turns an error value into a report { value, message, source, line, trace }.
function M.capture(value)
    local frames = read_frames(3)
    local message, frame = describe(value), nil
    if type(value) == "string" then message, frame = split_place(value, frames) end
    if not frame or in_library(frame.source) then frame = blame(frames, frame == nil) end
    message = message:match("^(module '[^\n]* not found):\n") or message
    local report = { value = value, message = message, trace = read_trace(message) }
    if frame then report.source, report.line = frame.source, frame.line end
    M.last = report
    return report
end

--- The report that native.protect() gave: also where there was no room left to make one (stack overflow).
function M.report(value)
    if type(value) == "table" and value.message and value.trace then return value end
    return M.from_syntax(tostring(value))
end

--- The report of a syntax error: `problem` is the message of load.
function M.from_syntax(problem)
    local message, frame = split_place(problem, {})
    local report = { value = problem, message = message, trace = message }
    if frame then report.source, report.line = frame.source, frame.line end
    M.last = report
    return report
end

-- Line `line` of a typed chunk or of a file.
local function source_line(report)
    local text = chunk.source(report.source:sub(2))
    local at = 0
    if text then
        for line in (text .. "\n"):gmatch("(.-)\n") do
            at = at + 1
            if at == report.line then return line end
        end
        return nil
    end
    local file = report.source:sub(1, 1) == "@" and io.open(report.source:sub(2), "r")
    if not file then return nil end
    local found
    for line in file:lines() do
        at = at + 1
        if at == report.line then
            found = line
            break
        end
    end
    file:close()
    return found
end

-- The word of the line that the message is about.
local function culprit(message)
    return message:match("near '(.-)'$") or message:match("^attempt to .- %a+ '([^']+)'")
        or message:match("no %a+ '([^']+)'") or message:match("parameter '([^']+)'")
end

-- Start and end of `word` in `line`, as a whole word where it is one; the last one for syntax errors.
local function find_word(line, word, last)
    local found_first, found_last
    local at = 1
    while true do
        local first, stop = line:find(word, at, true)
        if not first then break end
        local whole = not word:find("^[%w_]+$")
            or not (line:sub(first - 1, first - 1):find("[%w_]") or line:sub(stop + 1, stop + 1):find("[%w_]"))
        if whole then
            found_first, found_last = first, stop
            if not last then break end
        end
        at = stop + 1
    end
    return found_first, found_last
end

local function nil_global(message)
    return message:match("^attempt to %a+ global '([^']+)' %(a nil value%)$")
        or message:match("^attempt to perform arithmetic on global '([^']+)' %(a nil value%)$")
        or message:match("^attempt to concatenate global '([^']+)' %(a nil value%)$")
        or message:match("^attempt to get length of global '([^']+)' %(a nil value%)$")
end

local foreign = {
    None = "nil", null = "nil", True = "true", False = "false", nullptr = "nil", len = "#value", str = "tostring",
    exit = "quit()", int = "math.floor", printf = "print(string.format(...))",
}

--- Hint about a name that nothing has: what Lua calls it, a local of an earlier line, or the nearest global.
function M.hint_for_name(name, names, locals)
    if foreign[name] then return ("Lua writes %s"):format(foreign[name]) end
    if locals and locals[name] then
        return ("'%s' was local to the line that made it; leave out `local` to keep it"):format(name)
    end
    local similar = suggest.nearest(name, names)
    return similar and ("did you mean '%s'?"):format(similar) or nil
end

-- For "attempt to call field 'x'": the table that the line takes it from, if it is a global of that name.
local function hint_for_field(name, line, environment)
    local owner = line and line:match("([%a_][%w_]*)%s*[.:]%s*" .. name:gsub("%p", "%%%0"))
    local known, value = environment.resolve(owner or "")
    if not known then return nil end
    local names = environment.fields(value)
    local similar = suggest.nearest(name, names)
    return similar and ("did you mean '%s'?"):format(similar)
end

-- For a method that the line calls with a dot: its object is a table that has it from its metatable. (Recipes, which
-- can be called themselves, have functions there.)
local function hint_for_dot(line, environment)
    local owner, name, argument = (line or ""):match("([%a_][%w_]*)%.([%a_][%w_]*)%s*%(%s*([%w_]*)")
    if not owner or argument == owner then return nil end
    local known, value = environment.resolve(owner)
    local meta = known and type(value) == "table" and debug.getmetatable(value)
    if not meta or meta.__call or rawget(value, name) ~= nil then return nil end
    local found, method = environment.resolve(owner .. "." .. name)
    if not found or type(method) ~= "function" then return nil end
    return ("a method is called with a colon, %s:%s(...)"):format(owner, name)
end

local function hint_for_syntax(token, line)
    if not line then return nil end
    if token == "!" and line:find("!=", 1, true) then return "Lua writes ~= for not equal" end
    if token == "!" then return "Lua writes `not`; a line that begins with ! is for the shell" end
    if token == "&" or token == "|" then return "Lua writes `and` and `or`" end
    if token == "+" and line:find("%+[+=]") or token == "=" and line:find("[-+*/]=") then
        return "Lua writes x = x + 1"
    end
    if token == "=" and line:find("^%s*%l*if%s") then return "Lua writes == to compare" end
    return nil
end

-- Sentence and hint of a report whose line of source is `line`.
local function explain(report, line, environment)
    local message = report.message
    local name = nil_global(message)
    if name then
        return ("there is no global '%s'"):format(name),
            M.hint_for_name(name, environment.names(), environment.locals)
    end
    name = message:match("^attempt to call %a+ '([^']+)' %(a nil value%)$")
    if name then return ("there is no function '%s' here"):format(name), hint_for_field(name, line, environment) end
    local token = message:match(" near '(.-)'$")
    if token then return message, hint_for_syntax(token, line) end
    return message, type(report.value) == "table" and report.value.hint or hint_for_dot(line, environment)
end

local function place_of(report)
    if chunk.source(report.source:sub(2)) then return nil end
    local path = report.source:sub(2)
    if path:sub(1, #MOONLOOM_HOME + 1) == MOONLOOM_HOME .. "/" then path = path:sub(#MOONLOOM_HOME + 2) end
    return ("%s:%d"):format(path, report.line)
end

-- The numbered line, and a mark under the word that the message is about.
local function quote_line(report, line, paint)
    local label = ("%5d | "):format(report.line)
    local shown = line:gsub("\t", " ")
    local out = paint("dim", label) .. shown
    local word = culprit(report.message)
    local first, last
    if word and word ~= "<eof>" then first, last = find_word(shown, word, report.message:find(" near '", 1, true)) end
    if not first then
        first, last = shown:find("%S.*%S")
        if not first then return out end
    end
    return out .. "\n" .. (" "):rep(#label + first - 1) .. paint("mark", ("^"):rep(last - first + 1))
end

--- The text of a report, to be printed as it is. `environment` knows names (repl/environment.lua).
function M.render(report, environment, paint)
    local line = report.source and source_line(report)
    local sentence, hint = explain(report, line, environment)
    local place = report.source and place_of(report)
    local out = { paint("error", "error: ") .. sentence }
    if place then out[#out + 1] = paint("dim", "   at " .. place) end
    if line then out[#out + 1] = quote_line(report, line, paint) end
    if hint then out[#out + 1] = paint("hint", " hint: ") .. hint end
    return table.concat(out, "\n")
end

return M
