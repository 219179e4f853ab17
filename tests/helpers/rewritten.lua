-- A model file with parts of it changed.
local folder = require "helpers.folder"
local weights = require "moonloom.weights"
local writer = require "moonloom.file.gguf_writer"

local kinds = { integer = "u32", float = "f64", boolean = "bool", string = "string" }

--- Writes a copy of the model file at `from` as `name` and returns its path. `meta` { [key] = { kind, value } } and
--- `tensors` { [name] = { dtype, shape, bytes } } replace what is there, or come to it.
return function(from, name, meta, tensors)
    local source, path = weights.open(from), folder.path(name)
    local bytes, order = folder.read(from), {}
    writer.save(path, { force = true }, function(file)
        for _, key in ipairs(source:keys()) do
            local kind, item = source:kind(key)
            if not meta[key] then
                file:meta(key, kinds[item] .. (kind == "array" and "[]" or ""), source:meta(key))
            end
        end
        for key, value in pairs(meta) do file:meta(key, value[1], value[2]) end
        for _, info in ipairs(source:tensors()) do
            if not tensors[info.name] then
                local data = bytes:sub(info.offset + 1, info.offset + info.bytes)
                order[#order + 1] = { info.name, info.type, info.shape, data }
            end
        end
        for tensor, new in pairs(tensors) do order[#order + 1] = { tensor, new[1], new[2], new[3] } end
        for _, tensor in ipairs(order) do file:tensor(tensor[1], tensor[2], tensor[3]) end
        for _, tensor in ipairs(order) do file:data(tensor[1], tensor[4]) end
    end)
    source:close()
    return path
end
