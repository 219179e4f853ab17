--- ?name and ??name: help from the comments above functions, the parameters of recipes, the C header; and source text.
local catalogue = require "repl.catalogue"
local chunk = require "repl.chunk"
local environment = require "repl.environment"
local native = require "repl.native"
local pretty = require "repl.pretty"
local recipes = require "repl.recipes"
local style = require "repl.style"
local suggest = require "moonloom._core.suggest"

local M = {}

local function read(path)
    local file = io.open(path, "r")
    if not file then return nil end
    local text = file:read("*a")
    file:close()
    return text
end

local function split(text)
    local lines = {}
    for line in (text:gsub("\n$", "") .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
    return lines
end

local function short(path)
    return path:sub(1, #MOONLOOM_HOME + 1) == MOONLOOM_HOME .. "/" and path:sub(#MOONLOOM_HOME + 2) or path
end

-- Lines of the file or typed chunk that function `value` comes from, its place for the reader, first and last line.
local function function_source(value)
    local info = debug.getinfo(value, "S")
    if info.what == "C" or info.linedefined < 0 then return nil end
    local name = info.source:sub(2)
    local text = chunk.source(name) or info.source:sub(1, 1) == "@" and read(name)
    if not text then return nil end
    local first = math.max(1, info.linedefined)
    return split(text), short(name), first, info.linedefined == 0 and math.huge or info.lastlinedefined
end

-- The comment block that ends just above line `at`, without its dashes.
local function comment_above(lines, at)
    local first = at
    while first > 1 and lines[first - 1]:find("^%s*%-%-") do first = first - 1 end
    local out = {}
    for i = first, at - 1 do out[#out + 1] = (lines[i]:gsub("^%s*%-%-%-?%s?", "")) end
    return out
end

-- Joins the lines of a paragraph again, so that it can be wrapped to another width.
local function reflow(lines)
    local out = {}
    for _, line in ipairs(lines) do
        local last = out[#out]
        if last and #last > 80 and line:find("^%S") then out[#out] = last .. " " .. line else out[#out + 1] = line end
    end
    return out
end

local function help_function(value, name, paint)
    local lines, place, first = function_source(value)
    if not lines then
        return paint("strong", name) .. "   a function of Lua itself\n"
            .. "https://www.lua.org/manual/5.1/manual.html#pdf-" .. name
    end
    local signature = lines[first]:match("function%s*[%w_.:]*%s*(%b())") or "()"
    local out = { paint("strong", name .. signature) .. paint("dim", ("   %s:%d"):format(place, first)) }
    local comment = comment_above(lines, first)
    if #comment == 0 then out[#out + 1] = "No comment stands above it; ??" .. name .. " shows its source." end
    for _, line in ipairs(reflow(comment)) do out[#out + 1] = line end
    return table.concat(out, "\n")
end

-- First sentence of the comment above a function, for lists.
local function summary_of(value)
    if type(value) ~= "function" then return "" end
    local lines, _, first = function_source(value)
    if not lines then return "" end
    local text = table.concat(comment_above(lines, first), " ")
    return (text .. " "):match("^(.-[^.])%.%s") or text
end

-- "name   text" rows in two columns.
local function rows(list, paint)
    local wide, out = 0, {}
    for _, row in ipairs(list) do wide = math.max(wide, #row[1]) end
    for _, row in ipairs(list) do
        local lead = 2 + wide + 2
        local text = style.wrap((" "):rep(lead) .. row[2], native.columns() - 1, 0)
        out[#out + 1] = "  " .. paint("name", row[1]) .. text:sub(2 + #row[1] + 1)
    end
    return table.concat(out, "\n")
end

-- The comment that opens a file, as lines; nil if there is none.
local function head_comment(path)
    local lines, stop = split(read(path) or ""), 1
    while lines[stop] and lines[stop]:find("^%-%-") do stop = stop + 1 end
    return stop > 1 and reflow(comment_above(lines, stop)) or nil
end

local function help_recipe(recipe, paint)
    local out = { paint("strong", recipe.name) .. "   " .. (recipe.summary or "") }
    for _, line in ipairs(recipe.path and head_comment(recipe.path) or {}) do out[#out + 1] = line end
    local list = catalogue.parameter_rows(recipe.parameters, pretty.show)
    if #list > 0 then out[#out + 1] = rows(list, paint) end
    list = catalogue.rows(recipe.name)
    if list then out[#out + 1] = rows(list, paint) end
    out[#out + 1] = paint("dim", ("a recipe: %s{...} here, `moonloom %s --help` in a shell, ??%s its source (%s)")
        :format(recipe.name, recipe.name, recipe.name, short(recipe.path or "?")))
    return table.concat(out, "\n")
end

-- Comment lines that open the file of a module in package.loaded.
local function module_comment(value)
    for name, loaded in pairs(package.loaded) do
        if loaded == value and value ~= _G then
            local path = package.searchpath(name, package.path)
            local lines = path and head_comment(path)
            if lines then return table.concat(lines, "\n"), path end
        end
    end
end

local function help_table(value, name, paint)
    local comment, path = module_comment(value)
    local out = { paint("strong", name) .. (path and paint("dim", "   " .. short(path)) or "") }
    if comment then out[#out + 1] = comment end
    local list = {}
    for _, field in ipairs(environment.fields(value)) do
        local item = environment.get(value, field)
        if environment.is_callable(item) then
            list[#list + 1] = { field, summary_of(item) }
        elseif not comment then
            local text = pretty.show(item)
            list[#list + 1] = { field, text:find("\n", 1, true) and "a table" or text }
        end
    end
    if #list > 0 then out[#out + 1] = rows(list, paint) end
    return table.concat(out, "\n")
end

-- The head of the file at `path`, which `name` stands for.
local function help_file(name, path, paint)
    local lines = head_comment(path)
    return lines and paint("strong", name) .. paint("dim", "   " .. short(path)) .. "\n" .. table.concat(lines, "\n")
end

local FOLDERS = { "", "cache.", "recipe.", "chat.", "file.", "bench." }

-- The head of a file of lua/moonloom, which is the manual of what it is about: of one thing or of many ("sessions").
local function help_module(name, paint)
    name = name:gsub("^moonloom%.", "")
    for _, word in ipairs { name, (name:gsub("s$", "")) } do
        for _, folder in ipairs(FOLDERS) do
            local path = word:find("^[%w_.]+$") and package.searchpath("moonloom." .. folder .. word, package.path)
            local page = path and help_file(word, path, paint)
            if page then return page end
        end
    end
end

-- The declaration of the C function `name` in the contract: first line of its comment, last line of itself.
local function find_declaration(name)
    local lines = split(require("moonloom._core.ffi").header)
    for i, line in ipairs(lines) do
        if line:find("%f[%w_]" .. name .. "%(") and line:find("^[%a]") then
            local last, first = i, i
            while not lines[last]:find(";%s*$") and last < #lines do last = last + 1 end
            while first > 1 and lines[first - 1]:find("^[/ ]%*") do
                first = first - 1
                if lines[first]:find("^/%*") then break end
            end
            return lines, first, i, last
        end
    end
end

local function help_declaration(name, paint)
    local lines, first, at, last = find_declaration(name)
    if not lines then return nil end
    local out = {}
    for i = at, last do out[#out + 1] = paint("strong", lines[i]) end
    local comment = {}
    for i = first, at - 1 do comment[#comment + 1] = (lines[i]:gsub("^[/ ]%*+%s?", ""):gsub("%s*%*/%s*$", "")) end
    for _, line in ipairs(reflow(comment)) do out[#out + 1] = line end
    out[#out + 1] = paint("dim", ("a C function of core/moonloom.h:%d; from Lua: require(\"moonloom._core.ffi\").C.%s")
        :format(at, name))
    return table.concat(out, "\n")
end

-- Definitions of a function or method called `name` in the loaded Lua modules of moonloom:
-- { { shown name, lines, line, place }, ... }.
local function find_definitions(name)
    local found = {}
    local bare = name:match("[%w_]+$") or name
    for module in pairs(package.loaded) do
        local path = module:find("^moonloom") and package.searchpath(module, package.path)
        local lines = path and split(read(path) or "") or {}
        for i, line in ipairs(lines) do
            local owner = line:match("^function%s+([%w_.]+)[.:]" .. bare .. "%s*%(")
            if owner then
                local label = line:match("^function%s+([%w_.:]+%s*%b())") or bare
                found[#found + 1] = { label, lines, i, short(path) }
            end
        end
    end
    table.sort(found, function(a, b) return a[4] < b[4] or a[4] == b[4] and a[3] < b[3] end)
    return found
end

local function help_definitions(name, paint)
    local out = {}
    for _, item in ipairs(find_definitions(name)) do
        out[#out + 1] = paint("strong", item[1]) .. paint("dim", ("   %s:%d"):format(item[4], item[3]))
        for _, line in ipairs(reflow(comment_above(item[2], item[3]))) do out[#out + 1] = line end
    end
    return #out > 0 and table.concat(out, "\n") or nil
end

local function unknown(name)
    local similar = suggest.nearest(name:match("[%w_]+$") or name, catalogue.with_all(environment.help_names()))
    return ("nothing is called '%s'%s"):format(name, similar and ("; did you mean '%s'?"):format(similar) or "")
end

local function help_value(value, name, paint)
    local recipe = recipes.describe(value)
    if recipe then return help_recipe(recipe, paint) end
    if recipes.path(value) then return help_file(name, recipes.path(value), paint) end
    if type(value) == "function" then return help_function(value, name, paint) end
    local summary = environment.summary(name)
    if summary and type(value) ~= "table" then return paint("strong", name) .. "   " .. summary end
    local fields = environment.fields(value)
    if type(value) == "table" or #fields > 0 then
        return (summary and summary .. "\n" or "") .. help_table(value, name, paint)
    end
    return name .. " = " .. pretty.show(value)
end

--- Help on `name` (a path such as `ml.load`), or nil and a sentence if nothing is called so.
function M.about(name, paint)
    local known, value = environment.resolve(name)
    if known then return help_value(value, name, paint) end
    local pages = { catalogue.about(name, { paint = paint, show = pretty.show, short = short,
        rows = function(list) return rows(list, paint) end }) }
    pages[#pages + 1] = help_module(name, paint)
    if #pages > 0 then return table.concat(pages, "\n") end
    local text = help_declaration(name, paint) or help_definitions(name, paint)
    if text then return text end
    if environment.summary(name) then return paint("strong", name) .. "   " .. environment.summary(name) end
    return nil, unknown(name)
end

local function number_lines(lines, first, last, paint)
    local out = {}
    for i = first, math.min(last, #lines) do out[#out + 1] = paint("dim", ("%5d  "):format(i)) .. lines[i] end
    return table.concat(out, "\n")
end

local function file_source(path, paint)
    local lines = split(read(path) or "")
    return paint("strong", short(path)) .. "\n" .. number_lines(lines, 1, #lines, paint)
end

--- Source of `name` with line numbers, or nil and a sentence.
function M.source(name, paint)
    local known, value = environment.resolve(name)
    if known and recipes.path(value) then
        return file_source(recipes.path(value), paint)
    elseif known and type(value) == "function" then
        local lines, place, first, last = function_source(value)
        if not lines then return nil, name .. " is built in; it has no Lua source" end
        local top = first - #comment_above(lines, first)
        return paint("strong", place) .. "\n" .. number_lines(lines, top, last, paint)
    elseif known then
        return nil, name .. " is no function; ?" .. name .. " tells about it"
    end
    local path = catalogue.path(name)
    if path then return file_source(path, paint) end
    local lines, first, _, last = find_declaration(name)
    if lines then return paint("strong", "core/moonloom.h") .. "\n" .. number_lines(lines, first, last, paint) end
    local definition = find_definitions(name)[1]
    if not definition then return nil, unknown(name) end
    local stop = definition[3]
    while definition[2][stop] and not definition[2][stop]:find("^end") do stop = stop + 1 end
    return paint("strong", definition[4]) .. "\n" .. number_lines(definition[2], definition[3], stop, paint)
end

--- What `?` alone shows: what to type, and what there is. `commands` are rows { "%time x", "text" }.
function M.overview(commands, paint)
    local recipe_rows, offered = {}, {}
    for _, name in ipairs(recipes.names()) do
        local info, problem = recipes.info(name)
        if info or problem then
            recipe_rows[#recipe_rows + 1] = { name, info and info.summary or "(its file cannot be loaded)" }
        end
    end
    for _, row in ipairs(environment.offered()) do offered[#offered + 1] = row end
    local out = {
        "Type Lua. The value of an expression is shown, and `_` is the last one.",
        paint("strong", "At the start of a line"), rows(commands, paint),
    }
    if #recipe_rows > 0 then
        out[#out + 1] = paint("strong", "Recipes") .. " (edit one while it runs: the next token uses it)"
        out[#out + 1] = rows(recipe_rows, paint)
    end
    out[#out + 1] = paint("strong", "Names")
    out[#out + 1] = rows(offered, paint)
    out[#out + 1] = paint("strong", "Keys")
    out[#out + 1] = rows({
        { "Tab", "complete names, fields, methods, parameters, file paths" },
        { "Ctrl-R", "search the history" },
        { "Ctrl-C", "stop what runs, or give up the line" },
        { "Ctrl-D", "leave" },
    }, paint)
    return table.concat(out, "\n")
end

return M
