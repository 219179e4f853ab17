--- A model file, opened: its tensors' names and sizes, and its metadata as Lua values.
--
--     local weights = require("moonloom.weights").open("model.gguf")
--     weights:meta("general.architecture")      --> "gpt-oss"
--     weights:info("token_embd.weight").shape   --> { 201088, 2880 }
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {}

local Weights = {}
Weights.__index = Weights

--- Opens the model file at `path` (any part of a split file opens the whole). Nothing is read but its header.
function M.open(path)
    if type(path) ~= "string" then error("weights.open needs the path of a model file", 2) end
    local out = ffi.new("ml_weights *[1]")
    check(C.ml_weights_open(path, out))
    return setmetatable({ handle = ffi.gc(out[0], C.ml_weights_free), path = path }, Weights)
end

--- Numbers in a tensor as :info() describes it.
function M.elements(info)
    local count = 1
    for _, extent in ipairs(info.shape) do count = count * extent end
    return count
end

local function handle(self)
    return self.handle or error(self.path .. " is closed", 3)
end

--- Releases the file; models and tokenizers made from it keep it mapped as long as they live.
function Weights:close()
    if not self.handle then return end
    C.ml_weights_free(ffi.gc(self.handle, nil))
    self.handle = nil
end

--- Copies the files into memory of this process, under huge pages, in the place of the mapping. All that is made from
-- the weights stays valid. `progress(copied)` is called now and then. Stopped in the middle, what is copied stays so.
function Weights:copy(progress)
    local total, copied = self:bytes(), ffi.new("int64_t[1]")
    repeat
        check(C.ml_weights_copy(handle(self), copied))
        if progress then progress(tonumber(copied[0])) end
    until copied[0] >= total
    return self
end

--- Number of tensors.
function Weights:count()
    return tonumber(C.ml_weights_count(handle(self)))
end

--- Bytes of all files together.
function Weights:bytes()
    return tonumber(C.ml_weights_bytes(handle(self)))
end

--- Milliseconds that opening took: { header =, metadata =, tensors = }.
function Weights:timings()
    local out = ffi.new("double[3]")
    C.ml_weights_timings(handle(self), out)
    return { header = out[0], metadata = out[1], tensors = out[2] }
end

--- Numbers in all tensors together: the parameters of a model.
function Weights:parameters()
    local sum = 0
    for _, info in ipairs(self:tensors()) do sum = sum + M.elements(info) end
    return sum
end

--- Describes the tensor of that name, or the one at an index from 1:
-- { name, type, shape (outermost first), bytes, offset (in its file), file (from 1) }.
function Weights:info(which)
    local index = which
    if type(which) == "string" then
        local found = ffi.new("int64_t[1]")
        check(C.ml_weights_find(handle(self), which, found))
        index = tonumber(found[0]) + 1
    end
    local info = ffi.new("ml_tensor_info")
    check(C.ml_weights_info(handle(self), given.whole(index, "the index of a tensor") - 1, info))
    local shape = {}
    for i = 1, info.ndim do shape[i] = tonumber(info.shape[i - 1]) end
    return {
        name = ffi.string(info.name),
        type = ffi.string(info.type),
        shape = shape,
        bytes = tonumber(info.bytes),
        offset = tonumber(info.offset),
        file = info.file + 1,
    }
end

--- Every tensor as :info() describes it, in the order of the file.
function Weights:tensors()
    local list = {}
    for i = 1, self:count() do list[i] = self:info(i) end
    return list
end

--- All metadata keys, in the order of the file.
function Weights:keys()
    local list = {}
    for i = 1, tonumber(C.ml_meta_count(handle(self))) do list[i] = ffi.string(C.ml_meta_key(self.handle, i - 1)) end
    return list
end

local kinds = {
    [C.ML_META_INT] = "integer",
    [C.ML_META_FLOAT] = "float",
    [C.ML_META_BOOL] = "boolean",
    [C.ML_META_STRING] = "string",
    [C.ML_META_ARRAY] = "array",
}

--- Kind of a value ("integer", "float", "boolean", "string", "array"), kind of its items, and their number. nil if
-- there is no such key.
function Weights:kind(key)
    local kind, item, count = ffi.new("int[1]"), ffi.new("int[1]"), ffi.new("int64_t[1]")
    local status = C.ml_meta_kind(handle(self), tostring(key), kind, item, count)
    if status == C.ML_E_NOT_FOUND then return nil end
    check(status)
    return kinds[kind[0]], kinds[item[0]], tonumber(count[0])
end

local int_out, float_out, bool_out = ffi.new("int64_t[1]"), ffi.new("double[1]"), ffi.new("int[1]")
local bytes_out = ffi.new("const char *[1]")

-- One item, by its kind. Integers from 2^53 on stay int64_t; those over 2^63 - 1 become doubles.
local readers = {
    integer = function(weights, key, index)
        if C.ml_meta_int(weights, key, index, int_out) ~= C.ML_OK then
            check(C.ml_meta_float(weights, key, index, float_out))
            return float_out[0]
        end
        local value = int_out[0]
        local number = tonumber(value)
        return (number >= 2 ^ 53 or number <= -2 ^ 53) and value or number
    end,
    float = function(weights, key, index)
        check(C.ml_meta_float(weights, key, index, float_out))
        return float_out[0]
    end,
    boolean = function(weights, key, index)
        check(C.ml_meta_bool(weights, key, index, bool_out))
        return bool_out[0] ~= 0
    end,
    string = function(weights, key, index)
        check(C.ml_meta_string(weights, key, index, bytes_out, int_out))
        return ffi.string(bytes_out[0], int_out[0])
    end,
}

--- The value of a metadata key as a Lua value, or nil if there is none. An array is a table, of its first `limit`
-- items if a limit is given. Integers from 2^53 on stay int64_t cdata. Arrays of arrays are refused.
function Weights:meta(key, limit)
    local kind, item, count = self:kind(key)
    if not kind then return nil end
    local read = readers[item]
    if not read then error(("%s: %s is an array of arrays, which is not read"):format(self.path, key), 0) end
    if kind ~= "array" then return read(self.handle, key, 0) end
    local list = {}
    for i = 1, math.min(count, limit or count) do list[i] = read(self.handle, key, i - 1) end
    return list
end

function Weights:__tostring()
    if not self.handle then return ("weights %s (closed)"):format(self.path) end
    return ("weights %s: %d tensors, %.2f GB"):format(self.path, self:count(), self:bytes() / 1e9)
end

return M
