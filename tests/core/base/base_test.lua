-- The contract itself: errors, dtypes, threads, interrupts.
local ml = require "moonloom._core.ffi"
local C, ffi = ml.C, require "ffi"

describe("base", function()
    it("tells its version and its machine", function()
        assert.truthy(ffi.string(C.ml_version()):match("^%d+%.%d+%.%d+$"))
        assert.is_true(#ffi.string(C.ml_cpu_name()) > 0)
        assert.is_true(C.ml_threads_count() >= 1)
    end)

    it("refuses a thread count out of range with a sentence", function()
        local before = C.ml_threads_count()
        assert.equal(C.ML_E_ARGUMENT, C.ml_threads_set(-1))
        assert.truthy(ffi.string(C.ml_last_error()):find("-1", 1, true))
        assert.equal(C.ML_E_ARGUMENT, C.ml_threads_set(100000))
        assert.equal(before, C.ml_threads_count())
    end)

    it("leaves signals to the program: its own threads take none", function()
        local function lines(command)
            local pipe = io.popen(command)
            local list = {}
            for line in pipe:lines() do list[#list + 1] = line end
            pipe:close()
            return list
        end
        local tasks = lines("ls /proc/$PPID/task 2>/dev/null")
        if #tasks == 0 then return pending("there is no /proc") end
        local before = C.ml_threads_count()
        ml.check(C.ml_threads_set(3))
        require("moonloom").bandwidth(1)
        -- Masks of all but the first thread; that of SIGINT, 2, is in the lowest digit.
        local masks = lines("cd /proc/$PPID/task; for i in *; do [ $i = $PPID ] || grep SigBlk $i/status; done")
        ml.check(C.ml_threads_set(before))
        assert.is_true(#masks >= 2)
        for i, mask in ipairs(masks) do
            assert.is_true(bit.band(tonumber(mask:match("%x$"), 16), 2) == 2, "thread " .. i .. ": " .. mask)
        end
    end)

    it("raises and clears the interrupt", function()
        C.ml_interrupt_set(1)
        assert.equal(1, C.ml_interrupt_pending())
        C.ml_interrupt_set(0)
        assert.equal(0, C.ml_interrupt_pending())
    end)
end)

describe("the yardsticks", function()
    local isa_helper = require "helpers.isa"
    local moonloom = require "moonloom"

    it("measure reading and multiplying under every instruction set", function()
        local before = moonloom.isa()
        for _, isa in ipairs(isa_helper.sets) do
            if pcall(moonloom.isa, isa) then
                assert.is_true(moonloom.multiply_peak(1) > 1e8)
                assert.is_true(moonloom.bandwidth(1) > 1e8)
            end
        end
        moonloom.isa(before)
    end)

    it("and a pass tells what it read: decoding one token reads what the model says a token costs", function()
        local model = moonloom.current()
        local session = model:session()
        session:feed { 1, 2, 3 }
        local batch = model:batch(1)
        batch:add(session, 4, true)
        batch:forward()
        local work, config = batch:work(), model:config()
        -- bytes_per_token() also counts norms, biases and the row of the embedding.
        assert.is_true(work.weight_bytes < model:bytes_per_token())
        assert.is_true(work.weight_bytes > 0.9 * model:bytes_per_token())
        assert.equal(4 * config.layers * config.kv_heads * config.head_dim * 2 * 2, work.cache_bytes)
        session:close()
    end)
end)
