-- Prefixes: a session that begins like another one starts where they part, with the same bits as if it had not.
local copy = require "helpers.logits_of"
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local slice = require "helpers.slice"
local C = ml.C

local function isas()
    local list, before = {}, moonloom.isa()
    for _, name in ipairs(isa_helper.sets) do
        if pcall(moonloom.isa, name) then list[#list + 1] = name end
    end
    moonloom.isa(before)
    return list
end

describe("a prefix", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local model, ids

    setup(function()
        ids = {}
        local x = 1
        for i = 1, 1000 do
            x = x * 16807 % 2147483647 -- Lehmer's generator, as Park and Miller have it
            ids[i] = x % 1000
        end
    end)

    before_each(function() model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf") end)
    after_each(function() model:close() end)

    -- ids[from..to], then `more`.
    local function part(from, to, more)
        return slice(ids, from, to, more)
    end

    -- Feeds the list to a session of its own and to one that may adopt: the same bits. Returns how many were adopted.
    local function compare(list, kind)
        local plain = model:session { cache = kind, prefixes = false }
        plain:feed(list)
        local session = model:session { cache = kind }
        session:feed(list)
        assert.same(list, session:tokens())
        assert.same(copy(plain), copy(session))
        for _ = 1, 5 do
            local id = plain:logits():argmax()
            plain:step(id)
            session:step(id)
            assert.same(copy(plain), copy(session))
        end
        plain:close()
        session:close()
        return session.adopted
    end

    it("hashes as XXH64 does", function()
        assert.equal(0xef46db3751d8e999ULL, C.ml_hash("", 0, 0))
        assert.equal(0x44bc2cf5ad770999ULL, C.ml_hash("abc", 3, 0))
        assert.equal(0x32dd38952c4bc720ULL, C.ml_hash("xxhash", 6, 0))
        assert.equal(0xb559b98d844e0635ULL, C.ml_hash("xxhash", 6, 20141025))
    end)

    it("of a living session is shared, at any token", function()
        local first = model:session()
        first:feed(part(1, 500))
        local bytes = first:bytes()
        for _, position in ipairs { 1, 63, 64, 65, 127, 128, 200, 449, 499 } do
            assert.equal(position, compare(part(1, position, { 7, 8, 9 })))
        end
        assert.equal(499, compare(part(1, 500))) -- never all: the last token gives the logits
        local second = model:session()
        second:feed(part(1, 500))
        assert.is_true(second:bytes() <= bytes * 9 / 8 + 1) -- the last page of each layer is its own
        assert.same(copy(first), copy(second))
        first:close()
        second:close()
    end)

    it("of a closed session stays known, page by page and within one", function()
        for _, kind in ipairs { "bf16", "f32" } do
            local first = model:session { cache = kind }
            first:feed(part(1, 500))
            first:close()
            for _, position in ipairs { 500, 449, 128, 65, 64, 10 } do
                assert.equal(position, compare(part(1, position, { 7, 8, 9 }), kind))
            end
            assert.equal(0, compare(part(300, 400), kind))
        end
    end)

    it("is what a rewind cuts off, too: going back to the other way computes nothing", function()
        local session = model:session()
        session:feed(part(1, 400))
        local expected = copy(session)
        session:sync(part(1, 100, part(600, 700)))
        assert.equal(201, session.position)
        -- What a rewind leaves is known by full pages: 384 of 400 tokens.
        assert.equal(16, session:sync(part(1, 400)))
        assert.same(expected, copy(session))
        session:close()
    end)

    it("is not what ml_sequence_forget() cuts off: rows that were only tried leave nothing behind", function()
        local session = model:session()
        session:feed(part(1, 100))
        session:feed(part(501, 811)) -- drafts: pages 2 to 6 are theirs alone
        local function kept() return tonumber(C.ml_cache_kept(session:shared_cache().handle)) end
        local function rewind(call, position)
            ml.check(call(session:shared_cache().handle, session.sequence, position))
        end
        rewind(C.ml_sequence_forget, 100)
        assert.equal(100, session.position)
        assert.equal(0, kept())
        assert.equal(0, session:sync(part(1, 100)))
        session:feed(part(101, 400))
        assert.equal(0, session.adopted)
        local expected = copy(session)
        rewind(C.ml_sequence_rewind, 100)
        assert.is_true(kept() > 0)
        session:feed(part(101, 400))
        assert.equal(284, session.adopted) -- six pages
        assert.same(expected, copy(session))
        assert.equal(C.ML_E_ARGUMENT, C.ml_sequence_forget(session:shared_cache().handle, session.sequence, 401))
        assert.equal("cannot rewind sequence 0 at position 401: it has 400 tokens", ffi.string(C.ml_last_error()))
        session:close()
    end)

    it("tells apart what differs before it", function()
        local a, b = part(1, 200), part(1, 200)
        b[3] = 99
        local session = model:session()
        session:feed(a)
        session:close()
        assert.equal(2, compare(b))
        assert.equal(200, compare(part(1, 200, { 5 })))
        assert.equal(199, compare(b)) -- and now knows both
    end)

    it("is not what a recipe changed on the way, nor what other kernels computed", function()
        local session, batch = model:session(), model:batch(64)
        session:feed(part(1, 64))
        for i = 65, 128 do batch:add(session, ids[i], i == 128) end
        batch:embed()
        for l = 0, model:config().layers - 1 do batch:layer(l) end
        batch:residual():set(1, 1, 50)
        batch:head():commit()
        session:feed(part(129, 300))
        session:close()
        assert.equal(64, compare(part(1, 300)))

        local names, before = isas(), moonloom.isa()
        for i, name in ipairs(names) do
            moonloom.isa(name)
            assert.equal(name == before and 299 or 0, compare(part(1, 300)), name)
            assert.equal(299, compare(part(1, 300)), name .. " " .. i)
        end
        moonloom.isa(before)
    end)

    it("goes when it is used least and the budget is reached, and when it is turned off", function()
        local function known(list)
            local session = model:session()
            session:feed(list)
            session:close()
            return session.adopted
        end
        local page = model:config().layers * model:config().kv_heads * model:config().head_dim * 64 * 2 * 2
        model:keep_prefixes(10 * page)
        known(part(1, 256)) -- 4 pages
        known(part(300, 555)) -- 4 more
        assert.equal(255, known(part(1, 256)))
        known(part(600, 855)) -- 4 more: two of the second go
        local session = model:session()
        local _, kept = session:bytes()
        assert.equal(10 * page, kept)
        session:close()
        assert.equal(255, known(part(1, 256)))
        assert.equal(255, known(part(600, 855)))
        assert.equal(128, known(part(300, 555)))
        session = model:session()
        model:keep_prefixes(0)
        assert.same({ 0, 0 }, { session:bytes() })
        assert.equal(0, known(part(1, 256)))
        assert.equal(0, known(part(1, 256)))
        session:close()
    end)

    describe("under a budget of memory", function()
        local PAGE, plain = 64, 16384 -- tokens, and bytes of a plain page of one layer
        local MEMORY = 1.5 * 2 ^ 20

        teardown(folder.remove)

        -- The name of a policy that is in a file, so that sessions share its cache, and so its prefixes.
        local function policy(fields)
            local text = { "return { bits = 16, window = 'keep', memory = '1.5M'" }
            for name, value in pairs(fields) do text[#text + 1] = (", %s = %q"):format(name, value) end
            return folder.write("policy.lua", table.concat(text) .. " }")
        end

        -- Feeds 600 ids of the list number `i` to a session and closes it. Returns how many were known, and the logits.
        local function visit(kv, i)
            local list, session = {}, model:session { kv = kv }
            for j = 1, 600 do list[j] = ids[(j * 7 + i * 131) % 1000 + 1] end
            session:feed(list)
            local logits = copy(session)
            assert.is_true(kv == nil or session:stats().kv.reserved_peak <= MEMORY)
            session:close()
            return session.adopted, logits
        end

        local function disk(kv)
            local session = model:session { kv = kv }
            local level = session:levels():data().levels.disk
            session:close()
            return level
        end

        it("goes to the disk, and comes back from there with the same bits", function()
            local kv, first = policy { spill = folder.path(".") }, {}
            local layers = model:config().layers
            assert.equal(plain, model:config().kv_heads * model:config().head_dim * PAGE * 2 * 2)
            for i = 1, 6 do
                local adopted
                adopted, first[i] = visit(kv, i)
                assert.equal(0, adopted)
            end
            assert.is_true(6 * 10 * layers * plain > 2 * MEMORY and disk(kv).pages > 30 * layers)
            for i = 1, 6 do
                local adopted, logits = visit(kv, i)
                assert.equal(599, adopted)
                assert.same(first[i], logits)
            end
            local session = model:session { kv = kv }
            model:keep_prefixes(12 * layers * plain) -- bounds what is on the disk, too
            assert.is_true(disk(kv).bytes + select(2, session:bytes()) <= 12 * layers * plain)
            model:keep_prefixes(0)
            assert.same({ 0, 0 }, { session:bytes() })
            assert.equal(0, disk(kv).pages)
            session:close()
        end)

        it("is forgotten where there is no disk, the least recently used first", function()
            local kv = policy {}
            for i = 1, 6 do visit(kv, i) end
            assert.equal(599, (visit(kv, 6)))
            assert.equal(0, (visit(kv, 1)))
        end)

        it("is forgotten when the disk is full, the least recently used first", function()
            local kv = policy { spill = folder.path("."), disk = "1M" }
            for i = 1, 8 do
                visit(kv, i)
                assert.is_true(disk(kv).bytes <= 2 ^ 20)
            end
            assert.is_true(disk(kv).pages > 0)
            for i = 8, 6, -1 do assert.equal(599, (visit(kv, i))) end
            assert.equal(0, (visit(kv, 1)))
        end)

        it("is forgotten when the disk fails, which is told once", function()
            local room = folder.path("room")
            os.execute("mkdir " .. room)
            if os.execute(("mount -t tmpfs -o size=64k none %s 2>/dev/null"):format(room)) ~= 0 then return end
            local kv = policy { spill = room }
            local problems = {}
            for i = 1, 6 do
                local fine, problem = pcall(visit, kv, i)
                if not fine then problems[#problems + 1] = tostring(problem) end
            end
            local _, expected = visit(nil, 7)
            local adopted, logits = visit(kv, 7)
            assert.equal(0, adopted)
            assert.same(expected, logits)
            os.execute("umount -l " .. room)
            assert.equal(1, #problems)
            assert.truthy(problems[1]:find("No space left on device; pages stay in memory", 1, true), problems[1])
        end)

        it("gives way on the disk to what sessions hold", function()
            local kv, list = policy { spill = folder.path("."), disk = "2M" }, {}
            for i = 1, 6 do visit(kv, i) end
            local session = model:session { kv = kv }
            for i = 1, 2800 do list[i] = ids[i * 3 % 1000 + 1] end
            session:feed(list)
            local alone = model:session { prefixes = false }
            alone:feed(list)
            assert.same(copy(alone), copy(session))
            assert.is_true(disk(kv).bytes <= 2 ^ 21 and session:stats().kv.reserved_peak <= MEMORY)
            alone:close()
            session:close()
        end)
    end)

    it("is refused where there is nothing to share with one sentence", function()
        local session, out = model:session(), ffi.new("int64_t[1]")
        local handle = session:shared_cache().handle
        assert.equal(C.ML_E_ARGUMENT, C.ml_cache_keep(handle, -1))
        assert.equal("a cache keeps 0 bytes or more, not -1", ffi.string(C.ml_last_error()))
        assert.equal(C.ML_E_ARGUMENT, C.ml_cache_adopt(handle, 99, nil, 0, out))
        assert.equal("the cache has no sequence 99", ffi.string(C.ml_last_error()))
        session:close()
    end)

    it("survives random sessions, forks, rewinds and closes: always the bits of a fresh one", function()
        math.randomseed(5)
        model:keep_prefixes(400000)
        local open = {}
        for _ = 1, 60 do
            local what = math.random(5)
            local session = open[math.random(math.max(1, #open))]
            if what == 1 or not session then
                session = model:session()
                local cut = math.random(0, 300)
                session:feed(part(1, cut, part(400, 400 + math.random(0, 99))))
                open[#open + 1] = session
            elseif what == 2 then
                open[#open + 1] = session:fork(math.random(0, session.position))
            elseif what == 3 then
                session:rewind(math.random(0, session.position))
            elseif what == 4 then
                session:feed(part(math.random(300), 300))
            else
                session:close()
                for i, s in ipairs(open) do
                    if s == session then table.remove(open, i) end
                end
            end
        end
        for _, session in ipairs(open) do
            if session.position > 0 then
                local plain = model:session { prefixes = false }
                plain:feed(session:tokens())
                assert.same(copy(plain), copy(session))
                plain:close()
            end
            session:close()
        end
    end)
end)
