--- Tensors: numbers in 1 to 4 dimensions, of any dtype that model files hold.
--
--     local tensor = require "moonloom.tensor"
--     local a = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }    -- {2, 3} f32
--     local b = tensor.randn(3, 4, { seed = 7 })
--     print(a:matmul(b))                       -- shape, dtype, min/mean/max, NaN count, corners
--     a[1]                                     -- the first row, a view; a[1][2] is a number; a[1] = { 7, 8, 9 } sets
--     a:slice(2, 1, 2)                         -- view of columns 1 to 2
--     model:tensor("blk.0.attn_q.weight"):stats()
--
-- Dimensions and indices count from 1, as everywhere in Lua; -1 is the last dimension. Ids that come out (argmax, topk)
-- count from 0, as token ids do everywhere in moonloom. Views share memory and keep it alive. Arithmetic is in f32 and
-- gives new tensors; `t:assign(x)` writes into an existing one. "Rows" run along the last dimension.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check
local base = require "moonloom.tensor.base"
local dim_of, fail, handle_of, out, take = base.dim_of, base.fail, base.handle_of, base.out, base.take

local Tensor = base.class
require "moonloom.tensor.arithmetic" -- more methods

local M = {
    wrap = base.wrap, is = base.is, zeros = base.zeros, randn = base.randn, rand = base.rand, new = base.new,
    from_pointer = base.from_pointer, from_weights = base.from_weights, load = base.load,
}

local indices = ffi.new("int64_t[4]")
local number_out = ffi.new("double[1]")

--- Writes an .npy file; bf16 and quantised tensors become f32 there.
function Tensor:save(path)
    check(C.ml_tensor_save(handle_of(self), given.path(path, "tensor:save")))
    return self
end

--- Releases the memory now (views of it keep it).
function Tensor:close()
    local handle = rawget(self, "handle")
    if not handle then return end
    C.ml_tensor_free(ffi.gc(handle, nil))
    rawset(self, "handle", nil)
end

--- What the tensor is ------------------------------------------------------------------------------

--- Name of the element type: "f32", "mxfp4", ...
function Tensor:dtype()
    return ffi.string(C.ml_dtype_name(C.ml_tensor_dtype(handle_of(self))))
end

--- Number of dimensions.
function Tensor:ndim()
    return C.ml_tensor_ndim(handle_of(self))
end

--- shape() -> list; shape(dim) -> elements along one dimension.
function Tensor:shape(dim)
    local handle = handle_of(self)
    if dim then return tonumber(C.ml_tensor_shape(handle, dim_of(self, dim))) end
    local shape = {}
    for i = 1, C.ml_tensor_ndim(handle) do shape[i] = tonumber(C.ml_tensor_shape(handle, i - 1)) end
    return shape
end

--- Bytes from one index of `dim` to the next.
function Tensor:stride(dim)
    return tonumber(C.ml_tensor_stride(handle_of(self), dim_of(self, dim)))
end

--- Number of elements.
function Tensor:count()
    local count = 1
    for _, n in ipairs(self:shape()) do count = count * n end
    return count
end

--- Whether the elements lie packed, row by row.
function Tensor:contiguous()
    return C.ml_tensor_contiguous(handle_of(self)) == 1
end

--- Whether elements can be set.
function Tensor:writable()
    return C.ml_tensor_writable(handle_of(self)) == 1
end

local c_types = { f32 = "float *", f64 = "double *", f16 = "uint16_t *", bf16 = "uint16_t *", i8 = "int8_t *",
    i16 = "int16_t *", i32 = "int32_t *", i64 = "int64_t *" }

--- The memory itself, typed ("float *" for f32; bytes for blocks); valid as long as the tensor or a view lives. Numbers
--- read through it must not be NaN of foreign origin: LuaJIT takes some of these for other values. get() is safe.
function Tensor:pointer()
    return ffi.cast(c_types[self:dtype()] or "uint8_t *", C.ml_tensor_data(handle_of(self)))
end

--- "{2, 3} f32".
function Tensor:describe()
    return ("{%s} %s"):format(table.concat(self:shape(), ", "), self:dtype())
end

--- Elements ----------------------------------------------------------------------------------------

local function set_indices(self, list, count)
    local ndim = self:ndim()
    if count ~= ndim then
        fail("a tensor %s takes %d indices, not %d", self:describe(), ndim, count)
    end
    for i = 1, count do
        local size = self:shape(i)
        if type(list[i]) ~= "number" or list[i] < 1 or list[i] > size or list[i] ~= math.floor(list[i]) then
            fail("index %s is outside 1 to %d in dimension %d", tostring(list[i]), size, i)
        end
        indices[i - 1] = list[i] - 1
    end
end

--- get(i, j, ...) -> number.
function Tensor:get(...)
    set_indices(self, { ... }, select("#", ...))
    check(C.ml_tensor_get(self.handle, indices, number_out))
    return number_out[0]
end

--- set(i, j, ..., value).
function Tensor:set(...)
    local count = select("#", ...) - 1
    local list = { ... }
    set_indices(self, list, count)
    local value = list[count + 1]
    if type(value) ~= "number" then fail("an element of a tensor must be a number, not %s", type(value)) end
    check(C.ml_tensor_set(self.handle, indices, value))
    return self
end

--- The number in a tensor of one element.
function Tensor:item()
    if self:count() ~= 1 then fail("a tensor %s is not one number", self:describe()) end
    return self:get(unpack({ 1, 1, 1, 1 }, 1, self:ndim()))
end

--- Nested lists of numbers.
function Tensor:totable()
    local list = {}
    for i = 1, self:shape(1) do
        local item = self[i]
        list[i] = type(item) == "number" and item or item:totable()
    end
    return list
end

--- Copies `from` (a tensor, a number, nested lists) into this tensor: equal shapes, or one row or number for all rows.
function Tensor:assign(from)
    check(C.ml_tensor_copy(handle_of(base.tensor_of(from)), handle_of(self)))
    return self
end

--- Views -------------------------------------------------------------------------------------------

--- View of indices first..last (both included) along `dim`.
function Tensor:slice(dim, first, last)
    local at = dim_of(self, dim)
    local size = self:shape(dim)
    first, last = given.whole(first or 1, "an index", 2 ^ 53), given.whole(last or size, "an index", 2 ^ 53)
    if first < 0 then first = size + 1 + first end
    if last < 0 then last = size + 1 + last end
    if first < 1 or last > size or last < first - 1 then
        fail("%d to %d is no range of dimension %d of a tensor %s", first, last, at + 1, self:describe())
    end
    return take(C.ml_tensor_slice(handle_of(self), at, first - 1, last, out))
end

--- View of one index along `dim`; that dimension goes away.
function Tensor:select(dim, index)
    local at = dim_of(self, dim)
    if type(index) ~= "number" or index < 1 or index > self:shape(dim) or index ~= math.floor(index) then
        fail("index %s is outside 1 to %d in dimension %d", tostring(index), self:shape(dim), at + 1)
    end
    return take(C.ml_tensor_select(handle_of(self), at, index - 1, out))
end

--- View with two dimensions exchanged; the last two if none are given.
function Tensor:transpose(a, b)
    local ndim = self:ndim()
    if not a and ndim < 2 then fail("a tensor %s has no two dimensions", self:describe()) end
    return take(C.ml_tensor_transpose(handle_of(self), dim_of(self, a or -2), dim_of(self, b or -1), out))
end

--- View of the same elements in another shape; one entry may be -1. Copies if they do not lie packed.
function Tensor:reshape(...)
    local shape, ndim = base.shape_of((base.shape_and_options(...)))
    local packed = self:contiguous() and self or self:clone()
    return take(C.ml_tensor_reshape(handle_of(packed), ndim, shape, out))
end

--- Copies ------------------------------------------------------------------------------------------

--- A packed copy as another dtype: floats, integers, or quantised to "q8_0", "q4_0", "mxfp4".
function Tensor:convert(dtype)
    return take(C.ml_tensor_convert(handle_of(self), base.dtype_number(dtype), out))
end

--- A packed copy.
function Tensor:clone()
    return self:convert(self:dtype())
end

--- Printing ----------------------------------------------------------------------------------------

local CORNER = 3

-- 1..n, or its first and last three with a 0 between.
local function shown(n)
    local list = {}
    for i = 1, n do
        if n <= 2 * CORNER + 1 or i <= CORNER or i > n - CORNER then
            list[#list + 1] = i
        elseif i == CORNER + 1 then
            list[#list + 1] = 0
        end
    end
    return list
end

local function format_number(x, whole)
    return (whole and "%d" or "%.4g"):format(x)
end

-- The index of row `r` (from 1) in all dimensions but the last.
local function row_index(shape, r)
    local index, rest = {}, r - 1
    for i = #shape - 1, 1, -1 do
        index[i] = rest % shape[i] + 1
        rest = math.floor(rest / shape[i])
    end
    return index
end

local function corner_lines(self, lines)
    local shape = self:shape()
    local rows = 1
    for i = 1, #shape - 1 do rows = rows * shape[i] end
    local whole = self:dtype():find("^i%d+$") ~= nil
    for _, r in ipairs(shown(rows)) do
        local cells = {}
        local index = row_index(shape, r)
        for _, c in ipairs(r > 0 and shown(shape[#shape]) or {}) do
            index[#shape] = c
            cells[#cells + 1] = ("%10s"):format(c == 0 and "..." or format_number(self:get(unpack(index)), whole))
        end
        index[#shape] = nil
        local label = #shape > 1 and ("[%s]"):format(table.concat(index, ",")) or ""
        lines[#lines + 1] = r == 0 and "  ..." or ("  %s%s"):format(label, table.concat(cells))
    end
end

function Tensor:__tostring()
    if not rawget(self, "handle") then return "tensor (closed)" end
    local lines = { "tensor " .. self:describe() }
    local s = self:stats()
    if s.count == 0 then return lines[1] .. ", no elements" end
    lines[2] = ("  min %.6g  mean %.6g  max %.6g  NaN %d"):format(s.min, s.mean, s.max, s.nans)
        .. (s.infinities > 0 and ("  Inf %d"):format(s.infinities) or "")
    corner_lines(self, lines)
    return table.concat(lines, "\n")
end

--- Operators ---------------------------------------------------------------------------------------

function Tensor:__index(key)
    if type(key) ~= "number" then return Tensor[key] end
    if self:ndim() == 1 then return self:get(key) end
    return self:select(1, key)
end

function Tensor:__newindex(key, value)
    if type(key) ~= "number" then fail("a tensor has no field '%s' to set", tostring(key)) end
    if self:ndim() == 1 then return self:set(key, value) end
    self:select(1, key):assign(value)
end

-- Also where the left side is a number: binary() takes both.
Tensor.__add, Tensor.__sub, Tensor.__mul, Tensor.__div = Tensor.add, Tensor.sub, Tensor.mul, Tensor.div

function Tensor:__unm()
    return self:scale(-1)
end

return M
