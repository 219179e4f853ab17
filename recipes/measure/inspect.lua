--- What is in a model file: metadata, tensors, sizes, and how long it took to open. Or in a saved session.
local moonloom = require "moonloom"
local progress = require "moonloom._core.progress"
local weights = require "moonloom.weights"

local LONG = 64 -- items of an array that are given in full
local SHOWN = 8 -- items of a longer one

local function read_value(file, key, all)
    local kind, item, count = file:kind(key)
    if item == "array" then return { type = "array", count = count } end
    if kind ~= "array" or all or count <= LONG then return file:meta(key) end
    return { type = item, count = count, first = file:meta(key, SHOWN) }
end

local function describe(value)
    if type(value) == "cdata" then return (tostring(value):gsub("U?LL$", "")) end
    if type(value) ~= "table" then return tostring(value) end
    local items = value.first or value
    local shown = {}
    for i = 1, math.min(#items, SHOWN) do shown[i] = describe(items[i]) end
    local text = ("[%s%s]"):format(table.concat(shown, ", "), #shown < (value.count or #items) and ", ..." or "")
    return value.count and ("%d x %s %s"):format(value.count, value.type, text) or text
end

-- Control characters would move the cursor; long texts would hide the rest.
local function one_line(text)
    text = text:gsub("%c", function(c) return c == "\n" and "\\n" or ("\\x%02x"):format(c:byte()) end)
    return #text > 96 and text:sub(1, 93):gsub("[\192-\255][\128-\191]*$", "") .. "..." or text
end

-- Tensors and bytes of each type, the largest first.
local function sizes_by_type(tensors)
    local found, list = {}, {}
    for _, tensor in ipairs(tensors) do
        local entry = found[tensor.type]
        if not entry then
            entry = { type = tensor.type, tensors = 0, bytes = 0, elements = 0 }
            found[tensor.type], list[#list + 1] = entry, entry
        end
        entry.tensors, entry.bytes = entry.tensors + 1, entry.bytes + tensor.bytes
        entry.elements = entry.elements + weights.elements(tensor)
    end
    table.sort(list, function(a, b) return a.bytes > b.bytes or (a.bytes == b.bytes and a.type < b.type) end)
    return list
end

local function is_saved(path)
    local file = io.open(path, "rb")
    local magic = file and file:read(6)
    if file then file:close() end
    return magic == "moonkv"
end

local Report = {}

-- The report as a person reads it.
function Report:__tostring()
    local lines = {}
    local function say(...)
        lines[#lines + 1] = (...):format(select(2, ...)):gsub("%s+$", "")
    end
    say("architecture: %s", one_line(self.architecture or "(not given)"))
    say("")
    local keys = {}
    for key in pairs(self.metadata) do keys[#keys + 1] = key end
    table.sort(keys)
    for _, key in ipairs(keys) do say("%-44s %s", key, one_line(describe(self.metadata[key]))) end
    say("")
    say("%-8s %8s %16s %12s", "type", "tensors", "elements", "bytes")
    for _, entry in ipairs(sizes_by_type(self.tensors)) do
        say("%-8s %8d %16d %12s", entry.type, entry.tensors, entry.elements, progress.amount(entry.bytes, "B"))
    end
    say("")
    say("%-40s %-8s %-22s %12s %14s", "tensor", "type", "shape", "bytes", "offset")
    for _, tensor in ipairs(self.tensors) do
        say("%-40s %-8s %-22s %12d %14d", tensor.name, tensor.type, table.concat(tensor.shape, " x "), tensor.bytes,
            tensor.offset)
    end
    local times = self.timings_ms
    say("")
    say("opened in %.2f ms: header %.2f, metadata %.2f, tensors %.2f", times.header + times.metadata + times.tensors,
        times.header, times.metadata, times.tensors)
    return table.concat(lines, "\n")
end

local function run(p)
    if p.file and is_saved(p.file) then return moonloom.saved(p.file) end
    local file = p.file and weights.open(p.file) or moonloom.current(p.model).weights
    local report = { metadata = {}, tensors = file:tensors(), timings_ms = file:timings() }
    for _, key in ipairs(file:keys()) do report.metadata[key] = read_value(file, key, p.all) end
    local architecture = report.metadata["general.architecture"]
    report.architecture = type(architecture) == "string" and architecture or nil
    if p.file then file:close() end
    return setmetatable(report, Report)
end

return {
    name = "inspect",
    summary = "show the metadata, tensors and sizes of a model file, or what a saved session is of",
    parameters = {
        { name = "file", type = "path", positional = true, doc = "GGUF file or saved session; default: the model's" },
        { name = "all", default = false, type = "boolean", doc = "give long arrays in full" },
    },
    run = run,
}
