--- Reads Lua text up to the cursor: is it inside a string or a comment, which bracket is open, who is called there.
local M = {}

-- Skips a long bracket (string or comment body) that opens at `at`; nil if it is none, #text + 1 if it has no end.
local function long_bracket(text, at)
    local level = text:match("^%[(=*)%[", at)
    if not level then return nil end
    local _, stop = text:find("]" .. level .. "]", at, true)
    return stop and stop + 1 or #text + 1, not stop
end

-- The end of the quoted string at `at`, or nil and where its text begins if it is still open.
local function quoted(text, at)
    local quote, i = text:sub(at, at), at + 1
    while i <= #text do
        local c = text:sub(i, i)
        if c == "\\" then
            i = i + 1
        elseif c == quote then
            return i + 1
        elseif c == "\n" then
            return i + 1
        end
        i = i + 1
    end
    return nil
end

--- Where the end of `text` stands:
--- { kind = "code" | "string" | "comment", start = first byte of the open string's text,
---   open = { bracket, callee, at, around } of the innermost open bracket or nil; `around` is the one around that }
--- callee is the name path before the bracket, through `f(` and `f{` and `f({`.
function M.context(text)
    local stack, at = {}, 1
    local callee -- the name path just read
    while at <= #text do
        local c = text:sub(at, at)
        if c == "-" and text:sub(at, at + 1) == "--" then
            local stop, open = long_bracket(text, at + 2)
            if not stop then stop = text:find("\n", at, true) end
            if not stop or open then return { kind = "comment" } end
            at, callee = stop, nil
        elseif c == '"' or c == "'" then
            local stop = quoted(text, at)
            if not stop then return { kind = "string", start = at + 1, open = stack[#stack] } end
            at, callee = stop, nil
        elseif c == "[" and long_bracket(text, at) then
            local stop, open = long_bracket(text, at)
            if open then return { kind = "string", start = text:find("[", at + 1, true) + 1, open = stack[#stack] } end
            at, callee = stop, nil
        elseif c:find("[%a_]") then
            callee = text:match("^[%w_.:]+", at)
            at = at + #callee
        elseif c == "(" or c == "{" or c == "[" then
            local around = stack[#stack]
            if c == "{" and not callee and around and around.bracket == "(" and around.at == at - 1 then
                callee = around.callee
            end
            stack[#stack + 1] = { bracket = c, callee = callee, at = at, around = around }
            at, callee = at + 1, nil
        elseif c == ")" or c == "}" or c == "]" then
            stack[#stack] = nil
            at, callee = at + 1, nil
        elseif c:find("%s") then
            at = at + 1
        else
            at, callee = at + 1, nil
        end
    end
    return { kind = "code", open = stack[#stack] }
end

return M
