-- KV: what keys and values cost.
--
--     moonloom kv                                         the memory table of the model, with the arithmetic
--     moonloom kv --measure                               what rotation and packing are worth on real pages, and how
--                                                         fast packed pages come back
--     moonloom kv --fill-random 100000 --kv max_context   how a full cache decodes under a policy; tokens are random
--
-- Keys and values lie in pages of 64 tokens of one layer, shared between sessions until they differ. A policy says what
-- becomes of full pages; it may change between two tokens, and for what is there, too.
--
--     hot    bf16 (or f32): all that is written to                                   attention reads it in place
--     warm   8 or 4 bits with a step and a zero for each token and head; keys rotated            in place
--     cold   the bytes of either, split by place and packed with zstd, in memory      after unpacking
--     disk   the same in a spill file                                                 after reading and unpacking
--
-- Cold bytes are packed where that saves 1/16 or more. A policy is given by name, file, bits or table:
--
--     generate{ kv = "balanced" }          moonloom --kv balanced          moonloom.kv "balanced"
--     session = model:session{ kv = { bits = 8, hot_tokens = 1024 } }     a cache of its own; names share one
--     session:policy "max_context"         from now on; session:policy() shows the fields in use
--     session:levels()                     draws what lies where, layer by layer
--     session:tree()                       draws all sessions of the cache and where they part
--
-- `policies` lists those there are, ?policy the fields of one. Prefixes under a policy are as the older session left
-- them: so, unlike plain ones, not to the bit what reading the prompt again would give. What window layers hold behind
-- their window is kept for branches, as much again as the full layers, so that none is ever computed again: `window` in
-- a policy says where. What is above a budget (`memory`) goes to the spill file, which has no name and is gone with the
-- session. `moonloom forks` goes back to random positions of a long timeline. Measured: BENCHMARKS.md.
local columns = require "moonloom._core.columns"
local interrupt = require "moonloom._core.interrupt"
local moonloom = require "moonloom"
local prepare = require "moonloom.bench.prepare"
local progress = require "moonloom._core.progress"
local read_file = require "moonloom._core.read_file"

local M = {
    name = "kv",
    summary = "what keys and values cost: the memory table; --measure packing and its speed; --fill-random N",
    parameters = {
        { name = "measure", type = "boolean", default = false,
            doc = "read a text; what formats make of its pages, and how fast packed ones come back" },
        { name = "file", type = "path", doc = "text for measure; default: data/text.txt" },
        { name = "tokens", type = "integer", default = 1024, min = 128, doc = "tokens of it" },
        { name = "fill_random", type = "integer", min = 1, max = 2 ^ 24,
            doc = "for benchmarks: decode behind so many random tokens, which are not computed" },
        { name = "decode", type = "integer", default = 4, min = 1, doc = "tokens to decode after fill_random" },
    },
}

local LENGTHS = { 4096, 32768, 131072 }
local PAGE = 64
local BUDGET = 4e9 -- of a session that is measured: it needs one for pages to come back, but all of them fit
local FORMATS = { { "bf16", 16, 16 }, { "8 bits", 8, 8 }, { "8 bits, values 4", 8, 4 }, { "4 bits", 4, 4 } }

local function amount(bytes)
    return progress.amount(bytes, "B")
end

-- ---- the table

-- Layers that see everything, and layers with a window.
local function count_layers(model)
    local full, layers = 0, model:config().layers
    for layer = 0, layers - 1 do
        if not model:window(layer) then full = full + 1 end
    end
    return full, layers - full
end

local function pages_for(tokens)
    return math.ceil(tokens / PAGE)
end

-- Pages of a window layer that attention reads: the window may begin in the middle of one.
local function window_pages(config, tokens)
    return math.min(pages_for(tokens), math.ceil((config.window - 1) / PAGE) + 1)
end

local function table_rows(model)
    local config, rows = model:config(), {}
    local full, windowed = count_layers(model)
    for i, format in ipairs(FORMATS) do
        local session = model:session { kv = { key_bits = format[2], value_bits = format[3] }, prefixes = false }
        local page = session:page_bytes(0)
        session:close()
        local row = { format = format[1], page_bytes = page, layer_token_bytes = page / PAGE,
            token_bytes = page / PAGE * full, lengths = {} }
        for k, tokens in ipairs(LENGTHS) do
            row.lengths[k] = { tokens = tokens, full = full * pages_for(tokens) * page,
                window = windowed * window_pages(config, tokens) * page,
                window_kept = windowed * pages_for(tokens) * page }
        end
        rows[i] = row
    end
    return rows
end

-- From "every head of every layer" down to what has to be there, in bf16.
local function arithmetic(model)
    local c, tokens = model:config(), LENGTHS[#LENGTHS]
    local full, windowed = count_layers(model)
    local all = 2 * c.heads * c.head_dim * 2 * c.layers * tokens
    local shared = all / c.heads * c.kv_heads
    local steps = {}
    local function step(bytes, ...) steps[#steps + 1] = { bytes = bytes, text = (...):format(select(2, ...)) } end
    step(all, "keys and values of all %d heads of %d in %d layers, 2 B each: 2 x %d x %d x 2 B x %d x %d", c.heads,
        c.head_dim, c.layers, c.heads, c.head_dim, c.layers, tokens)
    if c.kv_heads < c.heads then
        local group = c.heads / c.kv_heads
        step(shared, "%d query heads share each of %d KV heads (GQA): / %d", group, c.kv_heads, group)
    end
    if windowed > 0 then
        local seen, pages = shared / c.layers * full, window_pages(c, tokens)
        step(seen, "%d of %d layers see everything: x %d / %d", full, c.layers, full, c.layers)
        step(seen + windowed * pages * PAGE * 2 * c.kv_heads * c.head_dim * 2,
            "%d layers see %d tokens: + %d x %d pages of %d tokens", windowed, c.window, windowed, pages, PAGE)
    end
    return steps
end

local function cells(k, field)
    return function(row) return amount(row.lengths[k][field]) end
end

local shown = columns.new {
    { "format", -16, function(row) return row.format end },
    { "layer", 7, function(row) return ("%.0f B"):format(row.layer_token_bytes) end },
    { "token", 8, function(row) return ("%.0f B"):format(row.token_bytes) end },
    { "4K", 10, cells(1, "full") },
    { "32K", 10, cells(2, "full") },
    { "128K", 10, cells(3, "full") },
    { "window", 10, cells(3, "window") },
    { "kept 128K", 10, cells(3, "window_kept") },
}

local Table = {}
Table.__index = Table

function Table:__tostring()
    local lines = { ("%s: %d layers see everything, %d a window"):format(self.model, self.full, self.windowed),
        "", shown:heading() }
    for _, row in ipairs(self.rows) do lines[#lines + 1] = shown:line(row) end
    lines[#lines + 1] = "layer: bytes of a token in one layer, scales included; token: in all full layers; 4K to 128K:"
    lines[#lines + 1] = "the full layers; window: the window layers as far as attention reads; kept 128K: all that they"
    lines[#lines + 1] = "hold, so that no branch is computed again"
    lines[#lines + 1] = ""
    lines[#lines + 1] = ("why %d tokens in bf16 take no more:"):format(LENGTHS[#LENGTHS])
    for _, step in ipairs(self.arithmetic) do
        lines[#lines + 1] = ("  %10s  %s"):format(amount(step.bytes), step.text)
    end
    return table.concat(lines, "\n")
end

local function memory_table(model)
    local full, windowed = count_layers(model)
    return setmetatable({ model = model.name, full = full, windowed = windowed, rows = table_rows(model),
        arithmetic = arithmetic(model) }, Table)
end

-- ---- what formats make of real pages

local function read_ids(args, model)
    local path = args.file or moonloom.home .. "/data/text.txt"
    local ids = model:tokenize(read_file(path, "the text", args.tokens * 16), { special = false })
    if #ids < 2 * PAGE then error(path .. " is too short: 128 tokens are needed", 0) end
    for i = #ids, args.tokens + 1, -1 do ids[i] = nil end
    return ids
end

-- One session of the text under a policy: what a page of each layer makes, on average, and how fast all come back.
local function sample_layers(model, ids, kv)
    kv.memory, kv.spill = BUDGET, os.getenv("TMPDIR") or "/var/tmp"
    local session = model:session { kv = kv, prefixes = false }
    local sum = { bytes = 0, packed = 0, unsplit = 0, keys8 = 0, keys4 = 0, values8 = 0, values4 = 0, layers = 0 }
    interrupt.finally(function()
        prepare.read(session, ids)
        for layer = 0, model:config().layers - 1 do
            local one = session:sample(layer)
            sum.layers = sum.layers + 1
            for _, name in ipairs { "bytes", "packed", "unsplit" } do sum[name] = sum[name] + one[name] end
            if one.key_error then
                sum.keys8, sum.keys4 = sum.keys8 + one.key_error.bits8, sum.keys4 + one.key_error.bits4
                sum.values8, sum.values4 = sum.values8 + one.value_error.bits8, sum.values4 + one.value_error.bits4
            end
        end
        sum.promotion = session:promotion()
    end, function() session:close() end)
    for _, name in ipairs { "keys8", "keys4", "values8", "values4" } do sum[name] = sum[name] / sum.layers end
    return sum
end

local packing = columns.new {
    { "page", -8, function(row) return row.format end },
    { "bytes", 9, function(row) return ("%.0f"):format(row.bytes) end },
    { "zstd alone", 10, function(row) return ("%.3f"):format(row.alone) end },
    { "as packed", 9, function(row) return ("%.3f"):format(row.split) end },
    { "that adds", 9, function(row) return ("%+.1f %%"):format((row.split / row.alone - 1) * 100) end },
}

local function rate(name)
    return function(row) return ("%.2f GB/s"):format(row.rates[name]) end
end

local promoting = columns.new {
    { "page", -8, function(row) return row.format end },
    { "zstd alone", 10, rate "zstd" },
    { "cold", 10, rate "memory" },
    { "disk", 10, rate "disk" },
    { "checksum", 11, rate "check" },
    { "ahead", 10, rate "stream" },
}

local errors = columns.new {
    { "error of keys", -14, function(row) return row.name end },
    { "8 bits", 8, function(row) return ("%.3f %%"):format(row.keys8 * 100) end },
    { "4 bits", 8, function(row) return ("%.3f %%"):format(row.keys4 * 100) end },
}

local Measured = {}
Measured.__index = Measured

function Measured:__tostring()
    local lines = { ("%s, %d tokens, the newest full page of each layer"):format(self.model, self.tokens), "",
        errors:heading() }
    for _, row in ipairs(self.errors) do lines[#lines + 1] = errors:line(row) end
    local plain = self.errors[2]
    lines[#lines + 1] = ("error of values: %.3f %% with 8 bits, %.3f %% with 4 (values are not rotated)"):format(
        plain.values8 * 100, plain.values4 * 100)
    lines[#lines + 1] = "root mean square, as a share of the numbers, mean of the layers"
    lines[#lines + 1] = ""
    lines[#lines + 1] = packing:heading()
    for _, row in ipairs(self.packing) do lines[#lines + 1] = packing:line(row) end
    lines[#lines + 1] = "how many times smaller a page becomes. As packed: bytes split by their place in a number, then"
    lines[#lines + 1] = "zstd; what that makes less than 1/16 smaller is kept as it is: to read it is a copy"
    lines[#lines + 1] = ""
    lines[#lines + 1] = promoting:heading()
    for _, row in ipairs(self.promotion) do lines[#lines + 1] = promoting:line(row) end
    lines[#lines + 1] = ("how fast %d packed pages come back, in bytes as attention reads them. On one thread:")
        :format(self.promotion[1].pages)
    lines[#lines + 1] = "zstd alone: ZSTD_decompress(), to compare with; cold: from memory; disk: from the spill file,"
    lines[#lines + 1] = "in the system's memory by now, checksums included, which alone go at the next column's rate."
    lines[#lines + 1] = ("Ahead: from disk as attention gets them, on %d %s and the one that works ahead")
        :format(self.threads, self.threads == 1 and "thread" or "threads")
    return table.concat(lines, "\n")
end

-- Rates are in GB of pages a second.
local function promotion_row(format, measured)
    local row = { format = format, pages = measured.pages, bytes = measured.bytes, packed = measured.packed,
        rates = {} }
    for _, name in ipairs { "zstd", "memory", "disk", "check", "stream" } do
        row.rates[name] = measured.bytes / measured[name .. "_seconds"] / 1e9
    end
    return row
end

local function error_row(name, sum)
    return { name = name, keys8 = sum.keys8, keys4 = sum.keys4, values8 = sum.values8, values4 = sum.values4 }
end

local function measure(args, model)
    local ids = read_ids(args, model)
    local turned = sample_layers(model, ids, { bits = 16, rotate = true })
    local straight = sample_layers(model, ids, { bits = 16, rotate = false })
    local result = { model = model.name, tokens = #ids, threads = moonloom.threads(),
        errors = { error_row("not rotated", straight), error_row("rotated", turned) }, packing = {}, promotion = {} }
    for i, bits in ipairs { 16, 8, 4 } do
        local sum = bits == 16 and turned or sample_layers(model, ids, { bits = bits, hot_tokens = 0 })
        local format = bits == 16 and "plain" or bits .. " bits"
        result.packing[i] = { format = format, bytes = sum.bytes / sum.layers, alone = sum.bytes / sum.unsplit,
            split = sum.bytes / sum.packed }
        result.promotion[i] = promotion_row(format, sum.promotion)
    end
    return setmetatable(result, Measured)
end

-- ---- a full cache

local Filled = {}
Filled.__index = Filled

function Filled:__tostring()
    return ("%s\n\n%d random tokens filled in after %.1f s, then %d decoded: %.1f ms each\n"
        .. "keys and values have %s from the system, at most %s since the beginning"):format(tostring(self.levels),
        self.tokens, self.fill_seconds, self.decoded, self.token_ms, amount(self.reserved),
        amount(self.reserved_peak))
end

function Filled:json()
    local plain = {}
    for name, value in pairs(self) do plain[name] = value end
    plain.levels = self.levels:data()
    return plain
end

local function fill(args, model)
    local session, began = model:session { prefixes = false }, moonloom.now()
    local result = { tokens = args.fill_random, decoded = args.decode }
    interrupt.finally(function()
        prepare.fill(session, args.fill_random, "filling in random tokens")
        local filled = moonloom.now()
        for _ = 1, args.decode do session:step(1) end
        result.fill_seconds, result.token_ms = (filled - began) / 1000, (moonloom.now() - filled) / args.decode
        result.levels = session:levels()
        local pool = session:stats().kv
        result.reserved, result.reserved_peak, result.used = pool.reserved, pool.reserved_peak, pool.used
    end, function() session:close() end)
    return setmetatable(result, Filled)
end

function M.run(args)
    if args.measure and args.fill_random then
        moonloom.wrong_usage("kv does one thing at a time: either measure or fill_random")
    end
    local model = moonloom.current(args.model)
    if args.fill_random then return fill(args, model) end
    if args.measure then return measure(args, model) end
    return memory_table(model)
end

return M
