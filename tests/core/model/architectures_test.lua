-- Every architecture and every way of scaling RoPE against a peer's logits (tests/golden/peer.json), and what is
-- refused.
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local json = require "cjson"
local moonloom = require "moonloom"
local peer_models = require "helpers.peer_models"
local random_model = require "helpers.random_model"
local recipe = require "moonloom.recipe.live"
local sentence_of = require "helpers.sentence"
local template = require "moonloom.chat.template"

ffi.cdef "int memcmp(const void *a, const void *b, size_t bytes);"

local TOLERANCE = 2e-3
local FAR = 20 * TOLERANCE -- what a mistake makes of the logits at least

local function logits_of(model)
    local session = model:session { cache = "f32", prefixes = false }
    session:feed(peer_models.ids())
    local copy = ffi.new("float[?]", random_model.vocabulary)
    ffi.copy(copy, session:logits():pointer(), ffi.sizeof(copy))
    session:close()
    return copy
end

local function distance(expected, logits)
    local worst = 0
    for i = 1, random_model.vocabulary do
        local d = math.abs(expected[i] - logits[i - 1])
        if d > worst or d ~= d then worst = d end
    end
    return worst
end

local function load(spec)
    return moonloom.load(random_model.write(folder.path("random.gguf"), spec))
end

describe("an architecture", function()
    local golden = json.decode(folder.read(MOONLOOM_HOME .. "/tests/golden/peer.json"))
    teardown(folder.remove)

    for _, case in ipairs(peer_models.list) do
        it("gives the peer's logits: " .. case[1], function()
            local expected = golden[case[1]]
            assert.equal(random_model.vocabulary, #expected)
            local model = load(case[2])
            isa_helper.each(function(isa)
                local d = distance(expected, logits_of(model))
                assert.is_true(d <= TOLERANCE, ("%s: logits differ by %g"):format(isa, d))
            end)
            model:close()
            local other = load(peer_models.plain(case))
            local d = distance(expected, logits_of(other))
            assert.is_true(d > FAR, ("without it, logits differ by no more than %g"):format(d))
            other:close()
        end)
    end

    it("is another model where LongRoPE takes the other divisors", function()
        local function identity(context)
            local case
            for _, each in ipairs(peer_models.list) do
                if each[1] == "llama, longrope past the original context" then case = each[2] end
            end
            local keys = { ["context_length"] = context }
            for key, value in pairs(case.keys) do keys[key] = keys[key] or value end
            local model = load { arch = case.arch, keys = keys, tensors = case.tensors }
            local bits = ffi.string(model:identity().model, ffi.sizeof(model:identity().model))
            model:close()
            return bits
        end
        assert.equal(identity(128), identity(256))
        assert.are_not.equal(identity(128), identity(32))
    end)

    it("gives the same bits token by token and at once", function()
        for _, spec in ipairs(peer_models.architectures()) do
            local model = load(spec)
            local ids, whole = peer_models.ids(), logits_of(model)
            local session = model:session { cache = "f32", prefixes = false }
            for _, id in ipairs(ids) do session:step(id) end
            assert.equal(0, ffi.C.memcmp(whole, session:logits():pointer(), ffi.sizeof(whole)))
            session:close()
            model:close()
        end
    end)

    it("works in every recipe", function()
        for _, spec in ipairs(peer_models.architectures()) do
            local arch, with_template = spec.arch, { template = "{{ '<|im_start|>' + role }}" }
            for key, value in pairs(spec) do with_template[key] = value end
            local path = random_model.write(folder.path("random.gguf"), with_template)
            assert.equal(arch, recipe.get("inspect") { file = path }.architecture)
            local model = moonloom.load(path)
            assert.equal(arch, model:config().architecture)
            local window = (spec.keys or {})["attention.sliding_window"]
            assert.equal(window, model:window(0))
            assert.equal("chatml", template.of(model).name)
            local function go_on(candidates) candidates:ban(random_model.vocabulary - 1) end -- which would end the text
            assert.equal(16, #recipe.get("generate") { model = model, prompt = "the", max_tokens = 16,
                chain = { go_on, "greedy" } }.tokens)
            assert.truthy(tostring(recipe.get("kv") { model = model }):find("2 layers", 1, true))
            local session = model:session { kv = "balanced" }
            session:feed(peer_models.ids())
            assert.truthy(tostring(session:levels()):find(window or "all", 1, true))
            session:close()
            model:close()
        end
    end)
end)

describe("a model is refused", function()
    teardown(folder.remove)

    local function refusal(spec)
        return sentence_of(load, spec)
    end

    local function says(words, spec)
        local sentence = refusal(spec)
        assert.truthy(sentence:find(words, 1, true), sentence)
    end

    it("if its architecture is unknown, with those that are known", function()
        local sentence = refusal { arch = "mistral3" }
        local known = sentence:match("architecture 'mistral3' is not one moonloom runs %((.+)%)$")
        for _, name in ipairs { "gpt-oss", "llama", "qwen2", "qwen3" } do
            assert.truthy((", " .. known .. ","):find((", %s,"):format(name), 1, true), sentence)
        end
    end)

    it("if its RoPE is scaled in a way that is unknown or incomplete", function()
        local function keys(list) return { arch = "qwen2", keys = list } end
        says("qwen2.rope.scaling.type is not one moonloom knows (none, linear, yarn, longrope)",
            keys { ["rope.scaling.type"] = "dynamic" })
        says("the metadata lack a number qwen2.rope.scaling.factor", keys { ["rope.scaling.type"] = "linear" })
        says("the metadata lack a number qwen2.rope.scaling.factor", keys { ["rope.scaling.type"] = "yarn" })
        says("qwen2.rope.scaling.factor is -1, but must be above 0", keys { ["rope.scaling.factor"] = -1 })
        says("qwen2.rope.scaling.yarn_ext_factor is -1, but must be 0 or above", keys { ["rope.scaling.type"] = "yarn",
            ["rope.scaling.factor"] = 2, ["rope.scaling.yarn_ext_factor"] = -1 })
        says("RoPE multiplies cos and sin by 1e+30", keys { ["rope.scaling.attn_factor"] = 1e30 })
        says("RoPE multiplies cos and sin by 1e-30", keys { ["rope.scaling.attn_factor"] = 1e-30 })
        says("tensor rope_factors_long.weight is missing", keys { ["rope.scaling.type"] = "longrope",
            ["rope.scaling.original_context_length"] = 32 })
        says("tensor rope_factors_short.weight is missing", keys { ["rope.scaling.type"] = "longrope" })
        says("rope_freqs.weight must be f32 {8}", { arch = "llama", tensors = { ["rope_freqs.weight"] = { 1, 2 } } })
    end)

    it("if it has a tensor that would be left out", function()
        says("a qwen2 model of 2 layers has no tensor output.bias: moonloom would leave it out",
            { arch = "qwen2", tensors = { ["output.bias"] = { 1 } } })
        for _, name in ipairs { "blk.1.attn_q_norm.weight", "blk.2.attn_norm.weight" } do
            says("no tensor " .. name, { arch = "llama", tensors = { [name] = { 1 } } })
        end
        says("no tensor rope_factors_short.weight",
            { arch = "llama", tensors = { ["rope_factors_short.weight"] = { 1 } } })
        says("no tensor rope_freqs.weight", { arch = "llama", keys = { ["rope.scaling.type"] = "longrope" },
            tensors = { ["rope_freqs.weight"] = { 1 } } })
    end)

    it("in the words of what was wrong first", function()
        says("qwen2.context_length is 0, outside 1..2147483647", { arch = "qwen2", keys = { ["context_length"] = 0 } })
    end)

    it("if it lacks what its architecture needs", function()
        says("tensor blk.1.attn_k.bias is missing", { arch = "qwen2", missing = "blk.1.attn_k.bias" })
        says("a llama model with 8 experts is not one moonloom runs",
            { arch = "llama", keys = { ["expert_count"] = 8 } })
        says("tensor blk.0.attn_q.weight has shape {64, 64}, but {128, 64} is needed",
            { arch = "llama", keys = { ["attention.key_length"] = 32 } })
    end)
end)
