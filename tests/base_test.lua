-- The contract itself: errors, dtypes, threads, interrupts.
local ml = require "moonloom.ffi"
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

    it("raises and clears the interrupt", function()
        C.ml_interrupt_set(1)
        assert.equal(1, C.ml_interrupt_pending())
        C.ml_interrupt_set(0)
        assert.equal(0, C.ml_interrupt_pending())
    end)
end)
