--- The branches of a cache, drawn: all living sessions that share it and what closed ones left behind, as a tree of the
--- tokens that they have in common.
--
--     print(session:tree())
--     session:tree():data()     -- the same as plain tables
--
-- data() is { cache, policy, sessions, kept, more, bytes, kept_bytes, branches }: numbers of sessions and of kept
-- branches, whether older kept ones are left out, and a list of nodes. A node stands for the tokens from position
-- `first` up to `last`, where it ends or parts into `branches`: { first, last, text, sessions, kept, branches }, with
-- the lists of sessions that end there as { id, this }, and kept = true where only kept prefixes have these tokens.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local progress = require "moonloom._core.progress"
local terminal = require "moonloom._core.terminal"
local C = ml.C

local M = {}

local KEPT = 20 -- branches that nobody has open, at most, unless asked for more
local HEAD, TAIL = 36, 20 -- bytes of a text that are shown
local MOST = 64 -- tokens that are looked at for that

-- ---- the tree

-- The first position from `from` on where the lists part, or the shortest ends.
local function parting(list, from)
    local first, last = list[1], list[1].count
    for i = 2, #list do
        local ids, position = list[i].ids, from
        last = math.min(last, list[i].count)
        while position < last and ids[position] == first.ids[position] do position = position + 1 end
        last = position
    end
    return last
end

local grow

-- The node of lists that agree on the token at `from` (or are empty).
local function node_of(list, from, text)
    local last = parting(list, from)
    local node, longer = { first = from, last = last, sessions = {}, kept = true }, {}
    for _, branch in ipairs(list) do
        if branch.session then node.kept = false end
        if branch.count > last then
            longer[#longer + 1] = branch
        elseif branch.session then
            table.insert(node.sessions, branch.session)
        end
    end
    node.text = text(list[1].ids, from, last)
    node.branches = grow(longer, last, text)
    return node
end

-- The nodes of lists that agree on all tokens before `from`, in their order.
function grow(list, from, text)
    local groups, found = {}, {}
    for _, branch in ipairs(list) do
        local id = branch.count > from and branch.ids[from] or -1
        if not found[id] then
            found[id] = {}
            groups[#groups + 1] = found[id]
        end
        table.insert(found[id], branch)
    end
    local nodes = {}
    for i, group in ipairs(groups) do nodes[i] = node_of(group, from, text) end
    return nodes
end

local function kept_branches(handle, list, most)
    for index = 0, most - 1 do
        local count = tonumber(C.ml_cache_kept_branch(handle, index, nil, 0))
        if count == 0 then return index, false end
        local ids = ffi.new("int32_t[?]", count)
        C.ml_cache_kept_branch(handle, index, ids, count)
        list[#list + 1] = { ids = ids, count = count }
    end
    return most, C.ml_cache_kept_branch(handle, most, nil, 0) > 0
end

-- ---- text

-- At most `bytes` bytes, whole characters of UTF-8, from the beginning or the end.
local function clip(text, bytes, at_end)
    if #text <= bytes then return text end
    if at_end then return (text:sub(-bytes):gsub("^[\128-\191]+", "")) end
    local cut = text:sub(1, bytes + 1)
    return (cut:gsub("[\192-\255]?[\128-\191]*.$", "", 1))
end

-- function(ids, first, last) -> the text of these tokens, the middle left out where it is long.
local function snippets(model)
    local function decode(ids, first, last)
        local list = {}
        for i = first, last - 1 do list[#list + 1] = ids[i] end
        return model:detokenize(list)
    end
    return function(ids, first, last)
        if last - first <= MOST then
            local whole = decode(ids, first, last)
            if #whole <= HEAD + TAIL + 5 then return whole end
            return clip(whole, HEAD) .. " ... " .. clip(whole, TAIL, true)
        end
        return clip(decode(ids, first, first + MOST / 2), HEAD) .. " ... "
            .. clip(decode(ids, last - MOST / 2, last), TAIL, true)
    end
end

-- ---- the picture

local Tree = {}
Tree.__index = Tree

local function colours()
    if terminal.has_colour(1) then
        return { dim = terminal.dim, this = function(text) return "\27[1;32m" .. text .. "\27[0m" end,
            session = function(text) return "\27[32m" .. text .. "\27[39m" end }
    end
    local function same(text) return text end
    return { dim = same, this = same, session = same }
end

local function describe(node, paint)
    local words = node.last == 0 and "(empty)"
        or ("%d..%d  %s"):format(node.first, node.last, terminal.quote(node.text))
    if node.kept then return paint.dim(words .. (#node.branches == 0 and "  kept" or "")) end
    for _, session in ipairs(node.sessions) do
        local name = ("● session %d"):format(session.id)
        words = words .. "  " .. (session.this and paint.this(name .. " (this one)") or paint.session(name))
    end
    return words
end

local function draw(nodes, lines, lead, paint, top)
    for i, node in ipairs(nodes) do
        local last = i == #nodes
        local joint, below = last and "└─ " or "├─ ", last and "   " or "│  "
        if top then joint, below = "", "" end
        lines[#lines + 1] = lead .. joint .. describe(node, paint)
        draw(node.branches, lines, lead .. below, paint, false)
    end
end

function Tree:__tostring()
    local plain, lines = rawget(self, "_data"), {}
    lines[1] = ("%s cache%s: %d session%s, %d kept branch%s; %s, %s of it only kept"):format(plain.cache,
        plain.policy and (" (%s)"):format(plain.policy) or "", plain.sessions, plain.sessions == 1 and "" or "s",
        plain.kept, plain.kept == 1 and "" or "es", progress.amount(plain.bytes, "B"),
        progress.amount(plain.kept_bytes, "B"))
    draw(plain.branches, lines, "", colours(), true)
    if plain.more then
        lines[#lines + 1] = ("older kept branches are left out; session:tree{ kept = %d } shows more")
            :format(plain.kept * 10)
    end
    return table.concat(lines, "\n")
end

--- The tree as plain tables: see above.
function Tree:data()
    return rawget(self, "_data")
end

Tree.json = Tree.data

--- The tree of the cache of `session`, whose living sessions are the list `sessions`. At most `kept` (20) of the
--- branches that nobody has open are looked at, the last used first.
function M.of(session, sessions, kept)
    local handle, list = session:shared_cache().handle, {}
    for _, other in ipairs(sessions) do
        list[#list + 1] = { ids = C.ml_sequence_ids(handle, other.sequence), count = other.position,
            session = { id = other.sequence, this = other == session } }
    end
    local number, more = kept_branches(handle, list, kept or KEPT)
    local fields = session:policy()
    local kept_bytes = tonumber(C.ml_cache_kept(handle))
    return setmetatable({ _data = {
        cache = session:shared_cache().kind, policy = fields and (fields.name or "a policy of its own"),
        sessions = #sessions, kept = number, more = more, bytes = tonumber(C.ml_cache_bytes(handle)),
        kept_bytes = kept_bytes, branches = grow(list, 0, snippets(session.model)),
    } }, Tree)
end

return M
