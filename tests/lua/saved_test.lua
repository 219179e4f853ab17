-- Saved sessions: they come back bit for bit, appear whole or not at all, and nothing that is damaged is taken.
local ffi = require "ffi"
local folder = require "helpers.folder"
local copy = require "helpers.logits_of"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local run = require "helpers.command"
local sentence_of = require "helpers.sentence"
require "helpers.processes"
local C = ml.C

ffi.cdef [[
struct saved_limit { unsigned long now, most; };
int setrlimit(int resource, const struct saved_limit *limit);
int getrlimit(int resource, struct saved_limit *limit);
void *signal(int number, void *handler);
]]

local MODEL = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"
local HEADER, ENTRY = 1024, 32

-- The same bits in both lists, or after both sessions.
local function same(a, b)
    if a.model then a, b = copy(a), copy(b) end
    for i = 1, #a do
        if a[i] ~= b[i] then error(("logit %d is %.9g, then %.9g"):format(i - 1, a[i], b[i]), 2) end
    end
end

describe("a saved session", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local model, session, path, bytes, saved

    -- A list of ids that says nothing, from a seed.
    local function ids_of(count, seed)
        local list, x = {}, seed
        for i = 1, count do
            x = x * 16807 % 2147483647
            list[i] = x % 1000
        end
        return list
    end

    setup(function()
        model = moonloom.load(MODEL)
        model:keep_prefixes(0)
        moonloom.use(model)
        session = model:session()
        session:feed("Once upon a time, there was a little girl named Lily."):feed(ids_of(290, 3))
        path = folder.path("test.session")
        session:save(path)
        bytes = folder.read(path)
        saved = moonloom.saved(path)
    end)

    teardown(function()
        saved:close()
        session:close()
        model:close()
        moonloom.use(MODEL)
        folder.remove()
    end)

    -- Opens and closes; the error, if any, is that of restore().
    local function restore(name, options)
        moonloom.restore(name, options):close()
    end

    -- A copy of the file with these bytes at `offset` (from 0).
    local function changed(offset, new)
        return folder.write("changed.session", bytes:sub(1, offset) .. new .. bytes:sub(offset + #new + 1))
    end

    local function flipped(offset)
        return changed(offset, string.char(bit.bxor(bytes:byte(offset + 1), 2 ^ (offset % 8))))
    end

    local function u64(value)
        return ffi.string(ffi.new("uint64_t[1]", value), 8)
    end

    local function u32(value)
        return ffi.string(ffi.new("uint32_t[1]", value), 4)
    end

    local function hash(text)
        return u64(C.ml_hash(text, #text, 0))
    end

    local function policy_bytes()
        return tonumber(ffi.cast("const uint64_t *", bytes:sub(881, 888))[0])
    end

    -- A file that lies with right checksums: `header`, `ids`, `policy`, `index` and `pages` are functions of the old
    -- bytes.
    local function forged(change)
        local pages_at = HEADER + saved.tokens * 4 + #saved.text + policy_bytes()
        local index_at = pages_at + saved.packed_bytes
        local header, front = bytes:sub(1, HEADER), bytes:sub(HEADER + 1, pages_at)
        local pages, index = bytes:sub(pages_at + 1, index_at), bytes:sub(index_at + 1, -HEADER - 1)
        if change.ids then
            local ids = change.ids(front:sub(1, saved.tokens * 4))
            header, front = header:sub(1, 144) .. hash(ids) .. header:sub(153), ids .. front:sub(#ids + 1)
        end
        if change.policy then
            local rest, old = front:sub(1, -policy_bytes() - 1), front:sub(-policy_bytes())
            local policy = change.policy(old)
            header = header:sub(1, 80) .. u64(#bytes + #policy - #old) .. header:sub(89, 880) .. u64(#policy)
                .. hash(policy) .. header:sub(897)
            front = rest .. policy
        end
        if change.pages then pages = change.pages(pages) end
        if change.index then index = change.index(index, pages) end
        header = header:sub(1, 160) .. hash(index) .. header:sub(169)
        if change.header then header = change.header(header) end
        header = header:sub(1, -9)
        header = header .. hash(header)
        return folder.write("forged.session", header .. front .. pages .. index .. header)
    end

    it("tells what it is without a model", function()
        assert.equal(session.position, saved.tokens)
        assert.same(session:tokens(), saved:ids())
        assert.equal(session:text(), saved.text)
        assert.equal(#bytes, saved.bytes)
        assert.equal("tiny-gpt-oss", saved.name)
        assert.equal("bf16", saved.cache)
        assert.equal(moonloom.isa(), saved.isa)
        assert.is_nil(saved.damage)
        assert.is_true(saved:check())
        assert.is_true(math.abs(saved.created - os.time()) < 600)
        local shown = tostring(saved)
        assert.truthy(shown:find("tokens", 1, true) and shown:find("Once upon a time", 1, true))
        local json = require("recipes.inspect") { file = path }:json()
        assert.equal(saved.tokens, #json.ids)
    end)

    it("goes on bit for bit, in either kind of cache, at any length", function()
        for _, kind in ipairs { "bf16", "f32" } do
            for _, count in ipairs { 1, 63, 64, 65, 300 } do
                local one = model:session { cache = kind }
                one:feed(ids_of(count, count))
                local name = folder.path("one.session")
                one:save(name)
                local other = moonloom.restore(name)
                assert.same(one:tokens(), other:tokens())
                for _ = 1, 4 do
                    same(one, other)
                    local id = one:logits():argmax()
                    one:step(id)
                    other:step(id)
                end
                one:rewind(count)
                same(one, other:rewind(count))
                one:close()
                other:close()
            end
        end
        assert.truthy(sentence_of(function() model:session():save(path) end):find("empty", 1, true))
    end)

    it("goes on bit for bit with quantised pages, their policy, and a page that was opened again", function()
        for _, kv in ipairs {
            { bits = 8, hot_tokens = 64 }, { key_bits = 4, value_bits = 8, hot_tokens = 0, first_tokens = 64 },
            { bits = { [1] = { [0] = 4, [1] = 16 }, default = 8 }, hot_tokens = 128, rotate = false },
        } do
            for _, cut in ipairs { 0, 130 } do
                local one = model:session { kv = kv }
                one:feed(ids_of(520, 7))
                if cut > 0 then one:rewind(cut):feed(ids_of(70, cut)) end
                local name = folder.path("one.session")
                one:save(name)
                local file = moonloom.saved(name)
                assert.is_true(file.quantised > 0 and file.policy and file:check())
                assert.equal(0, file.sound)
                file:close()
                local other = moonloom.restore(name)
                assert.same({ one:pages() }, { other:pages() })
                local policy = other:policy()
                assert.same({ kv.hot_tokens, kv.first_tokens or 0, kv.rotate ~= false },
                    { policy.hot_tokens, policy.first_tokens, policy.rotate })
                if type(kv.bits) == "table" then
                    assert.same({ [0] = { [0] = 8, 8 }, { [0] = 4, 16 }, { [0] = 8, 8 }, { [0] = 8, 8 } },
                        policy.value_bits)
                    other:policy(policy)
                else
                    assert.same({ kv.key_bits or kv.bits, kv.value_bits or kv.bits },
                        { policy.key_bits, policy.value_bits })
                end
                for _ = 1, 3 do
                    local more = ids_of(90, one.position)
                    -- At once: what is fed again later sees more pages quantised.
                    same(copy(one:feed(more)), copy(other:feed(more)))
                end
                same(copy(one:rewind(100):feed(ids_of(30, 4))), copy(other:rewind(100):feed(ids_of(30, 4))))
                one:close()
                other:close()
            end
        end
    end)

    it("goes on bit for bit where it does not fit into memory, on whatever level there is below", function()
        local spill = folder.path("spill")
        os.execute("mkdir " .. spill)
        for bits, memory in pairs { [16] = "1M", [8] = "1.25M" } do
            local one = model:session { kv = { bits = bits, hot_tokens = 128, window = "keep" } }
            one:feed(ids_of(bits == 16 and 2500 or 6000, bits), { chunk = 128 })
            local name = folder.path("large.session")
            one:save(name)
            local before, pages = one:stats().kv.used, { one:pages() }
            for _, window in ipairs { "keep", "cold", "disk" } do
                local kv = { memory = memory, spill = spill, window = window, hot_tokens = 128, bits = bits }
                moonloom.kv(kv)
                local fine, other = pcall(moonloom.restore, name)
                moonloom.kv(false)
                assert(fine, other)
                local kv_stats, levels = other:stats().kv, other:levels():data().levels
                assert.is_true(kv_stats.reserved_peak <= kv_stats.budget and before > 2 * kv_stats.budget)
                assert.is_true(levels.disk.pages > 20 and levels.disk.promoted == 0)
                assert.same(pages, { other:pages() })
                assert.same(one:tokens(), other:tokens())
                local twin = moonloom.restore(name)
                for _ = 1, 3 do
                    local more = ids_of(90, twin.position)
                    same(copy(twin:feed(more)), copy(other:feed(more)))
                end
                same(copy(twin:rewind(700):feed(ids_of(30, 4))), copy(other:rewind(700):feed(ids_of(30, 4))))
                assert.is_true(other:stats().kv.reserved_peak <= kv_stats.budget)
                other:close()
                twin:close()
            end
            one:close()
        end
        -- Without a level below there is a sentence, and nothing stays behind.
        local before = moonloom.kv_memory()
        moonloom.kv_memory("1M")
        local one = model:session { kv = { bits = 16, memory = "8M" } }
        local name = folder.path("large.session")
        one:feed(ids_of(2500, 1)):save(name)
        assert.truthy(sentence_of(restore, name):find("the cache is full: its budget is 1048576 bytes", 1, true))
        local empty = model:session()
        assert.same({ 0, 0 }, { empty:pages() })
        moonloom.kv_memory(before)
        moonloom.restore(name, { kv = { bits = 8, memory = "1M", spill = spill } }):close()
        local other = moonloom.restore(name, { kv = { bits = 8, hot_tokens = 0, memory = "1M", spill = spill } })
        assert.equal(39 * saved.layers, select(2, other:pages())) -- the policy that was asked for holds
        other:close()
        assert.truthy(sentence_of(restore, name, { kv = { bits = 5 } }):find("are 16, 8 or 4, not 5", 1, true))
        assert.truthy(sentence_of(restore, name, { kv = { spill = "/no/such" } }):find("cannot be made", 1, true))
        empty:close()
        one:close()
    end)

    it("goes on bit for bit in a sequence that a pass was given up on", function()
        local twin, batch = model:session(), model:batch(70)
        for _ = 1, 70 do batch:add(twin, 5) end
        batch:embed() -- which reserves pages
        ml.check(C.ml_saved_load(saved:handle(), twin:shared_cache().handle, twin.sequence, saved.tokens))
        assert.equal(saved.tokens, twin.position)
        local last = saved:ids()[saved.tokens]
        local other = session:fork(saved.tokens - 1)
        same(other:step(last), twin:rewind(saved.tokens - 1):step(last))
        twin:close()
        other:close()
    end)

    it("is known to sessions that begin like it, once restored", function()
        model:keep_prefixes(2 ^ 20)
        local again = moonloom.restore(path)
        local second = model:session()
        second:feed(saved:ids())
        assert.equal(saved.tokens - 1, second.adopted)
        same(session, second)
        second:close()
        again:close()
        model:keep_prefixes(0)
    end)

    it("is refused by name wherever a byte is damaged, and computed again if the ids are whole", function()
        local text_at = HEADER + saved.tokens * 4
        local policy_at = text_at + #saved.text
        local pages_at = policy_at + policy_bytes()
        local index_at = pages_at + saved.packed_bytes
        local trailer_at = #bytes - HEADER
        local function refused(offset, part)
            local sentence = sentence_of(restore, flipped(offset))
            assert.truthy(sentence:find(part, 1, true), ("byte %d: %s"):format(offset, sentence))
            local first, last = sentence:match("%(bytes (%d+) to (%d+)%)")
            assert.is_true(tonumber(first) <= offset and offset <= tonumber(last))
            assert.equal(part ~= "the token ids", sentence:find("recompute = true", 1, true) ~= nil)
        end
        for offset = 0, HEADER - 1, 13 do refused(offset, "the header is damaged") end
        for offset = HEADER, text_at - 1, 97 do refused(offset, "the token ids") end
        for offset = text_at, policy_at - 1, 29 do refused(offset, "the text is damaged") end
        for offset = policy_at, pages_at - 1 do refused(offset, "the policy is damaged") end
        for offset = index_at, trailer_at - 1, 37 do refused(offset, "the index is damaged") end
        for offset = trailer_at, #bytes - 1, 29 do refused(offset, "the trailer is damaged") end
        local at = pages_at
        for i = 0, saved.page_count - 1 do
            local entry = bytes:sub(index_at + i * ENTRY + 1, index_at + (i + 1) * ENTRY)
            local size = ffi.cast("const uint32_t *", entry)[4]
            local layers = saved.layers
            local part = ("page %d of layer %d is damaged"):format(math.floor(i / layers), i % layers)
            for _, offset in ipairs { 0, math.floor(size / 2), size - 1 } do refused(at + offset, part) end
            at = at + size
        end
        assert.equal(index_at, at)
        for _, offset in ipairs { 8, text_at, policy_at, pages_at, index_at, trailer_at } do
            local again = moonloom.restore(flipped(offset), { recompute = true })
            assert.same(saved:ids(), again:tokens())
            same(session, again)
            again:close()
        end
    end)

    it("is refused when it is cut short, at any length", function()
        local text_at = HEADER + saved.tokens * 4
        for length = 0, #bytes - 1, 1999 do
            local cut = folder.write("cut.session", bytes:sub(1, length))
            local sentence = sentence_of(restore, cut)
            assert.truthy(sentence:find(length == 0 and "is empty" or length < 2 * HEADER and "no saved session"
                or length < text_at and "token ids" or "cut short", 1, true), sentence)
        end
        local cut = folder.write("cut.session", bytes:sub(1, text_at + 100))
        local again = moonloom.restore(cut, { recompute = true })
        same(session, again)
        again:close()
        assert.truthy(sentence_of(restore, folder.write("long.session", bytes .. "x")):find("trailer", 1, true))
        assert.truthy(sentence_of(restore, MODEL):find("is no saved session", 1, true))
        assert.truthy(sentence_of(restore, folder.path("nothing")):find("there is no file", 1, true))
    end)

    it("is refused when it lies with right checksums", function()
        local function put(offset, new)
            return function(old) return old:sub(1, offset) .. new .. old:sub(offset + #new + 1) end
        end
        restore(forged {})
        local large = { 0, 1, 2 ^ 31, 2 ^ 40, 2 ^ 62, -1 }
        for _, offset in ipairs { 80, 88, 96, 104, 112, 128, 880 } do
            for _, value in ipairs(large) do
                if not (offset == 96 and value < 2) then
                    local lie = put(offset, u64(ffi.cast("int64_t", value)))
                    local sentence = sentence_of(restore, forged { header = lie })
                    assert.truthy(sentence:find("contradicts itself", 1, true) or sentence:find("cut short", 1, true)
                        or sentence:find("damaged", 1, true), sentence)
                end
            end
        end
        for offset, words in pairs {
            [8] = "version", [12] = "contradicts", [16] = "contradicts", [20] = "policy is damaged",
            [24] = "does not fit",
            [28] = "damaged",
        } do
            assert.truthy(sentence_of(restore, forged { header = put(offset, u32(9)) }):find(words, 1, true))
        end
        for offset, words in pairs { [0] = "index", [4] = "index", [8] = "index", [12] = "does not fit",
            [16] = "index", [20] = "index" } do
            for _, value in ipairs { 33, 2 ^ 32 - 1 } do
                local sentence = sentence_of(restore, forged { index = put(ENTRY * 3 + offset, u32(value)) })
                assert.truthy(sentence:find(words, 1, true), sentence)
            end
        end
        -- A time that no calendar has.
        local late = moonloom.saved(forged { header = put(136, u64(2 ^ 62)) })
        assert.truthy(tostring(late):find("saved       at no time", 1, true))
        -- More formats of pages than there can be, of which a cache would compare each with all others.
        local function formats(count)
            return forged { policy = function(old)
                return old:sub(1, 24) .. u32(count) .. old:sub(29, -5) .. ("\16\16\16\16"):rep(count)
            end }
        end
        restore(formats(5))
        assert.truthy(sentence_of(restore, formats(30000)):find("policy is damaged", 1, true))
        -- Tokens that the vocabulary does not have.
        for place, id in pairs { [0] = -1, [saved.tokens - 1] = 1024, [7] = 2 ^ 31 - 1 } do
            local sentence = sentence_of(restore, forged { ids = put(place * 4, u32(ffi.cast("int32_t", id))) })
            assert.truthy(sentence:find(("token %d of it is %d, outside the vocabulary of 1024"):format(place, id), 1,
                true), sentence)
        end
        assert.is_string(tostring(session:tree()))
        -- A page that unpacks to anything else, though its checksum is right.
        local liar = forged {
            pages = put(4, ("\255"):rep(40)),
            index = function(index, pages)
                local size = ffi.cast("const uint32_t *", index)[4]
                return index:sub(1, 24) .. hash(pages:sub(1, size)) .. index:sub(33)
            end,
        }
        assert.truthy(sentence_of(restore, liar):find("page 0 of layer 0 is damaged", 1, true))
    end)

    it("belongs to its model and tokenizer", function()
        local file = folder.read(MODEL)
        local tensors = model.weights:tensors()
        local at = tensors[#tensors].offset + 8
        local other = folder.write("other.gguf", file:sub(1, at) .. string.char(bit.bxor(file:byte(at + 1), 1))
            .. file:sub(at + 2))
        local sentence = sentence_of(restore, path, { model = other })
        assert.truthy(sentence:find("was saved with another model, tiny-gpt-oss", 1, true), sentence)
        local near = moonloom.load(other)
        local again = moonloom.restore(path, { model = near, recompute = true })
        assert.same(saved:ids(), again:tokens())
        again:close()
        near:close()

        at = file:find("Once", 1, true)
        other = folder.write("other.gguf", file:sub(1, at - 1) .. "Onze" .. file:sub(at + 4))
        sentence = sentence_of(restore, path, { model = other, recompute = true })
        assert.truthy(sentence:find("was saved with another tokenizer", 1, true), sentence)
        local moved = folder.write("moved.gguf", file) -- where it lies does not matter
        restore(path, { model = moved })
    end)

    it("is the old one or the new one after kill -9 at any moment", function()
        local threads = moonloom.threads()
        moonloom.threads(1) -- a child has none but its own
        local target, contents = folder.path("killed.session"), {}
        local two = { session, model:session() }
        two[2]:feed(ids_of(700, 9))
        for i, one in ipairs(two) do
            one:save(target)
            local now = moonloom.saved(target)
            contents[now.content] = i
            now:close()
        end
        local seen, parts, status, round = {}, 0, ffi.new("int[1]"), 0
        math.randomseed(1)
        repeat -- 50 times; more, and later, where a busy machine let no save end or none begin
            round = round + 1
            local process = C.fork()
            if process == 0 then
                for i = 1, 1000 do pcall(two[i % 2 + 1].save, two[i % 2 + 1], target) end
                C._exit(1)
            end
            C.usleep(math.random(500, round <= 50 and 12000 or 300000))
            C.kill(process, 9)
            C.waitpid(process, status, 0)
            assert.equal(9, bit.band(status[0], 127))
            local now = moonloom.saved(target)
            assert.is_true(now:check())
            seen[assert(contents[now.content])] = true
            now:close()
            local part = io.open(target .. ".part")
            if part then
                parts = parts + 1
                part:close()
            end
        until round >= 50 and seen[1] and seen[2] and parts > 0 or round == 200
        moonloom.threads(threads)
        assert.is_true(seen[1] and seen[2])
        assert.is_true(parts > 0) -- else no save was under way when it was killed
        session:save(target) -- over what is left
        assert.is_nil(io.open(target .. ".part"))
        local last = moonloom.restore(target)
        same(session, last)
        last:close()
        two[2]:close()
    end)

    -- Runs f while files cannot grow over `bytes`.
    local function limited(limit, f)
        local FSIZE, XFSZ, before = 1, 25, ffi.new("struct saved_limit")
        C.getrlimit(FSIZE, before)
        local old = C.signal(XFSZ, ffi.cast("void *", 1))
        C.setrlimit(FSIZE, ffi.new("struct saved_limit", limit, before.most))
        f()
        C.setrlimit(FSIZE, before)
        C.signal(XFSZ, old)
    end

    it("may fail in the middle of a generation: a sentence, and the generation goes on", function()
        local generate = require "recipes.generate"
        local whole = generate { prompt = "Once upon a time", max_tokens = 40, temperature = 0 }
        local g = generate { prompt = "Once upon a time", max_tokens = 20, temperature = 0 }
        local target = folder.path("full.session")
        session:save(target)
        local function fails(where, words)
            local sentence = sentence_of(g.session.save, g.session, where)
            assert.truthy(sentence:find(words, 1, true), sentence)
            assert.is_nil(io.open(where .. ".part"))
            g:resume { max_tokens = 5 }
        end
        fails("/no/such/folder/x.session", "No such file or directory")
        fails(folder.path("."), "cannot be written: ")
        limited(8192, function()
            local sentence = sentence_of(g.session.save, g.session, target)
            assert.truthy(sentence:find("cannot be written: File too large", 1, true), sentence)
        end)
        g:resume { max_tokens = 5 }
        local room = folder.path("room")
        os.execute("mkdir " .. room)
        if os.execute(("mount -t tmpfs -o size=16k none %s 2>/dev/null"):format(room)) == 0 then
            local sentence = sentence_of(g.session.save, g.session, room .. "/x.session")
            local left = io.open(room .. "/x.session.part")
            os.execute("umount " .. room)
            assert.truthy(sentence:find("No space left on device", 1, true), sentence)
            assert.is_nil(left)
        end
        g:resume { max_tokens = 5 }
        assert.equal(40, #g.tokens)
        assert.equal(whole.text, g.text)
        local old = moonloom.restore(target) -- what was there is there still
        assert.same(session:tokens(), old:tokens())
        old:close()
        g.session:save(target)
        local now = moonloom.saved(target)
        assert.same(g.session:tokens(), now:ids())
        now:close()
    end)

    it("is not written into a pipe, nor does it wait for one", function()
        local target = folder.path("piped.session")
        os.execute(("mkfifo %s.part"):format(target))
        local out, err, code = run { "-m", MODEL, "-e", ([[
            local ffi = require "ffi"
            ffi.cdef "unsigned alarm(unsigned seconds);"
            ffi.C.alarm(10) -- instead of waiting for ever
            local session = require("moonloom").current():session():feed { 1, 2, 3 }
            local fine, problem = pcall(session.save, session, %q)
            io.write(tostring(fine), " ", tostring(problem))
        ]]):format(target) }
        assert.same({ ("false %s cannot be written: No such device or address"):format(target), "", 0 },
            { out, err, code })
        assert.equal(0, os.execute(("test -p %s.part"):format(target)))
    end)

    it("is not written by two at once", function()
        local target = folder.path("locked.session")
        local held = ffi.new("int[1]")
        ffi.cdef "int open(const char *path, int flags, ...); int flock(int fd, int operation); int close(int fd);"
        held[0] = C.open(target .. ".part", 0x41, ffi.cast("int", 420))
        assert.equal(0, C.flock(held[0], 2))
        assert.truthy(sentence_of(session.save, session, target):find("just being written by another process", 1, true))
        C.close(held[0])
        session:save(target)
        restore(target)
    end)
end)
