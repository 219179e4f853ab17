--- Logits of one row: a view on the floats of a batch, without a copy, until that batch runs again.
--
--     logits[id]  #logits  logits:topk(5)  logits:argmax()  logits:logprob(id)  logits:tensor()
local ffi = require "ffi"
local given = require "moonloom._core.expect"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

ffi.cdef [[
typedef struct moonloom_logits {
    const float *data;
    double count;
    const double *epoch; /* of the batch now ... */
    double born;         /* ... and when these logits were made */
} moonloom_logits;
]]

local M = {}

local Logits = {}
local batches = setmetatable({}, { __mode = "k" }) -- logits -> the batch whose memory they show

--- Whether the batch still holds these logits.
function Logits:valid()
    return self.epoch[0] == self.born
end

local function data(self)
    if self.epoch[0] ~= self.born then error("these logits are gone: their session went on; ask it for new ones", 3) end
    return self.data
end

--- Pointer to the floats; raises if they are gone. For modules of lua/.
function Logits:pointer()
    return data(self)
end

local total = ffi.new("double[1]")

--- log(sum(exp(logits))), in double.
function Logits:logsumexp()
    check(C.ml_logits_logsumexp(data(self), self.count, total))
    return total[0]
end

--- The `k` best: { { id =, logit =, logprob = }, ... }.
function Logits:topk(k)
    k = math.min(given.most(k or 10, "the number of tokens", 1), self.count)
    local ids, values = ffi.new("int32_t[?]", k), ffi.new("float[?]", k)
    check(C.ml_logits_topk(data(self), self.count, k, ids, values))
    local normaliser, list = self:logsumexp(), {}
    for i = 1, k do
        list[i] = { id = ids[i - 1], logit = values[i - 1], logprob = values[i - 1] - normaliser }
    end
    return list
end

local best_id, best_value = ffi.new("int32_t[1]"), ffi.new("float[1]")

--- Id of the largest logit (the lowest id of equals), and the logit.
function Logits:argmax()
    check(C.ml_logits_topk(data(self), self.count, 1, best_id, best_value))
    return best_id[0], best_value[0]
end

--- Log-probability of a token.
function Logits:logprob(id)
    return self[given.token(id)] - self:logsumexp()
end

--- Sum and L2 norm of all logits, in double.
function Logits:sums()
    local values, sum, squares = data(self), 0, 0
    for i = 0, self.count - 1 do
        local value = values[i]
        sum = sum + value
        squares = squares + value * value
    end
    return sum, math.sqrt(squares)
end

--- The logits as a tensor {vocabulary}: a copy, which stays. (Tensors count from 1: token id is at id + 1.)
function Logits:tensor()
    return require("moonloom.tensor").from_pointer(data(self), { tonumber(self.count) })
end

local meta = { __index = function(self, key)
    if type(key) ~= "number" then return Logits[key] end
    if not (key >= 0 and key < self.count and key % 1 == 0) then
        error(("token %g is outside the vocabulary of %d"):format(key, self.count), 2)
    end
    return tonumber(data(self)[key])
end }

function meta.__len(self)
    return self.count
end

function meta.__tostring(self)
    if not self:valid() then return "logits (gone: their session went on)" end
    local id, value = self:argmax()
    return ("logits of %d tokens; the best is token %d with %.4f"):format(self.count, id, value)
end

local new = ffi.metatype("moonloom_logits", meta)

--- A view on `count` floats at `pointer`, which `batch` owns.
function M.view(pointer, count, batch)
    local logits = new(pointer, count, batch.epoch, batch.epoch[0])
    batches[logits] = batch
    return logits
end

return M
