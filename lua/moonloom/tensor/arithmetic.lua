--- What tensors can compute: arithmetic, products, the parts of a layer, sums and extremes. All methods of tensors.
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check
local base = require "moonloom.tensor.base"
local dim_of, fail, handle_of, out, take, tensor_of = base.dim_of, base.fail, base.handle_of, base.out, base.take,
    base.tensor_of

local Tensor = base.class

local second = ffi.new("ml_tensor *[1]")

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
    return base.wrap(out[0]), base.wrap(second[0])
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

return Tensor
