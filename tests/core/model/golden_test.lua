-- The models at hand against their float32 reference outputs (../shared/golden/README.md tells how those were made).
local ffi = require "ffi"
local isa_helper = require "helpers.isa"
local json = require "cjson"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local C, check = ml.C, ml.check

local SHARED = MOONLOOM_HOME .. "/../shared"
local LOGIT, LOGPROB, TRACE, TIE, KL = 2e-3, 2e-3, 1e-3, 1e-3, 1e-3

local function read_json(path)
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read("*a")
    file:close()
    return json.decode(text)
end

-- { what, model file, reference } of each form; the first runs anywhere.
local TINY = "/models/tiny-gpt-oss/tiny-gpt-oss-mxfp4.gguf"
local forms = {
    { "Q8_0 matrices", MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf",
        MOONLOOM_HOME .. "/tests/golden/gguf-q8_0.exact.json" },
    { "bf16 matrices", SHARED .. TINY, SHARED .. "/golden/mxfp4-bf16.exact.json" },
}

local function floats(base64)
    local alphabet, bits, count, bytes = {}, 0, 0, {}
    local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for i = 1, 64 do alphabet[letters:byte(i)] = i - 1 end
    for i = 1, #base64 do
        local value = alphabet[base64:byte(i)]
        if value then
            bits, count = bits * 64 + value, count + 6
            if count >= 8 then
                count = count - 8
                bytes[#bytes + 1] = string.char(math.floor(bits / 2 ^ count))
                bits = bits % 2 ^ count
            end
        end
    end
    local text = table.concat(bytes)
    local array = ffi.new("float[?]", #text / 4)
    ffi.copy(array, text, #text)
    return array, #text / 4
end

local function near(expected, actual, tolerance, what)
    local difference = math.abs(expected - actual)
    assert.is_true(difference <= tolerance, ("%s: %.6f, not %.6f"):format(what, actual, expected))
end

-- The logits after the prompt that `session` holds, and the greedy continuation.
local function check_continuation(session, expected, what)
    local logits = session:logits()
    for _, entry in ipairs(expected.top20) do
        near(entry[2], logits[entry[1]], LOGIT, ("%s: logit of %d"):format(what, entry[1]))
    end
    local sum, norm = logits:sums()
    near(expected.logits_sum, sum, LOGIT * #logits, what .. ": sum of logits")
    near(expected.logits_l2, norm, LOGIT * math.sqrt(#logits), what .. ": norm of logits")
    for i, id in ipairs(expected.greedy) do
        local best = session:logits():argmax()
        if best ~= id then
            assert.is_true(expected.greedy_margin[i] <= TIE,
                ("%s: greedy token %d is %d, not %d"):format(what, i, best, id))
            break -- a tie in the reference: from here on the paths may differ
        end
        session:step(id)
    end
end

local function check_prompt(model, prompt, isa)
    local what = isa .. " " .. prompt.name
    local session = model:session { cache = "f32" }
    session:feed(prompt.ids, { each = function(position, logits)
        local following = prompt.ids[position + 2]
        if following then
            near(prompt.prompt_logprobs[position + 2], logits:logprob(following), LOGPROB,
                ("%s: log-probability of token %d"):format(what, position + 1))
        end
    end })
    check_continuation(session, prompt, what)
    session:close()
end

local function view(batch, which)
    local out = ffi.new("ml_tensor *[1]")
    check(C.ml_batch_tensor(batch._handle, which, out))
    local tensor = ffi.gc(out[0], C.ml_tensor_free)
    local kind = which == C.ML_VIEW_EXPERT_IDS and "int32_t *" or "float *"
    return ffi.cast(kind, C.ml_tensor_data(tensor)), tensor
end

-- Largest difference relative to the largest value.
local function check_array(expected, actual, count, what)
    local largest, worst = 0, 0
    for i = 0, count - 1 do
        largest = math.max(largest, math.abs(expected[i]))
        worst = math.max(worst, math.abs(expected[i] - actual[i]))
    end
    assert.is_true(worst <= TRACE * largest, ("%s: off by %g of %g"):format(what, worst, largest))
end

local function check_router(batch, layer, width, what)
    local logits = view(batch, C.ML_VIEW_ROUTER_LOGITS)
    local ids = view(batch, C.ML_VIEW_EXPERT_IDS)
    local weights = view(batch, C.ML_VIEW_EXPERT_WEIGHTS)
    for row, expected in ipairs(layer.router_logits) do
        local largest = 0
        for _, value in ipairs(expected) do largest = math.max(largest, math.abs(value)) end
        for e, value in ipairs(expected) do
            near(value, logits[(row - 1) * #expected + e - 1], TRACE * largest, what .. ": router logit")
        end
        for k, id in ipairs(layer.experts[row]) do
            assert.equal(id, ids[(row - 1) * width + k - 1], what .. ": expert")
            near(layer.expert_weights[row][k], weights[(row - 1) * width + k - 1], TRACE, what .. ": expert weight")
        end
    end
end

local function check_trace(model, trace, isa)
    local session, batch, config = model:session { cache = "f32" }, model:batch(#trace.ids), model:config()
    for _, id in ipairs(trace.ids) do batch:add(session, id, true) end
    local expected, count = floats(trace.embedding)
    check_array(expected, (view(batch:embed(), C.ML_VIEW_RESIDUAL)), count, isa .. " embedding")
    for l, layer in ipairs(trace.layers) do
        local what = ("%s layer %d"):format(isa, l - 1)
        batch:attention(l - 1)
        expected, count = floats(layer.after_attention)
        check_array(expected, (view(batch, C.ML_VIEW_RESIDUAL)), count, what .. " after attention")
        batch:router(l - 1)
        check_router(batch, layer, config.experts_used, what)
        batch:experts(l - 1)
        expected, count = floats(layer.residual)
        check_array(expected, (view(batch, C.ML_VIEW_RESIDUAL)), count, what .. " after experts")
    end
    batch:head()
    expected, count = floats(trace.logits_last)
    local logits = batch:logits(#trace.ids)
    for i = 0, count - 1 do near(expected[i], logits[i], LOGIT, isa .. " logit of the trace") end
    batch:commit()
    assert.equal(#trace.ids, session.position)
    session:close()
end

-- Log-probabilities after every token, packed by position.
local function distributions(model, ids, cache)
    local vocabulary = model:config().vocabulary
    local rows = ffi.new("double[?]", #ids * vocabulary)
    local session = model:session { cache = cache }
    session:feed(ids, { each = function(position, logits)
        local normaliser, values = logits:logsumexp(), logits:pointer()
        for i = 0, vocabulary - 1 do rows[position * vocabulary + i] = values[i] - normaliser end
    end })
    session:close()
    return rows, vocabulary
end

local function check_bf16(model, prompt)
    local exact, vocabulary = distributions(model, prompt.ids, "f32")
    local rounded = distributions(model, prompt.ids, "bf16")
    local sum = 0
    for i = 0, #prompt.ids * vocabulary - 1 do sum = sum + math.exp(exact[i]) * (exact[i] - rounded[i]) end
    local mean = sum / #prompt.ids
    assert.is_true(mean >= -1e-9 and mean <= KL, ("%s: KL %g nats a token"):format(prompt.name, mean))
end

for _, form in ipairs(forms) do
    describe("tiny-gpt-oss with " .. form[1], function()
        local golden = read_json(form[3])
        local function ready()
            if not golden then pending(form[3] .. " is absent") end
            return golden and moonloom.load(form[2])
        end

        it("agrees with the reference on every prompt under every instruction set", function()
            local model = ready()
            isa_helper.each(function(isa)
                for _, prompt in ipairs(golden.prompts) do check_prompt(model, prompt, isa) end
            end)
            model:close()
        end)

        it("agrees layer by layer", function()
            local model = ready()
            isa_helper.each(function(isa) check_trace(model, golden.trace, isa) end)
            model:close()
        end)

        it("stays near the reference with a bf16 cache", function()
            local model = ready()
            local seen = 0
            for _, prompt in ipairs(golden.prompts) do
                if prompt.name == "story" or prompt.name == "harmony" or prompt.name == "long700" then
                    check_bf16(model, prompt)
                    seen = seen + 1
                end
            end
            assert.equal(3, seen)
            model:close()
        end)
    end)
end

describe("stories260K", function()
    local STORY = [[Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ]]
        .. [[One day, she saw a big, red ball. She wanted to play with it, but it was too high.]] .. "\n"
        .. [[Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, ]]
        .. [["I want to play with your ball, but I can't find it."]]
    local folder, golden = SHARED .. "/models/stories260K/", read_json(SHARED .. "/golden/teacher.json")

    it("tells its published story word for word", function()
        if not golden then pending(SHARED .. " is absent") end
        local model = moonloom.load(folder .. "stories260K-f32.gguf")
        local g = require("recipes.generate") { model = model, prompt = "Once upon a time", temperature = 0,
            max_tokens = 180, cache = "f32" }
        assert.equal(STORY, tostring(g):sub(1, #STORY))
        model:close()
    end)

    it("agrees with the reference in every quantisation", function()
        if not golden then pending(SHARED .. " is absent") end
        local files, precision = 0, moonloom.precision()
        moonloom.precision "exact"
        for path, results in pairs(golden.files) do
            local model = moonloom.load(folder .. path:match("[^/]+$"))
            for i, expected in ipairs(results) do
                local session = model:session { cache = "f32" }
                session:feed(golden.prompts[i].ids)
                check_continuation(session, expected, path .. " prompt " .. i)
                session:close()
            end
            model:close()
            files = files + 1
        end
        moonloom.precision(precision)
        assert.equal(16, files)
    end)
end)
