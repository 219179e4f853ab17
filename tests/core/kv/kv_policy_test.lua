-- Policies: which pages are quantised, when, for whom, and what forks, rewinds and appends then see.
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local synth = require("moonloom.recipe.live").get("synth")
local slice = require "helpers.slice"
local C, check = ml.C, ml.check

local PAGE = 64
local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " ..
    "One day, Tom found a big red ball under the old tree, and his mom said it was too late for a swim. "

describe("a policy for keys and values", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local model, ids, layers

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        layers = model:config().layers
        ids = model:tokenize(TEXT:rep(20))
        assert.is_true(#ids > 700)
    end)

    teardown(function()
        model:close()
        check(C.ml_threads_set(0))
        check(C.ml_isa_set("auto"))
        folder.remove()
    end)

    local function bytes_of(logits)
        return ffi.string(logits:pointer(), #logits * 4)
    end

    local function distance(a, b)
        local most = 0
        for i = 0, #a - 1 do
            local d = math.abs(a[i] - b[i])
            if d ~= d then return d end
            most = math.max(most, d)
        end
        return most
    end

    local function new(kv, tokens, options)
        if kv then kv.window = "keep" end -- the places of pages are another matter: see kv_levels_test.lua
        local session = model:session { kv = kv }
        session:feed(slice(ids, 1, tokens), options)
        return session
    end

    local function page_bytes(session, layer, plain)
        return tonumber(C.ml_cache_page_bytes(session:shared_cache().handle, layer, plain and 1 or 0))
    end

    it("quantises full pages behind the hot tokens and after the first ones", function()
        local session = new({ bits = 8, hot_tokens = 100, first_tokens = 65 }, 500)
        -- 8 pages; full ones before token 400: 6, of which the first 2 stay.
        local pages, quantised = session:pages()
        assert.equal(8 * layers, pages)
        assert.equal(4 * layers, quantised)
        assert.equal(4 * layers * page_bytes(session, 0, false) + 4 * layers * page_bytes(session, 0, true),
            (session:bytes()))
        session:feed(slice(ids, 501, 548))
        assert.equal(5 * layers, select(2, session:pages())) -- token 447 is one too few for a seventh
        session:close()
    end)

    it("sees nearly the same as with plain pages, nearer with more bits", function()
        local plain = new(nil, 400)
        local last = {}
        for _, bits in ipairs { 8, 4 } do
            local session = new({ bits = bits, hot_tokens = 0 }, 384, { chunk = PAGE })
            session:feed(slice(ids, 385, 400))
            assert.equal(6 * layers, select(2, session:pages()))
            last[bits] = distance(plain:logits(), session:logits())
            assert.is_true(last[bits] > 0)
            session:close()
        end
        assert.is_true(last[8] < 0.05 and last[4] < 1, ("8 bits: %g, 4 bits: %g"):format(last[8], last[4]))
        assert.is_true(last[8] < last[4] / 4)
        plain:close()
    end)

    it("differs by layer and head, and can be any mix", function()
        local heads, n = model:config().kv_heads, model:config().head_dim
        assert.equal(2, heads)
        local kv = { hot_tokens = 0, key_bits = { [1] = 8, [2] = { [0] = 4, default = 8 }, default = 16 },
            value_bits = function(layer, head) return layer == 3 and 4 or 16 end }
        local session = new(kv, 330, { chunk = PAGE })
        local side = { [16] = 2 * n * PAGE, [8] = n * PAGE + 4 * PAGE, [4] = n * PAGE / 2 + 4 * PAGE }
        local means = 2 * n
        assert.equal(4 * side[16], page_bytes(session, 0))
        assert.equal(64 + 2 * side[8] + 2 * side[16], page_bytes(session, 1))
        assert.equal(64 + side[4] + means + side[8] + 2 * side[16], page_bytes(session, 2))
        assert.equal(64 + 2 * side[16] + 2 * side[4], page_bytes(session, 3))
        assert.equal(5 * 3, select(2, session:pages())) -- layer 0 stays as it is
        local plain = new(nil, 330)
        local off = distance(plain:logits(), session:logits())
        assert.is_true(off > 0 and off < 0.5, "off by " .. off)
        plain:close()
        session:close()
    end)

    it("gives a token the same bits in any batch, on any number of threads, under every instruction set", function()
        local used = moonloom.isa()
        for _, isa in ipairs(isa_helper.sets) do
            if C.ml_isa_set(isa) == C.ML_OK then
                for _, bits in ipairs { 8, 4 } do
                    local base = new({ bits = bits, hot_tokens = 0 }, 256, { chunk = PAGE })
                    local one, two, three = base:fork(), base:fork(), base:fork(200)
                    check(C.ml_threads_set(1))
                    local expected = {}
                    for i = 257, 270 do
                        one:step(ids[i])
                        expected[i] = bytes_of(one:logits())
                    end
                    check(C.ml_threads_set(3))
                    two:feed(slice(ids, 257, 270), { each = function(position, logits)
                        assert.equal(expected[position + 1], bytes_of(logits))
                    end })
                    two:rewind(256)
                    for i = 257, 270 do
                        moonloom.step_all({ three, two }, { ids[i - 50], ids[i] })
                        assert.equal(expected[i], bytes_of(two:logits()))
                    end
                    check(C.ml_threads_set(0))
                    base:close() one:close() two:close() three:close()
                end
            end
        end
        moonloom.isa(used)
    end)

    local function certain(session)
        return C.ml_sequence_certain(session:shared_cache().handle, session.sequence)
    end

    -- The ids up to `last` in passes of all that is certain, after one token. rows[position]: bytes of its logits.
    local function feed_certain(session, last, rows)
        while session.position < last do
            local at, count = session.position, tonumber(certain(session))
            local stop = math.min(at + count, last)
            session:feed(slice(ids, at + 1, stop), { chunk = count, each = function(position, logits)
                rows[position] = bytes_of(logits)
            end })
        end
        return rows
    end

    -- The bytes of the logits of the row after all that is certain, in the same pass.
    local function one_too_many(kv, from)
        local session, bytes = new(kv, 1), nil
        feed_certain(session, from, {})
        local stop = from + tonumber(certain(session)) + 1
        session:feed(slice(ids, from + 1, stop), { chunk = stop, each = function(_, logits)
            bytes = bytes_of(logits)
        end })
        session:close()
        return bytes, stop - 1
    end

    it("tells how many tokens of one pass are certain to be those of passes of their own", function()
        for _, first in ipairs { 0, 65 } do
            for _, hot in ipairs { 0, 64, 100, 128 } do
                local kv = { bits = 4, hot_tokens = hot, first_tokens = first }
                local one, many, alone = new(kv, 1), new(kv, 1), {}
                for i = 2, 450 do
                    one:step(ids[i])
                    alone[i - 1] = bytes_of(one:logits())
                end
                for position, bytes in pairs(feed_certain(many, 450, {})) do
                    assert.is_true(alone[position] == bytes, ("hot %d, position %d"):format(hot, position))
                end
                local start = 2 * PAGE + hot % PAGE
                for _, from in ipairs { start + 2 * PAGE, start + 2 * PAGE + 33 } do
                    local bytes, position = one_too_many(kv, from)
                    assert.equal(0, (position - hot) % PAGE) -- a page turned cold before it
                    assert.is_true(alone[position] ~= bytes, ("hot %d, position %d"):format(hot, position))
                end
                one:close()
                many:close()
            end
        end
    end)

    it("counts certain tokens from wherever a sequence stands", function()
        local function is(expected, session) assert.equal(expected, tonumber(certain(session))) end
        local session = new(nil, 200)
        assert.equal(9223372036854775807LL, certain(session))
        session:policy { bits = 16, hot_tokens = 0, window = "keep" }
        assert.equal(9223372036854775807LL, certain(session))
        session:policy { key_bits = { [1] = 8, default = 16 }, hot_tokens = 0, window = "keep" } -- settles
        is(56, session)
        session:rewind(150) -- in the middle of a quantised page
        is(42, session)
        session:policy { bits = 4, hot_tokens = 100, window = "keep" }
        is(14, session) -- token 164 makes it page 0; that of layer 1 is quantised, the others are not
        session:rewind(0)
        is(164, session)
        session:close()

        -- A policy that is set and not applied yet: the first settle changes what is behind the next token.
        session = new(nil, 200)
        local cache = session:shared_cache()
        local bits = ffi.new("uint8_t[?]", layers * model:config().kv_heads)
        ffi.fill(bits, ffi.sizeof(bits), 8)
        local policy = ffi.new("ml_policy", { 64, 0, bits, bits, 1 })
        check(C.ml_cache_policy(cache.handle, policy))
        is(1, session)
        check(C.ml_cache_settle(cache.handle))
        is(56, session)
        policy.first_tokens = 300
        check(C.ml_cache_policy(cache.handle, policy))
        is(5 * PAGE + 64 + PAGE - 200, session) -- page 5 is the first that turns
        local fork = session:fork(100) -- its first page is quantised already
        is(5 * PAGE + 64 + PAGE - 100, fork)
        policy.first_tokens = 2LL ^ 50
        assert.equal(C.ML_E_ARGUMENT, C.ml_cache_policy(cache.handle, policy))
        assert.equal(C.ML_E_ARGUMENT, tonumber(C.ml_sequence_certain(cache.handle, 77)))
        fork:close()
        session:close()
    end)

    it("quantises a page that forks share once, for all of them", function()
        local one = new({}, 300)
        local two, three = one:fork(), one:fork(130)
        local before = one:bytes()
        one:policy { bits = 4, hot_tokens = 0, window = "keep" }
        local pages, quantised = one:pages()
        assert.equal(5 * layers, pages)
        assert.equal(4 * layers, quantised) -- the third page is full for two of them
        assert.equal(before - 4 * layers * (page_bytes(one, 0, true) - page_bytes(one, 0)), (one:bytes()))
        one:feed(slice(ids, 301, 310))
        two:feed(slice(ids, 301, 310))
        assert.equal(bytes_of(one:logits()), bytes_of(two:logits()))
        three:feed(slice(ids, 131, 140)) -- goes on inside a quantised page
        assert.equal(4 * layers, select(2, three:pages()))
        one:close() two:close() three:close()
    end)

    it("keeps the codes of a page that is opened and closed again, however often", function()
        for _, bits in ipairs { 8, 4 } do
            local session = new({ bits = bits, hot_tokens = 0 }, 256, { chunk = PAGE })
            local function once()
                session:rewind(200):feed(slice(ids, 201, 256))
                assert.equal(4 * layers, select(2, session:pages()))
                session:feed(slice(ids, 257, 260))
                return bytes_of(session:logits())
            end
            local expected = once()
            for _ = 1, 5 do assert.equal(expected, once()) end
            -- The last kept token moves, and the copies with it.
            session:rewind(230):feed(slice(ids, 231, 240))
            session:rewind(232):rewind(210):feed(slice(ids, 211, 260))
            local fork = session:fork(195)
            fork:feed(slice(ids, 196, 260))
            session:close()
            assert.equal(4 * layers, select(2, fork:pages()))
            fork:close()
        end
    end)

    it("gives back every byte", function()
        local session = new({ bits = 4, hot_tokens = 0 }, 300)
        local forks = {}
        for position = 10, 290, 40 do
            local fork = session:fork(position)
            fork:feed(slice(ids, position + 1, position + 70))
            forks[#forks + 1] = fork
        end
        for _, fork in ipairs(forks) do fork:close() end
        session:rewind(0)
        assert.same({ 0, 0 }, { session:pages() })
        assert.equal(0, (session:bytes()))
        session:close()
    end)

    it("may change between two tokens", function()
        local session = new({ bits = 8, hot_tokens = 0 }, 200)
        assert.equal(3 * layers, select(2, session:pages()))
        local wide = session:bytes()
        session:policy { bits = 4, hot_tokens = 0, window = "keep" }
        assert.equal(wide - 3 * layers * (64 + 2 * 2 * 32 * PAGE + 4 * 4 * PAGE - page_bytes(session, 0)),
            (session:bytes()))
        session:step(ids[201])
        local narrow = session:bytes()
        session:policy { bits = 8, hot_tokens = 0, window = "keep" } -- what is small stays so
        assert.equal(narrow, (session:bytes()))
        assert.has_error(function() session:policy { bits = 8, rotate = false } end,
            ("rotation cannot change while %d pages are quantised"):format(3 * layers))
        session:rewind(0):policy { bits = 8, rotate = false, window = "keep" }
        session:feed(slice(ids, 1, 600))
        assert.is_true(select(2, session:pages()) > 0)
        session:close()
    end)

    it("leaves a page with NaN plain, and nothing else", function()
        local session = model:session { kv = { bits = 8, hot_tokens = 0 } }
        local batch = model:batch(256)
        for i = 1, 256 do batch:add(session, ids[i]) end
        batch:embed()
        batch:residual():pointer()[100 * model:config().width] = 0 / 0
        for layer = 0, layers - 1 do batch:layer(layer) end
        batch:head():commit()
        -- Attention carries it on, where the tokens behind see it.
        local _, quantised = session:pages()
        assert.is_true(quantised >= layers and quantised <= 3 * layers)
        session:rewind(64):feed(slice(ids, 65, 100))
        assert.is_true(session:logits()[0] == session:logits()[0])
        session:close()
    end)

    it("is refused with a sentence where it is wrong", function()
        local function refused(kv, sentence)
            assert.has_error(function() model:session { kv = kv } end, sentence)
        end
        refused({ bit = 8 }, "kv policy: there is no 'bit'; did you mean 'bits'?")
        refused({ bits = 5 }, "kv policy: key_bits of layer 0, head 0 are 16, 8 or 4, not 5")
        refused({ value_bits = { [2] = { [1] = "x" } } },
            "kv policy: value_bits of layer 2, head 1 are 16, 8 or 4, not x")
        refused({ hot_tokens = -1 }, "kv policy: hot_tokens is a number of tokens, not -1")
        refused({ rotate = 1 }, "kv policy: rotate is true or false, not 1")
        refused(print, "kv policy: a table or a name is needed, such as { bits = 8 }, not function")
    end)

    it("fits 131,072 tokens of gpt-oss-20b's full layers into 1.75 GB and 0.95 GB", function()
        local path = folder.path("page.gguf")
        synth { output = path, shape = "tiny", type = "f32", layers = 1, width = 64, ffn_width = 32, experts = 2,
            vocab_size = 600, heads = 64, kv_heads = 8, head_dim = 64 }
        local shaped = moonloom.load(path)
        for bits, limit in pairs { [8] = 1.75e9, [4] = 0.95e9 } do
            local hot = 256
            local session = shaped:session { kv = { bits = bits, hot_tokens = hot } }
            local handle = session:shared_cache().handle
            local plain = tonumber(C.ml_cache_page_bytes(handle, 0, 1))
            local quantised = tonumber(C.ml_cache_page_bytes(handle, 0, 0))
            assert.equal(131072, plain)
            assert.is_true(12 * (131072 / PAGE * quantised + (hot / PAGE + 1) * plain) <= limit)
            session:close()
        end
        shaped:close()
    end)
end)
