-- Memory pools: random takes and gives against a model in Lua.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local C, check = ml.C, ml.check

local KB, MB = 1024, 1024 * 1024

local function new_pool(budget)
    local out = ffi.new("ml_pool *[1]")
    check(C.ml_pool_create(budget or 0, out))
    return ffi.gc(out[0], C.ml_pool_free)
end

local function stats(pool)
    local info, plain = ffi.new("ml_pool_info"), {}
    C.ml_pool_stats(pool, info)
    for _, name in ipairs {
        "budget", "reserved", "reserved_peak", "used", "used_peak", "pieces", "free_pages", "free_blocks",
        "largest_block", "lost", "fragmentation",
    } do plain[name] = tonumber(info[name]) end
    return plain
end

local out = ffi.new("void *[1]")

-- Address of a new piece as a number, or nil and the status.
local function take(pool, bytes)
    local status = C.ml_pool_take(pool, bytes, out)
    if status ~= C.ML_OK then return nil, status end
    return tonumber(ffi.cast("uintptr_t", out[0]))
end

local function give(pool, address, bytes)
    return C.ml_pool_give(pool, ffi.cast("void *", address), bytes)
end

local function write_mark(piece)
    local words = ffi.cast("uint32_t *", piece.address)
    words[0], words[math.floor(piece.bytes / 4) - 1] = piece.mark, piece.mark
end

local function has_mark(piece)
    local words = ffi.cast("uint32_t *", piece.address)
    return words[0] == piece.mark and words[math.floor(piece.bytes / 4) - 1] == piece.mark
end

local function check_sums(pool, pieces)
    local sum, now = 0, stats(pool)
    for _, piece in ipairs(pieces) do sum = sum + piece.bytes end
    assert.equal(sum, now.used)
    assert.equal(#pieces, now.pieces)
    assert.equal(now.reserved, now.used + now.lost + now.free_pages + now.free_blocks)
    assert.is_true(now.lost >= 0 and now.free_pages >= 0 and now.free_blocks >= 0)
    assert.is_true(now.largest_block <= now.free_blocks)
    return now
end

local function check_apart(pieces)
    local sorted = { unpack(pieces) }
    table.sort(sorted, function(a, b) return a.address < b.address end)
    for i = 2, #sorted do
        assert.is_true(sorted[i - 1].address + sorted[i - 1].bytes <= sorted[i].address, "pieces overlap")
    end
end

describe("a pool", function()
    it("keeps pieces of all sizes apart, and its books in order, and is empty at the end", function()
        math.randomseed(7)
        local pool, pieces, peak = new_pool(), {}, 0
        local sizes = { 128 * KB, 66 * KB, 35 * KB + 64 }
        for _, bytes in ipairs(sizes) do check(C.ml_pool_size(pool, bytes)) end
        for i = 1, 6000 do
            local growing = i % 2000 < 1100
            if #pieces == 0 or math.random() < (growing and 0.7 or 0.3) then
                local bytes = sizes[math.random(6)] or math.floor(64 * 2 ^ (math.random() * 12))
                local address = assert(take(pool, bytes))
                assert.equal(0, address % 64)
                pieces[#pieces + 1] = { address = address, bytes = bytes, mark = i }
                write_mark(pieces[#pieces])
            else
                local at = math.random(#pieces)
                local piece = pieces[at]
                assert.is_true(has_mark(piece))
                assert.equal(C.ML_OK, give(pool, piece.address, piece.bytes))
                pieces[at] = pieces[#pieces]
                pieces[#pieces] = nil
            end
            if i % 100 == 0 then
                local now = check_sums(pool, pieces)
                peak = math.max(peak, now.used)
                assert.is_true(now.used_peak >= peak)
                check_apart(pieces)
            end
        end
        for _, piece in ipairs(pieces) do
            assert.is_true(has_mark(piece))
            check(give(pool, piece.address, piece.bytes))
        end
        local now = check_sums(pool, {})
        assert.equal(now.reserved, now.free_blocks)
        assert.equal(now.reserved, now.largest_block) -- all of the one arena that is kept is one block again
        C.ml_pool_trim(pool)
        assert.equal(0, stats(pool).reserved)
        assert.is_true(stats(pool).reserved_peak >= peak)
    end)

    it("wastes little: pages of announced sizes, and pieces of any", function()
        local function waste(sizes, total, announce)
            local pool, pieces, used = new_pool(), {}, 0
            if announce then check(C.ml_pool_size(pool, sizes[1])) end
            for i = 1, math.huge do
                local bytes = sizes[(i - 1) % #sizes + 1]
                if used + bytes > total then break end
                pieces[i] = { address = assert(take(pool, bytes)), bytes = bytes }
                used = used + bytes
            end
            local now = check_sums(pool, pieces)
            -- What is left in the last arena is free for others.
            return (now.lost + now.free_pages) / now.used
        end
        assert.is_true(waste({ 128 * KB }, 64 * MB, true) == 0)
        assert.is_true(waste({ 66 * KB }, 64 * MB, true) < 0.05)
        assert.is_true(waste({ 35 * KB }, 64 * MB, true) < 0.06)
        math.randomseed(3)
        local blobs = {}
        for i = 1, 2000 do blobs[i] = math.random(20 * KB, 40 * KB) end
        assert.is_true(waste(blobs, 64 * MB, false) < 0.12)
    end)

    it("never has more than its budget, and says so", function()
        local budget = 5 * MB
        local pool, pieces = new_pool(budget), {}
        local address, status
        repeat
            address, status = take(pool, 100 * KB)
            if address then pieces[#pieces + 1] = { address = address, bytes = 100 * KB } end
            assert.is_true(stats(pool).reserved <= budget)
        until not address
        assert.equal(C.ML_E_MEMORY, status)
        assert.truthy(ffi.string(C.ml_last_error()):find("budget is 5242880 bytes", 1, true))
        assert.is_true(#pieces * 100 * KB > 0.85 * budget)
        check_sums(pool, pieces)
        check(give(pool, pieces[#pieces].address, pieces[#pieces].bytes))
        assert.truthy(take(pool, 100 * KB)) -- what is given back can be taken again
        check(C.ml_pool_budget(pool, 2 * budget))
        assert.truthy(take(pool, MB))
        assert.equal(C.ML_E_ARGUMENT, C.ml_pool_budget(pool, -1))
    end)

    it("gives empty arenas back to the system, but for one", function()
        local pool, pieces = new_pool(), {}
        for i = 1, 200 do pieces[i] = take(pool, MB) end
        assert.is_true(stats(pool).reserved >= 200 * MB)
        for i = 1, 200 do check(give(pool, pieces[i], MB)) end
        assert.is_true(stats(pool).reserved <= 32 * MB)
        C.ml_pool_trim(pool)
        assert.equal(0, stats(pool).reserved)
        assert.truthy(take(pool, 32 * MB))
    end)

    it("refuses what it has not given out", function()
        local pool = new_pool()
        local address = take(pool, 10 * KB)
        local before = stats(pool)
        assert.equal(C.ML_E_ARGUMENT, give(pool, address + 64, 10 * KB))
        assert.equal(C.ML_E_ARGUMENT, give(pool, address, 100 * KB))
        assert.equal(C.ML_E_ARGUMENT, give(pool, address + 10 * MB, 10 * KB))
        assert.equal(C.ML_E_ARGUMENT, give(pool, 64, 10 * KB))
        assert.same(before, stats(pool))
        check(give(pool, address, 10 * KB))
        assert.equal(C.ML_E_ARGUMENT, give(pool, address, 10 * KB))
        check(C.ml_pool_give(pool, nil, 10 * KB))
        for _, bytes in ipairs { 0, -1, 32 * MB + 1 } do
            assert.equal(C.ML_E_ARGUMENT, select(2, take(pool, bytes)))
            assert.equal(C.ML_E_ARGUMENT, C.ml_pool_size(pool, bytes))
        end
    end)
end)
