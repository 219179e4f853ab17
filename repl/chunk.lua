--- Typed text as Lua: compiled as an expression first, never compiled to machine code (so that Ctrl-C always reaches
--- it), and remembered by name, so that errors and `??` can show the line.
local M = {}

local sources = {} -- chunk name -> text
local count = 0

--- The text that was typed as chunk `name` ("typed 3"), or nil.
function M.source(name)
    return sources[name]
end

local function compile(text, name)
    local chunk, problem = loadstring(text, "=" .. name)
    if chunk then jit.off(chunk, true) end
    return chunk, problem
end

local function unfinished(problem)
    return problem ~= nil and problem:find("near '<eof>'", 1, true) ~= nil
        and not problem:find("unfinished string", 1, true)
end

local function pass(...)
    return ...
end

-- Compiles statements (perhaps none) that end in an expression. `return f(x)` would be a tail call, and the typed line
-- missing in the call stack of an error: so its values go through a call.
local function compile_expression(statements, expression, name)
    if not compile(statements .. "return " .. expression, name) then return nil end
    local chunk = compile(("local _pass = ... %sreturn _pass(%s\n)"):format(statements, expression), name)
    return chunk and function()
        return chunk(pass)
    end
end

-- A block whose last lines are an expression: `x = 3 <newline> x + 4` answers 7.
local function compile_block(text, name)
    local at = text:match(".*()\n")
    while at do
        local chunk = compile_expression(text:sub(1, at), text:sub(at + 1), name)
        if chunk then return chunk end
        at = text:sub(1, at - 1):match(".*()\n")
    end
end

--- Whether more lines may complete `text`.
function M.is_unfinished(text)
    local chunk, as_expression = compile("return " .. text, "unfinished")
    if chunk then return false end
    local problem
    chunk, problem = compile(text, "unfinished")
    return not chunk and (unfinished(as_expression) or unfinished(problem)) and not compile_block(text, "unfinished")
end

--- Compiles `text`, an expression or statements or statements that end in an expression. Returns the function and the
--- name of the chunk; or nil, Lua's message, and the name.
function M.compile(text)
    count = count + 1
    local name = ("typed %d"):format(count)
    sources[name] = text
    local chunk = compile_expression("", text, name)
    if chunk then return chunk, name end
    local problem
    chunk, problem = compile(text, name)
    chunk = chunk or compile_block(text, name)
    if chunk then return chunk, name end
    return nil, problem, name
end

--- Compiles the text of a script: statements first, so that a call is no value to be shown. Returns the function and
--- whether it is an expression; or nil and Lua's message.
function M.compile_script(text, name)
    sources[name] = text
    local chunk, problem = compile(text, name)
    if chunk then return chunk, false end
    chunk = compile_expression("", text, name)
    if chunk then return chunk, true end
    return nil, problem
end

return M
