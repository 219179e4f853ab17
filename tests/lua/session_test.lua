-- Sessions: feeding, rewinding, forking, stepping together; what interrupts and failures leave behind.
local interrupt = require "moonloom._core.interrupt"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local C = ml.C

describe("a session", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local model, ids

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        local text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        ids = model:tokenize(text:rep(40))
        assert.is_true(#ids > 700)
        model:keep_prefixes(0) -- every session computes all of its tokens
    end)

    teardown(function() model:close() end)

    local function first(count)
        local list = {}
        for i = 1, count do list[i] = ids[i] end
        return list
    end

    local function copy(logits)
        local list = {}
        for i = 0, #logits - 1 do list[i] = logits[i] end
        return list
    end

    local function same(expected, logits)
        local worst = 0
        for id, value in pairs(expected) do worst = math.max(worst, math.abs(value - logits[id])) end
        assert.is_true(worst <= 1e-4, "logits differ by " .. worst)
    end

    it("knows its tokens, text and position", function()
        local session = model:session()
        assert.equal(0, session.position)
        assert.has_error(function() session:logits() end, "this session is empty: feed it a prompt first")
        session:feed("Once upon")
        assert.same({ 401, 402 }, session:tokens())
        assert.equal("Once upon", session:text())
        session:step(session:logits():argmax())
        assert.equal("Once upon a", session:text())
        assert.truthy(tostring(session):find("3 tokens", 1, true))
        session:close()
        assert.has_error(function() session:step(1) end)
        assert.equal("session (closed)", tostring(session))
    end)

    it("takes names of special tokens as text on request", function()
        local session = model:session()
        session:feed("<|end|>", { special = false })
        assert.is_true(session.position > 1)
        session:rewind(0):feed("<|end|>")
        assert.same({ 1021 }, session:tokens())
        session:close()
    end)

    it("gives the same logits after rewind, after fork, and in one pass with others", function()
        local session = model:session { cache = "f32" }
        local expected = {}
        session:feed(first(180), { each = function(position, logits)
            if position % 30 == 29 then expected[position + 1] = copy(logits) end
        end })
        same(expected[180], session:logits())
        local fork = session:fork(150)
        assert.equal(150, fork.position)
        same(expected[150], fork:logits()) -- fed again
        for i = 151, 180 do fork:step(ids[i]) end
        same(expected[180], fork:logits())
        session:rewind(90)
        same(expected[90], session:logits())
        assert.equal(90, session.position)
        local third = session:fork(60)
        for i = 1, 30 do
            moonloom.step_all({ session, third }, { ids[90 + i], ids[60 + i] })
        end
        same(expected[120], session:logits())
        same(expected[90], third:logits())
        same(expected[180], fork:logits()) -- untouched
        for _, s in ipairs { session, fork, third } do s:close() end
    end)

    it("shares pages with its forks and gives all back", function()
        local session = model:session()
        session:feed(first(600))
        local before = session:bytes()
        local forks = {}
        for i = 1, 8 do forks[i] = session:fork() end
        assert.equal(before, session:bytes())
        for _, fork in ipairs(forks) do fork:close() end
        assert.equal(before, session:bytes())
        for _ = 1, 8 do session:fork(300):step(5) end -- dropped without close
        collectgarbage()
        collectgarbage()
        assert.equal(before, session:bytes())
        session:close()
    end)

    it("syncs to other tokens by feeding only what differs", function()
        local session = model:session()
        assert.equal(100, session:sync(first(100)))
        assert.equal(0, session:sync(first(100)))
        local other = first(100)
        other[91] = 5
        assert.equal(10, session:sync(other))
        assert.same(other, session:tokens())
        assert.equal(0, session:sync(first(40)))
        assert.equal(40, session.position)
        session:close()
    end)

    it("tells progress chunk by chunk, and keeps the chunks that were done when it is interrupted", function()
        local session, seen = model:session(), {}
        local done = interrupt.catch(function()
            session:feed(first(700), { progress = function(fed, total)
                seen[#seen + 1] = { fed, total }
                if #seen == 1 then C.ml_interrupt_set(1) end
            end })
        end)
        assert.is_false(done)
        assert.equal(0, C.ml_interrupt_pending())
        assert.same({ { 512, 700 } }, seen)
        assert.equal(512, session.position)
        assert.same(first(512), session:tokens())
        assert.equal(188, session:sync(first(700)))
        local whole = model:session()
        whole:feed(first(700))
        same(copy(whole:logits()), session:logits())
        session:close()
        whole:close()
    end)

    it("is unchanged by a step that fails", function()
        local session = model:session()
        session:feed(first(20))
        assert.has_error(function() session:step(99999) end)
        assert.has_error(function() session:feed { 1, 2, -5 } end)
        assert.equal(20, session.position)
        C.ml_interrupt_set(1)
        assert.is_false(interrupt.catch(function() session:step(5) end))
        assert.equal(20, session.position)
        assert.equal(20, #session:tokens())
        session:step(5)
        assert.equal(21, session.position)
        session:close()
    end)

    it("loses no token where logits that are gone are computed again and that is interrupted", function()
        local session = model:session():feed(first(70))
        local expected = copy(session:logits())
        session:rewind(69):step(ids[70])
        local fork = session:fork(69):step(ids[70]):rewind(70)
        C.ml_interrupt_set(1)
        local fine, problem = pcall(fork.logits, fork)
        C.ml_interrupt_set(0)
        assert.is_false(fine)
        assert.is_true(interrupt.is_interrupt(problem))
        assert.same(first(70), fork:tokens())
        same(expected, fork:logits())
        fork:close()
        session:close()
    end)

    it("refuses what makes no sense with one sentence", function()
        local session, other = model:session(), model:session()
        session:feed(first(10))
        assert.has_error(function() session:rewind(11) end, "cannot rewind to 11: the session has 10 tokens")
        assert.has_error(function() session:rewind(-1) end)
        assert.has_error(function() session:fork(1.5) end)
        assert.has_error(function() model:session { cache = "q4" } end, "a cache is bf16 or f32, not 'q4'")
        assert.has_error(function() session:feed(5) end, "feed takes text or a list of token ids")
        assert.has_error(function() moonloom.step_all({ session, other }, { 1, 2 }) end)
        assert.has_error(function() moonloom.load("/no/such/file.gguf") end)
        session:close()
        other:close()
    end)

    it("says so when logits that were kept are gone", function()
        local session = model:session()
        session:feed(first(10))
        local old = session:logits()
        assert.is_true(old:valid())
        session:feed(first(3))
        assert.is_false(old:valid())
        assert.has_error(function() return old[0] end)
        local logits = session:logits()
        assert.has_error(function() return logits[#logits] end)
        assert.has_error(function() return logits[-1] end)
        local best = logits:topk(3)
        assert.equal(best[1].id, (logits:argmax()))
        assert.is_true(math.abs(best[1].logprob - logits:logprob(best[1].id)) < 1e-9)
        session:close()
    end)

    it("belongs to a model that shows its weights and sizes", function()
        local config = model:config()
        assert.equal("gpt-oss", config.architecture)
        local embedding = model:tensor("token_embd.weight")
        assert.same({ config.vocabulary, config.width }, embedding:shape())
        assert.equal("q8_0", embedding:dtype())
        assert.has_error(function() model:tensor("no.such.tensor") end)
        assert.truthy(tostring(model):find("4 layers of 192", 1, true))
    end)

    it("outlives its model and dies in any order", function()
        for _ = 1, 3 do
            local short = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
            local session = short:session()
            session:feed(first(5))
            local fork = session:fork()
            short = nil -- luacheck: ignore
            session = nil -- luacheck: ignore
            collectgarbage()
            fork:step(3)
            assert.equal(6, fork.position)
        end
        collectgarbage()
    end)

    it("opens the pass: a layer left out changes the result, all layers in steps do not", function()
        local session, layers = model:session { cache = "f32" }, model:config().layers
        session:feed(first(50))
        local batch = model:batch(4)
        local expected = copy(session:fork():step(ids[51]):logits())
        local fork = session:fork()
        batch:add(fork, ids[51], true)
        batch:embed()
        for l = 0, layers - 1 do batch:attention(l):router(l):experts(l) end
        batch:head():commit()
        same(expected, batch:logits(1))
        assert.equal(51, fork.position)
        assert.equal(ids[51], fork:tokens()[51])
        local config = model:config()
        assert.same({ 1, config.width }, batch:residual():shape())
        assert.same({ 1, config.experts }, batch:router_logits():shape())
        assert.same({ 1, config.experts_used }, batch:expert_ids():shape())
        local weights = batch:expert_weights()
        assert.is_true(math.abs(weights:get(1, 1) + weights:get(1, 2) - 1) < 1e-6)
        local kept = batch:logits(1):tensor()
        -- Another state of the residual stream gives other logits: what Lua writes is what the head sees.
        batch:clear():add(session:fork(), ids[51], true)
        batch:embed()
        for l = 0, layers - 1 do batch:layer(l) end
        batch:residual():set(1, 1, 50)
        batch:head()
        assert.is_true(math.abs(kept:get(6) - expected[5]) < 1e-4)
        assert.is_true(math.abs(batch:logits(1)[5] - expected[5]) > 1e-3)

        fork = session:fork()
        batch:clear():add(fork, ids[51], true)
        batch:embed():layer(0):layer(3):head()
        local worst = 0
        for id, value in pairs(expected) do worst = math.max(worst, math.abs(value - batch:logits(1)[id])) end
        assert.is_true(worst > 0.1)
        assert.equal(50, fork.position) -- nothing committed
    end)
end)
