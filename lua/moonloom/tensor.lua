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

local M = {}

local Tensor = {}

local out, second = ffi.new("ml_tensor *[1]"), ffi.new("ml_tensor *[1]")
local indices = ffi.new("int64_t[4]")
local number_out = ffi.new("double[1]")

-- Raises a sentence, as errors of the core are raised.
local function fail(format, ...)
    error(setmetatable({ status = tonumber(C.ML_E_ARGUMENT), message = format:format(...) }, ml.Error), 0)
end

local function handle_of(t)
    return rawget(t, "handle") or fail("this tensor is closed")
end

--- A tensor object for a handle of the core, which it frees in the end.
function M.wrap(handle)
    return setmetatable({ handle = ffi.gc(handle, C.ml_tensor_free) }, Tensor)
end

-- The tensor that a call left in `out`.
local function take(status)
    check(status)
    return M.wrap(out[0])
end

--- Whether a value is a tensor.
function M.is(value)
    return getmetatable(value) == Tensor
end

local function dtype_number(name)
    local number = type(name) == "string" and C.ml_dtype_from_name(name) or -1
    if number < 0 then fail("there is no dtype '%s'", tostring(name)) end
    return number
end

-- Shape (a list, 1 to 4 whole numbers) -> int64_t[4] and the number of dimensions.
local function shape_of(list)
    local shape = ffi.new("int64_t[4]")
    if #list < 1 or #list > 4 then fail("a tensor has 1 to 4 dimensions, not %d", #list) end
    for i, n in ipairs(list) do
        if type(n) ~= "number" or n ~= math.floor(n) or math.abs(n) > 2 ^ 53 then
            fail("dimension %d of a shape must be a whole number, not %s", i, tostring(n))
        end
        shape[i - 1] = n
    end
    return shape, #list
end

-- (2, 3, { dtype = "f32" }) or ({ 2, 3 }, { ... }) -> shape list, options.
local function shape_and_options(...)
    local arguments = { ... }
    local options = {}
    if type(arguments[1]) == "table" then return arguments[1], arguments[2] or options end
    if type(arguments[#arguments]) == "table" then options = table.remove(arguments) end
    return arguments, options
end

local function create(list, dtype)
    local shape, ndim = shape_of(list)
    return take(C.ml_tensor_create(dtype_number(dtype or "f32"), ndim, shape, out))
end

--- zeros(2, 3), zeros({ 2, 3 }), zeros(2, 3, { dtype = "bf16" }).
function M.zeros(...)
    local shape, options = shape_and_options(...)
    return create(shape, options.dtype)
end

--- Normal random numbers: randn(2, 3, { seed = 0, mean = 0, deviation = 1, dtype = "f32" }).
function M.randn(...)
    local shape, options = shape_and_options(...)
    local t = create(shape, options.dtype)
    local mean, deviation = given.number(options.mean or 0, "mean"), given.number(options.deviation or 1, "deviation")
    check(C.ml_tensor_fill_normal(t.handle, mean, deviation, given.whole(options.seed or 0, "seed", 2 ^ 53)))
    return t
end

--- Uniform random numbers: rand(2, 3, { seed = 0, low = 0, high = 1, dtype = "f32" }).
function M.rand(...)
    local shape, options = shape_and_options(...)
    local t = create(shape, options.dtype)
    local low, high = given.number(options.low or 0, "low"), given.number(options.high or 1, "high")
    check(C.ml_tensor_fill_uniform(t.handle, low, high, given.whole(options.seed or 0, "seed", 2 ^ 53)))
    return t
end

-- The shape of nested lists.
local function nested_shape(values)
    local shape, level = {}, values
    while type(level) == "table" do
        shape[#shape + 1] = #level
        level = level[1]
    end
    return shape
end

local function fill(target, at, values, shape, dim)
    if type(values) ~= "table" or #values ~= shape[dim] then
        fail("lists in dimension %d must all hold %d items", dim, shape[dim])
    end
    for i = 1, shape[dim] do
        if dim < #shape then
            at = fill(target, at, values[i], shape, dim + 1)
        else
            if type(values[i]) ~= "number" then
                fail("an element of a tensor must be a number, not %s", type(values[i]))
            end
            target[at] = values[i]
            at = at + 1
        end
    end
    return at
end

--- From nested lists of numbers: new { { 1, 2 }, { 3, 4 } }, new({ 1, 2 }, { dtype = "i32" }).
function M.new(values, options)
    if type(values) ~= "table" then fail("tensor.new takes a list of numbers, or lists of them") end
    local shape = nested_shape(values)
    local count = 1
    for _, n in ipairs(shape) do count = count * n end
    local numbers = ffi.new("double[?]", math.max(count, 1))
    fill(numbers, 0, values, shape, 1)
    local sizes, ndim = shape_of(shape)
    local doubles = take(C.ml_tensor_from(numbers, C.ML_F64, ndim, sizes, out))
    return doubles:convert(given.options(options, "tensor.new").dtype or "f32")
end

--- A copy of the packed elements at a pointer: from_pointer(pointer, { 2, 3 }, "f32").
function M.from_pointer(pointer, shape, dtype)
    local sizes, ndim = shape_of(shape)
    return take(C.ml_tensor_from(pointer, dtype_number(dtype or "f32"), ndim, sizes, out))
end

--- The weights of that name in an opened model file (a handle of the core), as they lie there.
function M.from_weights(weights, name)
    local index = ffi.new("int64_t[1]")
    check(C.ml_weights_find(weights, tostring(name), index))
    return take(C.ml_weights_tensor(weights, index[0], out))
end

--- Reads an .npy file.
function M.load(path)
    return take(C.ml_tensor_load(given.path(path, "tensor.load"), out))
end

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

-- A dimension as the core counts it: from 1, or from -1 backwards.
local function dim_of(self, dim)
    local ndim = self:ndim()
    if type(dim) == "number" and dim < 0 then dim = ndim + 1 + dim end
    if type(dim) ~= "number" or dim < 1 or dim > ndim or dim ~= math.floor(dim) then
        fail("a tensor %s has no dimension %s", self:describe(), tostring(dim))
    end
    return dim - 1
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

-- Numbers and lists as tensors; tensors as they are.
local function tensor_of(value)
    if M.is(value) then return value end
    if type(value) == "number" then return M.new { value } end
    if type(value) == "table" then return M.new(value) end
    fail("a tensor or a number is needed, not %s", type(value))
end

--- Copies `from` (a tensor, a number, nested lists) into this tensor: equal shapes, or one row or number for all rows.
function Tensor:assign(from)
    check(C.ml_tensor_copy(handle_of(tensor_of(from)), handle_of(self)))
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
    local shape, ndim = shape_of((shape_and_options(...)))
    local packed = self:contiguous() and self or self:clone()
    return take(C.ml_tensor_reshape(handle_of(packed), ndim, shape, out))
end

--- Copies ------------------------------------------------------------------------------------------

--- A packed copy as another dtype: floats, integers, or quantised to "q8_0", "q4_0", "mxfp4".
function Tensor:convert(dtype)
    return take(C.ml_tensor_convert(handle_of(self), dtype_number(dtype), out))
end

--- A packed copy.
function Tensor:clone()
    return self:convert(self:dtype())
end

--- Arithmetic --------------------------------------------------------------------------------------

local function binary(a, b, operation)
    return take(C.ml_tensor_binary(handle_of(tensor_of(a)), handle_of(tensor_of(b)), operation, out))
end

--- self + b: equal shapes, or one of them one row or one number; likewise sub, mul, div.
function Tensor:add(b)
    return binary(self, b, C.ML_ADD)
end

function Tensor:sub(b)
    return binary(self, b, C.ML_SUBTRACT)
end

function Tensor:mul(b)
    return binary(self, b, C.ML_MULTIPLY)
end

function Tensor:div(b)
    return binary(self, b, C.ML_DIVIDE)
end

--- factor * self + offset.
function Tensor:scale(factor, offset)
    return take(C.ml_tensor_scale(handle_of(self), given.number(factor, "a factor"),
        given.number(offset or 0, "an offset"), out))
end

--- self += factor * x, in place and without a copy; x of the same shape, or one row that is added to every row.
function Tensor:add_scaled(x, factor)
    check(C.ml_tensor_add_scaled(handle_of(self), handle_of(tensor_of(x)),
        given.number(factor or 1, "a factor")))
    return self
end

--- {m, k} x {k, n} -> {m, n}; {b, m, k} x {b, k, n} or {k, n} -> {b, m, n}.
function Tensor:matmul(b)
    return take(C.ml_tensor_matmul(handle_of(self), handle_of(tensor_of(b)), out))
end

--- self {n, k} times the transpose of weights {rows, k} of any dtype, read as stored, plus bias -> {n, rows}.
function Tensor:linear(weights, bias)
    return take(C.ml_tensor_linear(handle_of(self), handle_of(tensor_of(weights)),
        bias and handle_of(tensor_of(bias)) or nil, out))
end

--- exp(x) / sum(exp(x)) of each row.
function Tensor:softmax()
    return take(C.ml_tensor_softmax(handle_of(self), out))
end

--- x - log(sum(exp(x))) of each row.
function Tensor:log_softmax()
    return take(C.ml_tensor_log_softmax(handle_of(self), out))
end

--- x * weight / sqrt(mean(x^2) + epsilon) of each row; no weight, epsilon 1e-5 if not given.
function Tensor:rms_norm(weight, epsilon)
    return take(C.ml_tensor_rms_norm(handle_of(self), weight and handle_of(tensor_of(weight)) or nil,
        given.number(epsilon or 1e-5, "epsilon"), out))
end

--- The gate of a feed-forward block: self * sigmoid(self) * up, or as gpt-oss has it ({ clamped = true }).
function Tensor:swiglu(up, options)
    return take(C.ml_tensor_swiglu(handle_of(self), handle_of(tensor_of(up)),
        given.options(options, "tensor:swiglu").clamped and 1 or 0, out))
end

-- The options of what follows, checked: bits of `side`, and whether keys are rotated.
local function bits_of(options, side)
    local bits = options[side] or 16
    if bits ~= 16 and bits ~= 8 and bits ~= 4 then
        fail(("%s is 16, 8 or 4, not %s"):format(side, tostring(bits)))
    end
    return bits
end

--- softmax(self keys^T) values: self {queries, d}, already scaled; keys and values {tokens, d}. With { key_bits =,
--- value_bits =, rotate = true } 8 or 4, they are read from quantised cache pages.
function Tensor:attend(keys, values, options)
    local k, v = handle_of(tensor_of(keys)), handle_of(tensor_of(values))
    if not options then return take(C.ml_tensor_attend(handle_of(self), k, v, out)) end
    options = given.options(options, "tensor:attend")
    return take(C.ml_warm_attend(handle_of(self), k, v, bits_of(options, "key_bits"), bits_of(options, "value_bits"),
        options.rotate == false and 0 or 1, out))
end

--- What keys or values {tokens, d} become in quantised cache pages: t:stored{ key_bits = 4 } or t:stored{ value_bits =
--- 8 }, with rotate = false without the rotation of keys.
function Tensor:stored(options)
    options = given.options(options, "tensor:stored")
    local side = options.value_bits and "value_bits" or "key_bits"
    return take(C.ml_warm_round(handle_of(self), options.value_bits and 1 or 0, bits_of(options, side),
        options.rotate == false and 0 or 1, out))
end

--- Rows turned by the orthogonal Hadamard matrix that keys are turned by before they are quantised; twice is as before.
function Tensor:rotate()
    return take(C.ml_warm_rotate(handle_of(self), out))
end

--- Sums and extremes -------------------------------------------------------------------------------

-- Over all elements a number, or with dim = -1 a tensor of one for each row.
local function reduce(self, dim, operation)
    if dim == nil then return reduce(self:reshape(-1), -1, operation):item() end
    if dim_of(self, dim) ~= self:ndim() - 1 then
        fail("only the last dimension (-1) can be reduced: transpose first")
    end
    return take(C.ml_tensor_reduce(handle_of(self), operation, out))
end

--- sum() over all elements; sum(-1) of each row, as a tensor. Likewise mean, min, max, norm (L2).
function Tensor:sum(dim)
    return reduce(self, dim, C.ML_SUM)
end

function Tensor:mean(dim)
    return reduce(self, dim, C.ML_MEAN)
end

function Tensor:min(dim)
    return reduce(self, dim, C.ML_MIN)
end

function Tensor:max(dim)
    return reduce(self, dim, C.ML_MAX)
end

function Tensor:norm(dim)
    return reduce(self, dim, C.ML_NORM)
end

--- Id of the largest element, from 0: a number for one dimension, else an i32 tensor with one id for each row.
function Tensor:argmax()
    local ids = take(C.ml_tensor_argmax(handle_of(self), out))
    return self:ndim() == 1 and ids:item() or ids
end

--- topk(k) -> values, ids: the k largest of each row, best first; ids from 0.
function Tensor:topk(k)
    check(C.ml_tensor_topk(handle_of(self), given.whole(k, "the number of elements", 2 ^ 53), out, second))
    return M.wrap(out[0]), M.wrap(second[0])
end

--- { count, min, max, mean, deviation, norm, nans, infinities } in one pass; mean, deviation and norm of finite ones.
function Tensor:stats()
    local s = ffi.new("ml_stats")
    check(C.ml_tensor_stats(handle_of(self), s))
    return {
        count = tonumber(s.count), nans = tonumber(s.nans), infinities = tonumber(s.infinities),
        min = s.min, max = s.max, mean = s.mean, deviation = s.deviation, norm = s.norm,
    }
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
