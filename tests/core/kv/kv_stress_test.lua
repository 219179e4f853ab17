-- Twenty sessions with a common prefix, under a budget that is too small for them, do whatever they like: what they say
-- must be what the same sessions say in a cache that holds everything plain and in memory.
--
--     MOONLOOM_STRESS=600 ./build.sh asan kv_stress      runs it for so many seconds; MOONLOOM_SEED=7 for other choices
local ffi = require "ffi"
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local slice = require "helpers.slice"
local stress = require "helpers.stress"
local C = ml.C

ffi.cdef "size_t __sanitizer_get_current_allocated_bytes(void);"

local SESSIONS, PREFIX, LONGEST, ROUNDS = 20, 300, 1500, 150
local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " ..
    "One day, Tom found a big red ball under the old tree, and his mom said it was too late for a swim. "

-- What is held when all is closed: files in the test's folder, and bytes of the heap, which only the address sanitizer
-- counts exactly (else nil).
local function held()
    collectgarbage()
    collectgarbage()
    local pipe = io.popen("ls -l /proc/$PPID/fd 2>/dev/null | grep -c " .. folder.path(""))
    local files = tonumber(pipe:read("*l"))
    pipe:close()
    local known, bytes = pcall(function() return ffi.C.__sanitizer_get_current_allocated_bytes() end)
    return files, known and tonumber(bytes) or nil
end

local function bytes_of(logits)
    return bit.tohex(tonumber(bit.band(C.ml_hash(logits:pointer(), #logits * 4, 0), 0xffffffffULL)))
end

describe("twenty sessions with a common prefix", function()
    local model, ids

    setup(function()
        isa_helper.rows_alone()
    end)

    teardown(function()
        folder.remove()
        isa_helper.as_before()
    end)

    -- The sessions, each a pair of one under the policy `kv` and its shadow, and what they can do.
    local function play(kv, seconds, rounds)
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        ids = model:tokenize(TEXT:rep(80))
        local spill = folder.path("spill")
        os.execute("mkdir -p " .. spill)
        local policy = folder.write("stress.lua", ("return { bits = 16, window = 'cold', memory = %d, spill = %q }")
            :format(kv.memory, spill))
        local prefix, playing, counts, round = slice(ids, 1, PREFIX), {}, {}, 0
        local root = model:session { prefixes = false }
        root:feed(prefix)

        local function compare(pair)
            assert.equal(pair[2].position, pair[1].position)
            if pair[1].position == 0 then return end
            assert.equal(bytes_of(pair[2]:logits()), bytes_of(pair[1]:logits()), "round " .. round)
            counts.compared = (counts.compared or 0) + 1
        end
        -- A new session finds the prefix that others have, or computes it.
        local function begin()
            local session = model:session { kv = policy }
            session:feed(prefix)
            counts.adopted = (counts.adopted or 0) + session.adopted
            local pair = { session, root:fork() }
            pair[2]:rewind(PREFIX - 1):step(prefix[PREFIX])
            compare(pair)
            return pair
        end
        local function close(at)
            for i = 1, 2 do playing[at][i]:close() end
            playing[at] = begin()
        end
        local acts = {
            fork = function(pair, at)
                local to, from = math.random(SESSIONS), math.random(0, pair[1].position)
                if to == at then return end
                for i = 1, 2 do playing[to][i]:close() end
                playing[to] = { pair[1]:fork(from), pair[2]:fork(from) }
            end,
            rewind = function(pair)
                local to = math.random(0, pair[1].position)
                for i = 1, 2 do pair[i]:rewind(to) end
            end,
            feed = function(pair, at)
                if pair[1].position > LONGEST then return close(at) end
                local first = math.random(1, 1500)
                local text = slice(ids, first, first + math.random(0, 120))
                for i = 1, 2 do pair[i]:feed(text, { chunk = 50 }) end
                compare(pair)
            end,
            together = function(pair)
                local other = playing[math.random(SESSIONS)]
                if other == pair then return end
                for i = 1, 2 do moonloom.step_all({ pair[i], other[i] }, { 5, 9 }) end
                compare(pair)
                compare(other)
            end,
            close = function(_, at) close(at) end,
            save = function(pair)
                if pair[1].position == 0 then return end
                local path = folder.path("stress.session")
                pair[1]:save(path)
                local restored, shadow = moonloom.restore(path, { model = model }), pair[2]:fork()
                assert.same(shadow:tokens(), restored:tokens())
                local back = math.random(0, restored.position)
                for _, session in ipairs { restored, shadow } do session:rewind(back):feed(slice(ids, 9, 12)) end
                compare { restored, shadow }
                restored:close()
                shadow:close()
            end,
            policy = function()
                playing[1][1]:policy { bits = 16, window = ({ "cold", "disk", "keep" })[math.random(3)], spill = spill,
                    memory = kv.memory * (3 + math.random(3)) / 4 }
            end,
        }
        local names = { "fork", "rewind", "feed", "feed", "feed", "feed", "together", "together", "close", "save",
            "policy" }
        for i = 1, SESSIONS do playing[i] = begin() end
        local began = os.time()
        while seconds and os.time() - began < seconds or not seconds and round < rounds do
            round = round + 1
            local at, name = math.random(SESSIONS), names[math.random(#names)]
            counts[name] = (counts[name] or 0) + 1
            acts[name](playing[at], at)
        end
        for _, pair in ipairs(playing) do compare(pair) end
        counts.rounds, counts.levels = round, playing[1][1]:levels():data()
        local handle = playing[1][1]:shared_cache().handle
        for at = 2, SESSIONS do
            for i = 1, 2 do playing[at][i]:close() end
        end
        -- Nothing is left where nobody has anything.
        playing[1][1]:rewind(0)
        assert(C.ml_cache_keep(handle, 0) == C.ML_OK and C.ml_cache_keep(handle, model.prefixes) == C.ML_OK)
        assert.same({ 0, 0 }, { playing[1][1]:pages() })
        assert.equal(0, (playing[1][1]:bytes()))
        -- What moves to a smaller budget is there twice, for a moment.
        assert.is_true(playing[1][1]:stats().kv.reserved_peak <= kv.memory * 11 / 4)
        assert.is_true(playing[1][1]:stats().kv.reserved <= playing[1][1]:stats().kv.budget)
        playing[1][1]:close()
        playing[1][2]:close()
        root:close()
        model:close()
        return counts
    end

    it("say the same as in a cache that packs nothing, whatever they do", function()
        local seconds, seed = stress.seconds, stress.seed(1)
        local kv = { memory = 4 * 2 ^ 20 }
        math.randomseed(seed)
        play(kv, nil, 20) -- what stays for the whole process is there then
        local _, bytes = held()
        local counts = play(kv, seconds, ROUNDS)
        local files, bytes_after = held()
        assert.equal(0, files)
        if bytes then assert.is_true(bytes_after - bytes < 2 ^ 18, bytes_after - bytes .. " bytes are lost") end
        assert.is_true(counts.adopted > 0 and counts.save > 0 and counts.close > 0)
        assert.is_true(counts.levels.levels.cold.promoted + counts.levels.levels.disk.promoted > 0)
        if not seconds then return end
        local told = {}
        for name, count in pairs(counts) do
            if type(count) == "number" then told[#told + 1] = count .. " " .. name end
        end
        table.sort(told)
        print(("seed %d, %d s: %s"):format(seed, seconds, table.concat(told, ", ")))
        if bytes then print(("heap before %d bytes, after %d"):format(bytes, bytes_after)) end
    end)
end)
