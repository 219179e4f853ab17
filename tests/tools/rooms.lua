--- Who knows whom in core, computed from its sources: `luajit tests/tools/rooms.lua [FOLDER]` (or any Lua 5.1, or
--- build/moonloom). Prints what is wrong, a sentence each, and exits with 1; a line that counts, and 0, if nothing is.
--
-- x.c and x.h are one file, "x". An arrow goes from A to B where A includes B, or names in code what B exports: a
-- function or a variable that is not static, where one .c alone defines it. A declaration is no arrow, and neither are
-- comments and strings. A template (x.c.h) is no file of its own: what it includes and names, all that include it do;
-- of circles, though, it is free: it is compiled once for each instruction set, below the table of them all, and may
-- ask that table. The public header moonloom.h is none either: it is everybody's.
--
-- Wrong is a circle of files, and an arrow from a folder to one that stands after it in ORDER, or that is closed to it.
local M = {}

--- The folders; each knows only itself and those before it.
M.ORDER = { "base", "dtype", "kernels", "tensor", "load", "text", "kv", "model" }

-- Folders that stand before kv and yet are none of its business; what is for looking and measuring reads tensors.
local CLOSED = { kv = { tensor = "kv/lab/", load = true, text = true } }

-- `text` with comments, and what stands in quotes, as blanks; line breaks stay. `quotes` keeps the quoted text.
local function bare(text, quotes)
    local parts, at = {}, 1
    while true do
        local from = text:find("[/\"']", at)
        if not from then break end
        local mark, to = text:sub(from, from), from
        if text:sub(from, from + 1) == "/*" then
            to = select(2, text:find("*/", from + 2, true)) or #text
        elseif text:sub(from, from + 1) == "//" then
            to = (text:find("\n", from, true) or #text + 1) - 1
        elseif mark ~= "/" then
            to = from + 1
            while to < #text and text:sub(to, to) ~= mark and text:sub(to, to) ~= "\n" do
                to = to + (text:sub(to, to) == "\\" and 2 or 1)
            end
        end
        local token = text:sub(from, to)
        parts[#parts + 1] = text:sub(at, from - 1)
        parts[#parts + 1] = (token == "/" or quotes and mark ~= "/") and token or token:gsub("[^\n]", " ")
        at = to + 1
    end
    parts[#parts + 1] = text:sub(at)
    return table.concat(parts)
end

-- The lines of the preprocessor, those that go on included, taken out of `code`: { includes = { path -> line } },
-- `code` with blanks in their place but for what #define puts in.
local function preprocess(quoted, code)
    local includes, number = {}, 0
    for line in (quoted .. "\n"):gmatch("(.-)\n") do
        number = number + 1
        local path = line:match('^%s*#%s*include%s*"([^"]+)"')
        if path then includes[path] = includes[path] or number end
    end
    local lines, directive, defines = {}, false, {}
    for line in (code .. "\n"):gmatch("(.-)\n") do
        directive = directive or line:find("^%s*#") ~= nil
        if directive then
            defines[#lines + 1] = line:match("^%s*#%s*define%s+[%w_]+(.*)") or not line:find("^%s*#") and line
        end
        lines[#lines + 1] = directive and "" or line
        if not line:find("\\%s*$") then directive = false end
    end
    return includes, table.concat(lines, "\n"), defines
end

-- The name that a top-level head ("static int x(void)", "const table x[]") is about; nil for types and the like.
local function declared(head)
    head = head:gsub("__attribute__%s*%b()", " "):gsub("_Alignas%s*%b()", " "):gsub("__asm__%s*%b()", " ")
    if head:find("^%s*typedef%f[^%w_]") then return nil end
    local name = head:match("([%a_][%w_]*)%s*%(")
    if name then return name, true end
    return head:match("([%a_][%w_]*)%s*$") or head:gsub("%b[]", ""):match("([%a_][%w_]*)%s*$")
end

-- Calls found(name, offset) for each identifier of code[from..to] that is no member.
local function each_name(code, from, to, found)
    for offset, name in code:sub(from, to):gmatch("()([%a_][%w_]*)") do
        local before = code:sub(math.max(from + offset - 3, 1), from + offset - 2)
        if not before:find("%.$") and not before:find("->$", 1) then found(name, from + offset - 1) end
    end
end

-- The top level of `code`, a declaration at a time: each(head, from, to), where from..to is the body or the initial
-- value (nil if there is none).
local function each_declaration(code, each)
    local at, before = 1, ""
    while true do
        local stop = code:find("[;{=]", at)
        if not stop then return end
        local head, mark = before .. code:sub(at, stop - 1), code:sub(stop, stop)
        before = ""
        if mark == ";" then
            each(head)
            at = stop + 1
        elseif mark == "{" then
            local _, to = code:find("^%b{}", stop)
            to = to or #code
            each(head, stop, to)
            at = to + 1
            before = not head:find("%(") and head .. " {} " or "" -- struct x {...} name = ...; goes on
        else
            local to = stop
            repeat -- to the semicolon outside of braces
                to = code:find("[;{]", to + 1) or #code
                local open = code:sub(to, to) == "{"
                if open then to = select(2, code:find("^%b{}", to)) or #code end
            until not open
            each(head, stop, to)
            at = to + 1
        end
    end
end

-- What a file of `text` includes, exports and names: { includes = {path -> line}, exports = {name -> line},
-- uses = {name -> line} }.
function M.read(text)
    local includes, code, defines = preprocess(bare(text, true), bare(text))
    local file = { includes = includes, exports = {}, uses = {} }
    local ends, own = {}, {}
    for offset in code:gmatch("()\n") do ends[#ends + 1] = offset end
    local function line_of(offset)
        local low, high = 1, #ends + 1
        while low < high do
            local middle = math.floor((low + high) / 2)
            if ends[middle] < offset then low = middle + 1 else high = middle end
        end
        return low
    end
    local function use(name, line) file.uses[name] = file.uses[name] or line end
    each_declaration(code, function(head, from, to)
        local name, is_function = declared(head)
        local is_static = head:find("%f[%w_]static%f[^%w_]") ~= nil
        if name and is_static then own[name] = true end
        local is_type = not is_function and head:find("^%s*[%a]+%s+[%w_]*%s*$") and (head:find("^%s*enum%f[^%w_]")
            or head:find("^%s*struct%f[^%w_]") or head:find("^%s*union%f[^%w_]"))
        local defines_it = from or not is_function and not head:find("%f[%w_]extern%f[^%w_]")
        if name and defines_it and not is_static and not is_type then
            file.exports[name] = file.exports[name] or line_of(from or 1)
        end
        if from then
            each_name(code, from, to, function(word, offset) use(word, line_of(offset)) end)
        end
    end)
    for line, define in pairs(defines) do
        if define then each_name(define, 1, #define, function(word) use(word, line) end) end
    end
    for name in pairs(own) do file.exports[name], file.uses[name] = nil, nil end -- static ones hide others
    return file
end

local function sorted_keys(set)
    local list = {}
    for key in pairs(set) do list[#list + 1] = key end
    table.sort(list)
    return list
end

local function is_template(path) return path:find("%.c%.h$") ~= nil end

local function node_of(path) return (path:gsub("%.[ch]$", "")) end

-- name -> path of the one .c that defines it; false where several do.
local function exporters(files, paths)
    local home = {}
    for _, path in ipairs(paths) do
        if path:find("%.c$") then
            for name in pairs(files[path].exports) do
                home[name] = home[name] == nil and path
            end
        end
    end
    return home
end

--- The graph of files { path -> text }, paths as #include writes them: { node -> { node -> why, such as "kv/cache.c:12
--- names ml_page_level of kv/levels.c" } }; the same with what templates do; the sorted nodes.
function M.graph(texts)
    local files, paths, graph, whole, nodes = {}, {}, {}, {}, {}
    for path, text in pairs(texts) do
        if path ~= "moonloom.h" then
            files[path] = M.read(text)
            paths[#paths + 1] = path
        end
    end
    table.sort(paths)
    local home = exporters(files, paths)
    local function add(node, to, path, line, how)
        local other = node_of(to)
        if other == node then return end
        local why = ("%s:%d %s"):format(path, line, how)
        whole[node][other] = whole[node][other] or why
        if not is_template(path) then graph[node][other] = graph[node][other] or why end
    end
    local function look(node, path, seen)
        local file = files[path]
        if not file or seen[path] then return end
        seen[path] = true
        for _, included in ipairs(sorted_keys(file.includes)) do
            if is_template(included) then
                look(node, included, seen)
            elseif files[included] then
                add(node, included, path, file.includes[included], "includes " .. included)
            end
        end
        for _, name in ipairs(sorted_keys(file.uses)) do
            if home[name] then
                add(node, home[name], path, file.uses[name], ("names %s of %s"):format(name, home[name]))
            end
        end
    end
    for _, path in ipairs(paths) do
        local node = node_of(path)
        if not is_template(path) then
            if not graph[node] then
                graph[node], whole[node] = {}, {}
                nodes[#nodes + 1] = node
            end
            look(node, path, {})
        end
    end
    return graph, whole, nodes
end

-- The shortest way from `node` back to itself: a list of nodes; nil if there is none.
local function circle_through(graph, node)
    local from, queue, at = {}, { node }, 1
    while queue[at] do
        for _, to in ipairs(sorted_keys(graph[queue[at]])) do
            if to == node then
                local way, step = {}, queue[at]
                while step do
                    table.insert(way, 1, step)
                    step = from[step]
                end
                return way
            elseif graph[to] and not from[to] then
                from[to] = queue[at]
                queue[#queue + 1] = to
            end
        end
        at = at + 1
    end
end

-- Nodes that `node` reaches.
local function reach(graph, node)
    local seen, stack = {}, { node }
    while #stack > 0 do
        for to in pairs(graph[table.remove(stack)] or {}) do
            if not seen[to] then
                seen[to] = true
                stack[#stack + 1] = to
            end
        end
    end
    return seen
end

-- A sentence for each group of files that know each other: who they are, and the shortest circle among them.
local function tell_circles(graph, nodes, tell)
    local told, reached = {}, {}
    for _, node in ipairs(nodes) do reached[node] = reach(graph, node) end
    for _, node in ipairs(nodes) do
        if reached[node][node] and not told[node] then
            local members, best = {}, nil
            for _, other in ipairs(nodes) do
                if reached[node][other] and reached[other][node] then
                    told[other], members[#members + 1] = true, other
                    local way = circle_through(graph, other)
                    if not best or #way < #best then best = way end
                end
            end
            local steps = {}
            for i, one in ipairs(best) do steps[i] = graph[one][best[i + 1] or best[1]] end
            tell(("a circle of %d files (%s): %s"):format(#members, table.concat(members, ", "),
                table.concat(steps, "; ")))
        end
    end
end

local function tell_arrows(graph, nodes, tell)
    local rank = {}
    for i, folder in ipairs(M.ORDER) do rank[folder] = i end
    for _, node in ipairs(nodes) do
        local folder = node:match("^[^/]*")
        if not rank[folder] then
            tell(("%s stands in no folder of the order %s"):format(node, table.concat(M.ORDER, ", ")))
        end
        for _, to in ipairs(sorted_keys(graph[node])) do
            local other = to:match("^[^/]*")
            local closed = (CLOSED[folder] or {})[other]
            if rank[folder] and rank[other] and rank[other] > rank[folder] then
                tell(("%s: %s stands before %s and must not know it"):format(graph[node][to], folder, other))
            elseif closed == true or closed and node:sub(1, #closed) ~= closed then
                tell(("%s: %s must not know %s%s"):format(graph[node][to], folder, other,
                    closed == true and "" or "; only " .. closed .. " may"))
            end
        end
    end
end

--- What is wrong with files { path -> text }: a list of sentences, empty if nothing is; how many files and arrows.
function M.check(texts)
    local problems, arrows = {}, 0
    local graph, whole, nodes = M.graph(texts)
    local function tell(sentence) problems[#problems + 1] = sentence end
    tell_circles(graph, nodes, tell)
    tell_arrows(whole, nodes, tell)
    for _, node in ipairs(nodes) do arrows = arrows + #sorted_keys(whole[node]) end
    return problems, #nodes, arrows
end

-- { path below folder -> text } of its C files.
local function read_folder(folder)
    local texts = {}
    local pipe = assert(io.popen(("cd '%s' && find . -name '*.[ch]'"):format(folder)))
    for line in pipe:lines() do
        local path = line:gsub("^%./", "")
        local file = assert(io.open(folder .. "/" .. path, "rb"))
        texts[path] = file:read("*a")
        file:close()
    end
    pipe:close()
    return texts
end

if arg and tostring(arg[0]):find("rooms%.lua$") then
    local problems, files, arrows = M.check(read_folder(arg[1] or "core"))
    for _, problem in ipairs(problems) do print(problem) end
    if files == 0 then problems[1] = print("there is no C file below " .. (arg[1] or "core")) or true end
    if #problems > 0 then os.exit(1) end
    print(("%d files, %d arrows"):format(files, arrows))
end

return M
