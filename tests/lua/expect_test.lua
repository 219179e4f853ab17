-- What methods are given: wrong types and numbers end in a sentence of moonloom's, and nothing happens.
local moonloom = require "moonloom"
local sentence = require "helpers.sentence"

local words = { {}, true, "x", 1.5, 1e300, 1 / 0, 0 / 0, print }
local paths = { {}, true, 1.5, 0 / 0, print, "" }

describe("wrong arguments", function()
    local model, session, batch, tensor

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        session = model:session():feed("Once upon a time")
        batch = model:batch(2)
        batch:add(session:fork(), 5, true)
        batch:forward()
        tensor = moonloom.tensor.new { { 1, 2 }, { 3, 4 } }
    end)

    -- f(value) for each of the values, and for nil: none in C's or LuaJIT's words.
    local function refuses(values, f)
        local count = #session:tokens()
        for i = 1, #values + 1 do
            local problem = sentence(f, values[i])
            for _, word in ipairs { "'ml_", "bad argument", "attempt to", "cannot convert", "2147483648" } do
                assert.is_nil(problem:find(word, 1, true), problem)
            end
        end
        assert.equal(count, #session:tokens())
    end

    it("options that nobody knows", function()
        for method, f in pairs {
            ["model:session"] = function() model:session { prefixs = false } end,
            ["moonloom.load"] = function() moonloom.load(model.path, { prefixs = 1 }) end,
            ["moonloom.restore"] = function() moonloom.restore("x", { prefixs = 1 }) end,
            ["moonloom.store"] = function() moonloom.store("/tmp", { prefixs = 1 }) end,
            ["moonloom.pool"] = function() moonloom.pool { prefixs = 1 } end,
            ["session:tree"] = function() session:tree { prefixs = 1 } end,
        } do
            local hint = method == "model:session" and "; did you mean 'prefixes'?" or ""
            assert.equal(("%s has no option 'prefixs'%s"):format(method, hint), sentence(f))
        end
    end)

    it("tokens", function()
        refuses(words, function(id) session:step(id) end)
        refuses(words, function(id) session:best(id) end)
        refuses(words, function(id) session:feed { 5, id or "nil", 6 } end)
        refuses(words, function(id) session:feed { 5, id or "nil" } end)
        refuses(words, function(id) batch:add(session, id, true) end)
        refuses(words, function(id) session:logits():logprob(id) end)
        refuses({ 1.5, 1e300, 0 / 0 }, function(id) return session:logits()[id or -1] end)
        refuses({ "x", 5 }, function(ids) session:sync(ids) end)
        assert.equal("'x' is no token id", sentence(session.step, session, "x"))
        assert.equal("nil is no token id", sentence(session.best, session, nil))
    end)

    it("layers, rows, counts", function()
        refuses(words, function(layer) session:page_bytes(layer) end)
        refuses(words, function(layer) session:sample(layer) end)
        refuses(words, function(count) session:fill_random(count) end)
        refuses(words, function(layer) batch:layer(layer) end)
        refuses(words, function(layer) batch:attention(layer) end)
        refuses(words, function(layer) batch:router(layer) end)
        refuses(words, function(layer) batch:experts(layer) end)
        refuses(words, function(row) batch:logits(row) end)
        refuses(words, function(row) batch:best(row) end)
        refuses(words, function(rows) model:batch(rows) end)
        refuses({ {}, true, "x", 0 / 0, -1 }, function(bytes) model:keep_prefixes(bytes) end)
        refuses({ {}, true, "x", 1.5, 0 / 0 }, function(count) moonloom.threads(count or -1) end)
        refuses({ {}, true, "x", 0 / 0 }, function(time) moonloom.bandwidth(time or -1) end)
        refuses({ {}, true, "x", 0 / 0 }, function(k) session:logits():topk(k or "y") end)
        refuses({ {}, true, "x", 0 / 0 }, function(chunk) session:feed({ 5, 6 }, { chunk = chunk or "y" }) end)
        refuses({ {}, true, "x", 0 / 0 }, function(kept) session:tree { kept = kept or "y" } end)
        assert.equal("a layer must be a whole number, not 1.5", sentence(session.page_bytes, session, 1.5))
        assert.equal(6, model:session():feed({ 5, 6, 7, 8, 9, 10 }, { chunk = 0 }).position)
    end)

    it("names, paths, options, objects", function()
        refuses({ {}, 5, print }, function(name) model:tensor(name) end)
        refuses({ {}, 5.5, print }, function(name) model.weights:info(name or "x") end)
        assert.is_nil(model.weights:meta(nil))
        refuses(paths, function(path) session:save(path) end)
        refuses(paths, function(path) tensor:save(path) end)
        refuses(paths, function(path) moonloom.tensor.load(path) end)
        refuses({ {}, true, 1.5 }, function(folder) moonloom.store(folder or 2) end)
        refuses({ {}, "x", -1 }, function(bytes) moonloom.store("/tmp", { bytes = bytes or true }) end)
        assert.is_nil(moonloom.store())
        for _, name in ipairs { "numa", "isa", "precision", "tuning" } do
            refuses({ {}, true, 5, "x" }, function(value) moonloom[name](value or "y") end)
        end
        refuses({ {}, 5, true }, function(other) moonloom.current(other or 6) end)
        refuses({ "x", 5, true }, function(options) model:session(options or "f32") end)
        refuses({ "x", 5, true }, function(options) session:feed("x", options or "y") end)
        refuses({ "x", 5, true }, function(options) session:tree(options or "y") end)
        refuses({ "x", 5, true }, function(options) model:tokenize("x", options or "y") end)
        refuses({ "x", 5, true }, function(options) moonloom.restore("x", options or "y") end)
        refuses({ "x", 5, true }, function(options) moonloom.load(model.path, options or "y") end)
        refuses({ "x", 5, true, {} }, function(other) batch:add(other, 5) end)
        refuses({ "x", 5, true }, function(list) moonloom.step_all(list, { 1 }) end)
    end)

    it("of tensors", function()
        refuses(words, function(k) tensor:topk(k) end)
        refuses(words, function(first) tensor:slice(1, first or "y") end)
        refuses(words, function(last) tensor:slice(1, 1, last or "y") end)
        refuses({ {}, true, "x", 0 / 0 }, function(factor) tensor:scale(factor) end)
        refuses({ {}, true, "x", 0 / 0 }, function(offset) tensor:scale(1, offset or "y") end)
        refuses({ {}, true, "x", 0 / 0 }, function(factor) tensor:add_scaled(tensor, factor or "y") end)
        refuses({ {}, true, "x", 0 / 0 }, function(epsilon) tensor:rms_norm(nil, epsilon or "y") end)
        refuses(words, function(seed) moonloom.tensor.randn(2, { seed = seed or "y" }) end)
        refuses({ {}, true, "x" }, function(low) moonloom.tensor.rand(2, { low = low or "y" }) end)
        refuses({ 5, true, "x" }, function(options) tensor:swiglu(tensor, options or "y") end)
        refuses({ 5, true, "x" }, function(options) tensor:attend(tensor, tensor, options or "y") end)
        refuses({ 5, true }, function(options) moonloom.tensor.new({ 1 }, options or "y") end)
    end)
end)
