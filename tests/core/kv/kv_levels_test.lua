-- Levels of the cache: where pages lie, and that it makes no difference to what attention sees.
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local sentence_of = require "helpers.sentence"
local slice = require "helpers.slice"
require "helpers.processes"
local C, check = ml.C, ml.check

local PAGE = 64
local HOT, WARM, COLD, DISK = 0, 1, 2, 3
local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " ..
    "One day, Tom found a big red ball under the old tree, and his mom said it was too late for a swim. "

describe("the levels of a cache", function()
    local model, ids, layers

    setup(function()
        isa_helper.rows_alone()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        layers = model:config().layers
        ids = model:tokenize(TEXT:rep(150))
    end)

    teardown(function()
        model:close()
        folder.remove()
        isa_helper.as_before()
    end)

    local function handle_of(session)
        return session:shared_cache().handle
    end

    local function levels(session, layer)
        local out, list = ffi.new("ml_level[4]"), {}
        check(C.ml_cache_levels(handle_of(session), layer or -1, out))
        for level = HOT, DISK do
            list[level] = {}
            for _, name in ipairs { "pages", "bytes", "whole", "hits", "demoted", "promoted" } do
                list[level][name] = tonumber(out[level][name])
            end
        end
        return list
    end

    it("are counted by layer, with what happened to the pages", function()
        local session = model:session { kv = { hot_tokens = 64, bits = { [1] = 8, default = 16 }, window = "keep" } }
        session:feed(slice(ids, 1, 300))
        local one, all = levels(session, 1), levels(session)
        assert.equal(3, one[WARM].pages)
        assert.equal(2, one[HOT].pages)
        assert.equal(3, one[WARM].demoted)
        assert.equal(5 * layers - 3, all[HOT].pages)
        assert.equal((session:bytes()), all[HOT].bytes + all[WARM].bytes)
        assert.equal(tonumber(C.ml_cache_page_bytes(handle_of(session), 1, 0)) * 3, all[WARM].whole)
        session:step(ids[301])
        assert.equal(3, levels(session, 1)[WARM].hits - one[WARM].hits)
        assert.equal(2, levels(session, 1)[HOT].hits - one[HOT].hits)
        local tokens = ffi.new("int64_t[4]")
        check(C.ml_sequence_levels(handle_of(session), session.sequence, 1, tokens))
        assert.same({ 109, 192, 0, 0 }, { tonumber(tokens[0]), tonumber(tokens[1]), tonumber(tokens[2]),
            tonumber(tokens[3]) })
        assert.equal(C.ML_E_ARGUMENT, C.ml_cache_levels(handle_of(session), layers, ffi.new("ml_level[4]")))
        session:close()
    end)

    it("tell what packing and quantising make of a page", function()
        local session = model:session { kv = { hot_tokens = 0, bits = { [0] = 4, default = 16 } } }
        local sample = ffi.new("ml_page_sample")
        assert.equal(C.ML_E_NOT_FOUND, C.ml_cache_sample(handle_of(session), session.sequence, 0, sample))
        session:feed(slice(ids, 1, 2 * PAGE + 1))
        check(C.ml_cache_sample(handle_of(session), session.sequence, 1, sample))
        assert.equal(1, sample.plain)
        assert.is_true(sample.packed < sample.unsplit and sample.unsplit <= sample.bytes + 100)
        for _, errors in ipairs { sample.key_error, sample.value_error } do
            assert.is_true(errors[0] > 1e-4 and errors[0] < 0.02 and errors[1] > 5 * errors[0] and errors[1] < 0.2)
        end
        check(C.ml_cache_sample(handle_of(session), session.sequence, 0, sample))
        assert.equal(0, sample.plain)
        assert.equal(tonumber(C.ml_cache_page_bytes(handle_of(session), 0, 0)), tonumber(sample.bytes))
        session:close()
    end)

    local function bytes_of(logits)
        return bit.tohex(tonumber(bit.band(C.ml_hash(logits:pointer(), #logits * 4, 0), 0xffffffffULL)))
    end

    local function spill_folder()
        local path = folder.path("spill")
        os.execute("mkdir -p " .. path)
        return path
    end

    local function entries(path)
        local pipe = io.popen("ls -A " .. path)
        local text = pipe:read("*a")
        pipe:close()
        return text
    end

    -- Forks and rewinds `session` and `shadow`, which hold the same, at random positions: the logits must be the same.
    local function wander(session, shadow, times, length)
        for _ = 1, times do
            local at = math.random(0, session.position)
            local one, other = session:fork(at), shadow:fork(at)
            local begin = math.random(1, 400)
            local text = slice(ids, begin, begin + math.random(1, length))
            one:feed(text)
            other:feed(text)
            assert.equal(bytes_of(other:logits()), bytes_of(one:logits()))
            at = math.random(0, one.position - 1)
            one:rewind(at):feed(slice(ids, 7, 9))
            other:rewind(at):feed(slice(ids, 7, 9))
            assert.equal(bytes_of(other:logits()), bytes_of(one:logits()))
            one:close()
            other:close()
        end
    end

    it("hold what left the window, cold or on disk, without loss", function()
        math.randomseed(11)
        for _, bits in ipairs { 16, 8, 4 } do
            local shadow = model:session { kv = { bits = bits, hot_tokens = 128, window = "keep" } }
            shadow:feed(slice(ids, 1, 1000), { chunk = 100 })
            local expected = bytes_of(shadow:logits())
            for _, window in ipairs { "cold", "disk" } do
                local kv = { bits = bits, hot_tokens = 128, window = window, spill = spill_folder() }
                local session = model:session { kv = kv }
                session:feed(slice(ids, 1, 1000), { chunk = 100 })
                local level, below = levels(session), window == "cold" and COLD or DISK
                assert.equal(math.floor((1000 + 1 - 128) / PAGE) * layers / 2, level[below].pages)
                assert.equal(level[below].pages, level[below].demoted)
                assert.equal(level[HOT].bytes + level[WARM].bytes + level[COLD].bytes, (session:bytes()))
                assert.is_true(level[below].bytes < 1.01 * level[below].whole)
                assert.equal("", entries(spill_folder()))
                assert.equal(expected, bytes_of(session:logits()))
                wander(session, shadow, 5, 100)
                assert.is_true(levels(session)[below].promoted > 0)
                session:rewind(0)
                assert.same({ 0, 0 }, { session:pages() })
                assert.equal(0, (session:bytes()))
                assert.equal(0, session:stats().kv.used)
                session:close()
            end
            shadow:close()
        end
    end)

    it("let a context that is larger than the budget stream, to the bit", function()
        math.randomseed(5)
        for bits, memory in pairs { [16] = "1.5M", [8] = 1.25 * 2 ^ 20 } do
            local shadow = model:session { kv = { bits = bits, hot_tokens = 128, window = "keep" } }
            shadow:feed(slice(ids, 1, 2500), { chunk = 128 })
            local expected = bytes_of(shadow:logits())
            local session = model:session { kv = { bits = bits, hot_tokens = 128, memory = memory,
                spill = spill_folder() } }
            session:feed(slice(ids, 1, 2500), { chunk = 128 })
            assert.equal(expected, bytes_of(session:logits()))
            wander(session, shadow, 4, 100)
            local level, kv = levels(session), session:stats().kv
            assert.is_true(level[DISK].pages > 0 and level[DISK].promoted > level[DISK].pages)
            assert.is_true(kv.reserved_peak <= kv.budget)
            for i = 1, 3 do
                local words = { ids[i], ids[i + 10] }
                local one, other = session:fork(2000), shadow:fork(2000)
                moonloom.step_all({ session, one }, words)
                moonloom.step_all({ shadow, other }, words)
                assert.equal(bytes_of(other:logits()), bytes_of(one:logits()))
                assert.equal(bytes_of(shadow:logits()), bytes_of(session:logits()))
                one:close()
                other:close()
            end
            session:policy { bits = bits, hot_tokens = 128 } -- all of it may come back
            session:step(ids[5])
            shadow:step(ids[5])
            assert.equal(bytes_of(shadow:logits()), bytes_of(session:logits()))
            session:close()
            shadow:close()
        end
    end)

    ffi.cdef [[
        struct levels_limit { unsigned long now, most; };
        int levels_getrlimit(int what, struct levels_limit *limit) __asm__("getrlimit");
        int levels_setrlimit(int what, const struct levels_limit *limit) __asm__("setrlimit");
        void *levels_signal(int number, void *handler) __asm__("signal");
    ]]

    -- Runs f while files cannot grow over `bytes`.
    local function limited(limit, f)
        local FSIZE, XFSZ, before = 1, 25, ffi.new("struct levels_limit")
        C.levels_getrlimit(FSIZE, before)
        local old = C.levels_signal(XFSZ, ffi.cast("void *", 1))
        C.levels_setrlimit(FSIZE, ffi.new("struct levels_limit", limit, before.most))
        local fine, problem = pcall(f)
        C.levels_setrlimit(FSIZE, before)
        C.levels_signal(XFSZ, old)
        assert(fine, problem)
    end

    describe("when the disk fails,", function()
        local shadow
        local kv = { bits = 16, window = "disk" }

        setup(function()
            kv.spill = spill_folder()
            shadow = model:session { kv = { bits = 16, window = "keep" } }
            shadow:feed(slice(ids, 1, 1000))
        end)

        teardown(function() shadow:close() end)

        -- The session was feeding slice(ids, 1, 1000): it goes on, and comes to the same.
        local function goes_on(session)
            assert.is_true(session.position > 300)
            session:feed(slice(ids, session.position + 1, 1000))
            shadow:rewind(999):step(ids[1000])
            assert.equal(bytes_of(shadow:logits()), bytes_of(session:logits()))
        end

        it("say so once; the session is whole, and goes on in memory or elsewhere", function()
            for _, policy in ipairs { false, { bits = 16, window = "cold" }, kv } do
                local session = model:session { kv = kv }
                session:feed(slice(ids, 1, 300))
                limited(16384, function()
                    local sentence = sentence_of(session.feed, session, slice(ids, 301, 600), { chunk = 50 })
                    assert.truthy(sentence:find("cannot be written: File too large; pages stay in memory", 1, true))
                    session:feed(slice(ids, session.position + 1, 700), { chunk = 50 })
                end)
                if policy then session:policy(policy) end
                goes_on(session)
                session:close()
            end
        end)

        it("on a full file system, too", function()
            local room = folder.path("room")
            os.execute("mkdir " .. room)
            if os.execute(("mount -t tmpfs -o size=64k none %s 2>/dev/null"):format(room)) ~= 0 then return end
            local session = model:session { kv = { bits = 16, window = "disk", spill = room } }
            local sentence = sentence_of(session.feed, session, slice(ids, 1, 800), { chunk = 50 })
            assert.truthy(sentence:find("No space left on device", 1, true), sentence)
            session:policy { bits = 16, window = "cold" }
            goes_on(session)
            session:close()
            os.execute("umount " .. room)
        end)

        it("and a folder that cannot be used is refused at once", function()
            local session = model:session { kv = { bits = 16, window = "cold" } }
            session:feed(slice(ids, 1, 400))
            for _, path in ipairs { "/no/such/folder/x", "/proc" } do
                local sentence = sentence_of(session.policy, session, { bits = 16, window = "disk", spill = path })
                assert.truthy(sentence:find("the spill file in " .. path .. " cannot be made: ", 1, true), sentence)
            end
            goes_on(session)
            session:close()
        end)

        it("damage is seen: nothing is computed from it, and a rewind goes around it", function()
            local session = model:session { kv = kv }
            session:feed(slice(ids, 1, 700))
            local pipe = io.popen("for f in /proc/$PPID/fd/*; do " ..
                "case $(readlink $f) in *moonloom-spill*) echo $f;; esac; done")
            local file
            for path in pipe:lines() do file = path end
            pipe:close()
            local spilt = assert(io.open(file, "r+b"))
            assert(spilt:write(("x"):rep(50000)))
            spilt:close()
            session:rewind(200)
            local sentence = sentence_of(session.step, session, ids[201])
            assert.truthy(sentence:find("is damaged at byte", 1, true), sentence)
            assert.equal(200, session.position)
            sentence = sentence_of(session.save, session, folder.path("x.session"))
            assert.truthy(sentence:find("is damaged at byte", 1, true), sentence)
            session:rewind(0):feed(slice(ids, 1, 301))
            goes_on(session)
            session:close()
        end)
    end)

    it("are full in the end: an error, or the session used least recently is given up", function()
        for _, full in ipairs { "error", "evict" } do
            local one = model:session { kv = { bits = 16, memory = "1.5M", full = full } }
            one:feed(slice(ids, 1, 300))
            local two = one:fork(20)
            if full == "error" then
                local sentence = sentence_of(two.feed, two, slice(ids, 1, 4000), { chunk = 64 })
                assert.truthy(sentence:find("the cache is full: its budget is 1572864 bytes", 1, true), sentence)
                assert.is_true(two.position > 300)
                two:rewind(300)
                one:feed(slice(ids, 1, 10))
            else
                pcall(two.feed, two, slice(ids, 1, 4000), { chunk = 64 })
                local sentence = sentence_of(one.feed, one, "and")
                assert.truthy(sentence:find("was given up to make room: its 300 tokens", 1, true), sentence)
                two:rewind(300):feed(slice(ids, 1, 10))
            end
            assert.is_true(two:stats().kv.reserved_peak <= 1.5 * 2 ^ 20)
            two:close()
            one:close()
        end
    end)

    it("get a budget for the first time where what is left lies scattered over more memory", function()
        -- Each has the 64 KB of one page of each layer; together they fill all that the pool has.
        local sessions = { (model:session { prefixes = false, kv = { bits = 16, window = "keep" } }) }
        for i = 2, 28 do sessions[i] = sessions[1]:fork() end
        for _, session in ipairs(sessions) do session:feed(slice(ids, 1, 10)) end
        local last = sessions[28]
        assert.equal(28 * 2 ^ 16, last:stats().kv.reserved)
        for i = 1, 27, 2 do sessions[i]:close() end
        last:policy { bits = 16, window = "cold", memory = "1500K" }
        assert.is_true(last:stats().kv.reserved <= 1500 * 1024)
        last:step(1)
        for i = 2, 28, 2 do sessions[i]:close() end
    end)

    it("hold no room for a pass that failed or was given up", function()
        local one = model:session { kv = { bits = 16, memory = "1.5M" } }
        one:feed(slice(ids, 1, 100))
        local two, batch = one:fork(), model:batch(4096)
        local before = one:pages()
        for i = 1, 300 do batch:add(one, ids[i]) end
        for i = 1, 3700 do batch:add(two, ids[i]) end
        local sentence = sentence_of(batch.forward, batch)
        assert.truthy(sentence:find("the cache is full", 1, true), sentence)
        -- The page that both show was copied for the first of them; nothing else is there.
        assert.is_true(one:pages() <= before + layers)
        batch:clear()
        for i = 1, 300 do batch:add(one, ids[i]) end
        batch:embed()
        one:step(ids[101])
        assert.is_true(one:pages() <= before + layers)
        for _, session in ipairs { two, one } do session:close() end
    end)

    it("are those of the session used least recently, not of a fork that was just made", function()
        local old = model:session { kv = { bits = 16, memory = "1.5M", full = "evict" } }
        old:feed(slice(ids, 1, 400))
        local base = old:fork(20):feed(slice(ids, 300, 700))
        local branch = base:fork()
        local function lives(session)
            return (pcall(session.tokens, session))
        end
        repeat base:feed(slice(ids, 1, 10)) until not (lives(old) and lives(branch))
        assert.is_false(lives(old))
        assert.is_true(lives(branch))
        for _, session in ipairs { branch, base, old } do session:close() end
    end)

    it("are those that no pass read for longest: what an idle session shares with a busy one stays", function()
        local idle = model:session { kv = { bits = 16, window = "keep" } }
        idle:feed(slice(ids, 1, 640))
        local busy = idle:fork(320)
        busy:feed(slice(ids, 641, 650))
        -- Over the budget by less than what nobody but the idle session reads.
        idle:policy { bits = 16, window = "keep", memory = "1050K", spill = spill_folder() }
        local before = levels(busy)
        assert.is_true(before[DISK].pages > 0, before[DISK].pages .. " pages on disk")
        busy:step(ids[651])
        assert.equal(before[DISK].promoted, levels(busy)[DISK].promoted)
        local fresh = model:session { kv = { bits = 16, window = "keep" } }
        fresh:feed(slice(ids, 1, 641))
        idle:step(ids[641])
        assert.equal(bytes_of(fresh:logits()), bytes_of(idle:logits()))
        idle:close()
        busy:close()
        fresh:close()
    end)

    it("go on in a child process, which has no thread that unpacks and a spill file that is not its own", function()
        if os.getenv("TSAN_OPTIONS") then return pending("ThreadSanitizer loses track of a child with threads") end
        local session = model:session { prefixes = false,
            kv = { bits = 16, memory = "1M", spill = spill_folder() } }
        session:feed(slice(ids, 1, 3000), { chunk = 128 })
        assert.is_true(levels(session)[DISK].pages > 0)
        local position, status = session.position, ffi.new("int[1]")
        local best = session:rewind(position - 1):step(7):logits():argmax()
        local process = C.fork()
        if process == 0 then
            local fine = pcall(function()
                assert(session:rewind(position - 1):step(7):logits():argmax() == best)
                pcall(session.feed, session, slice(ids, 1, 700)) -- it may be told of the spill file
                session:rewind(20)
                session:close()
            end)
            C._exit(fine and 3 or 4)
        end
        for _ = 1, 1000 do
            if C.waitpid(process, status, 1) == process then break end -- 1: WNOHANG
            C.usleep(10000)
        end
        C.kill(process, 9)
        C.waitpid(process, status, 0)
        assert.equal(3, bit.rshift(status[0], 8))
        assert.equal(best, session:rewind(position - 1):step(7):logits():argmax())
        session:close()
    end)

    local function sum(level, field)
        local total = 0
        for i = HOT, DISK do total = total + level[i][field] end
        return total
    end

    it("are quantised anew wherever they lie when a policy has fewer bits", function()
        for where, places in pairs {
            [COLD] = { window = "cold" },
            [DISK] = { window = "disk", spill = spill_folder(), memory = "1M" },
        } do
            local function kv(bits)
                return { bits = bits, hot_tokens = 128, window = places.window, memory = places.memory,
                    spill = places.spill }
            end
            local session = model:session { kv = kv(8) }
            local twin = model:session { kv = { bits = 8, hot_tokens = 128, window = "keep" } }
            session:feed(slice(ids, 1, 1700), { chunk = 128 })
            twin:feed(slice(ids, 1, 1700), { chunk = 128 })
            local before = levels(session)
            assert.is_true(before[where].pages > 45)
            session:policy(kv(4))
            twin:policy { bits = 4, hot_tokens = 128, window = "keep" }
            local after, pages, quantised = levels(session), session:pages()
            assert.same({ pages, quantised }, { twin:pages() })
            local handle = handle_of(session)
            assert.equal(quantised * tonumber(C.ml_cache_page_bytes(handle, 0, 0)) + (pages - quantised)
                * tonumber(C.ml_cache_page_bytes(handle, 0, 1)), sum(after, "whole"))
            assert.is_true(after[where].bytes / after[where].pages < 0.65 * before[where].bytes / before[where].pages)
            assert.is_true(sum(after, "bytes") < 0.65 * sum(before, "bytes"))
            for i = 1, 3 do
                session:step(ids[i])
                twin:step(ids[i])
                assert.equal(bytes_of(twin:logits()), bytes_of(session:logits()))
            end
            wander(session, twin, 2, 60)
            assert.is_true(session:stats().kv.reserved_peak <= (places.memory and 2 ^ 20 or math.huge))
            session:close()
            twin:close()
        end
    end)

    it("are quantised as they would be in memory when they went down before", function()
        -- Hot tokens that the budget has no room for go down plain, and are quantised when their time comes.
        local kv = { bits = 4, hot_tokens = 800, memory = "1M", spill = spill_folder() }
        local session = model:session { kv = kv }
        local twin = model:session { kv = { bits = 4, hot_tokens = 800, window = "keep" } }
        for at = 1, 1600, 100 do
            local expected = bytes_of(twin:feed(slice(ids, at, at + 99)):logits())
            assert.equal(expected, bytes_of(session:feed(slice(ids, at, at + 99)):logits()))
        end
        assert.same({ twin:pages() }, { session:pages() })
        assert.is_true(levels(session)[DISK].pages > 10)
        session:close()
        twin:close()
    end)

    it("go on being quantised after an interrupt, under the new policy", function()
        local kv = { bits = 8, hot_tokens = 0, window = "disk", spill = spill_folder() }
        local session = model:session { kv = kv }
        session:feed(slice(ids, 1, 1000))
        kv.bits = 4
        C.ml_interrupt_set(1)
        local sentence = sentence_of(session.policy, session, kv)
        C.ml_interrupt_set(0)
        assert.equal("interrupted", sentence)
        assert.equal(4, session:policy().bits)
        session:step(ids[1])
        local _, quantised = session:pages()
        local level = levels(session)
        assert.equal(quantised * tonumber(C.ml_cache_page_bytes(handle_of(session), 0, 0)),
            level[WARM].whole + level[COLD].whole + level[DISK].whole)
        session:close()
    end)
end)
