--- What every file of tensors needs: the class, its errors and handles, sizes and dimensions, and making a tensor.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local M = {}

local Tensor = {} -- the class: tensor.lua and its other files fill it
M.class = Tensor

local out = ffi.new("ml_tensor *[1]")
M.out = out -- where calls of the core leave a tensor, for take()

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

-- A dimension as the core counts it: from 1, or from -1 backwards.
local function dim_of(self, dim)
    local ndim = self:ndim()
    if type(dim) == "number" and dim < 0 then dim = ndim + 1 + dim end
    if type(dim) ~= "number" or dim < 1 or dim > ndim or dim ~= math.floor(dim) then
        fail("a tensor %s has no dimension %s", self:describe(), tostring(dim))
    end
    return dim - 1
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

-- Numbers and lists as tensors; tensors as they are.
local function tensor_of(value)
    if M.is(value) then return value end
    if type(value) == "number" then return M.new { value } end
    if type(value) == "table" then return M.new(value) end
    fail("a tensor or a number is needed, not %s", type(value))
end

M.fail, M.handle_of, M.take = fail, handle_of, take
M.dtype_number, M.shape_of, M.shape_and_options, M.dim_of = dtype_number, shape_of, shape_and_options, dim_of
M.tensor_of = tensor_of

return M
