-- Where the memory is, and that decoding asks for none.
local folder = require "helpers.folder"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"

local C = ml.C
local PAGE = 64 -- tokens

describe("memory", function()
    teardown(folder.remove)

    local function decode(session, count)
        for _ = 1, count do session:step(session:logits():argmax()) end
    end

    -- Runs a script where all allocations are counted and can be made to fail: its output, or nil where that cannot be.
    local function under_counter(script)
        local build = os.getenv("MOONLOOM_BUILD") or MOONLOOM_HOME .. "/build"
        if build:find("asan", 1, true) or build:find("tsan", 1, true) then
            return pending("a sanitizer has a malloc of its own")
        end
        local counter = folder.path("count_allocations.so")
        if os.execute(("cc -shared -fPIC -O1 -o %s %s/tests/tools/count_allocations.c 2>/dev/null"):format(counter,
            MOONLOOM_HOME)) ~= 0 then return pending("cc cannot build the counter (it needs glibc)") end
        return io.popen(("LD_PRELOAD=%s %s/moonloom %s"):format(counter, build, script))
    end

    it("is not asked for by the core while a token is decoded, warmed up", function()
        local session = moonloom.current():session { prefixes = false }
        session:feed("Once upon a time")
        decode(session, 10)
        local before = moonloom.memory().allocations
        decode(session, PAGE - session.position)
        assert.equal(before, moonloom.memory().allocations)
        decode(session, 2 * PAGE) -- pages of the cache: some, but far from one a token
        assert.is_true(moonloom.memory().allocations - before <= 12)
        session:rewind(10)
        before = moonloom.memory().allocations
        decode(session, PAGE - session.position)
        assert.equal(before, moonloom.memory().allocations)
        local id = session:rewind(10):best(5)
        before = moonloom.memory().allocations
        while session.position < PAGE do id = session:best(id) end
        assert.equal(before, moonloom.memory().allocations)
        session:close()
    end)

    it("is not asked for by any library either", function()
        local script = folder.write("count.lua", [[
            local ffi, moonloom = require "ffi", require "moonloom"
            ffi.cdef "long count_allocations(void);"
            local function counted() return tonumber(ffi.C.count_allocations()) end
            local made = counted()
            local session = moonloom.current():session { prefixes = false }
            session:feed("Once upon a time")
            local function decode(count)
                for _ = 1, count do session:step(session:logits():argmax()) end
            end
            decode(20)
            print(counted() - made) -- it does count
            made = counted()
            decode(30)
            print(counted() - made)
        ]])
        local pipe = under_counter(script)
        if not pipe then return end
        local before, during = pipe:read("*n", "*n")
        pipe:close()
        assert.is_true(before > 10)
        assert.equal(0, during)
    end)

    it("that more threads need and do not get leaves those that there are", function()
        local script = folder.write("threads.lua", [[
            local ffi, ml, moonloom = require "ffi", require "moonloom._core.ffi", require "moonloom"
            ffi.cdef "void fail_allocation(long call);"
            moonloom.threads(1)
            local session = moonloom.current():session { prefixes = false }
            session:feed("Once upon a time")
            local function decode()
                for _ = 1, 20 do session:step(session:logits():argmax()) end
                return #session:tokens()
            end
            decode()
            ffi.C.fail_allocation(1)
            local status = ml.C.ml_threads_set(5)
            ffi.C.fail_allocation(0)
            print(status, ml.C.ml_threads_count(), decode())
        ]])
        local pipe = under_counter(script)
        if not pipe then return end
        local status, threads, tokens = pipe:read("*n", "*n", "*n")
        pipe:close()
        assert.equal(C.ML_E_MEMORY, status)
        assert.equal(1, threads)
        assert.is_true(tokens > 40)
    end)

    it("has a line for each purpose, with the most it ever was", function()
        local model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        local session = model:session { prefixes = false }
        session:feed(("once upon a time "):rep(40)):best(5)
        local report = session:stats()
        for _, name in ipairs { "mapped", "cache", "activations", "logits", "scratch", "sketch", "resident" } do
            assert.is_true(report[name].bytes > 0, name)
            assert.is_true(report[name].peak >= report[name].bytes, name)
        end
        assert.is_true(report.mapped.bytes >= model.weights:bytes())
        assert.equal(session.position, report.position)
        assert.equal(session:bytes(), report.kv.used)
        assert.equal(math.ceil(session.position / PAGE) * model:config().layers, report.kv.pages)
        assert.equal(report.kv.reserved,
            report.kv.used + report.kv.lost + report.kv.free_pages + report.kv.free_blocks)
        assert.is_true(report.cache.bytes >= report.kv.reserved)
        local text = tostring(report)
        assert.truthy(text:find("\nactivations +[%d.]+ MB +[%d.]+ MB\n"))
        assert.truthy(text:find(("%d tokens; their cache has"):format(session.position), 1, true))
        session:rewind(0)
        local after = session:stats()
        assert.equal(0, after.kv.used)
        assert.equal(report.kv.used, after.kv.used_peak)
        session:close()
        local closed = moonloom.memory()
        assert.equal(report.cache.bytes - report.kv.reserved, closed.cache.bytes)
        assert.is_true(closed.cache.peak >= report.cache.bytes)
        local bytes = model.weights:bytes()
        model:close()
        collectgarbage()
        collectgarbage() -- views of the weights
        assert.is_true(moonloom.memory().mapped.bytes <= report.mapped.bytes - bytes)
    end)

    it("refuses a purpose that is none", function()
        local ffi = require "ffi"
        local out = ffi.new("int64_t[2]")
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_memory_use(ml.C.ML_MEMORY_PURPOSES, out, out + 1))
        assert.equal(ml.C.ML_E_ARGUMENT, ml.C.ml_memory_use(-1, out, out + 1))
    end)
end)
