--- What bench returns: its table, as text and as JSON.
local columns = require "moonloom._core.columns"
local moonloom = require "moonloom"
local progress = require "moonloom._core.progress"

local Result = {}
Result.__index = Result

local short, percent = columns.short, columns.percent

-- The columns of the table; those at the end only where they were asked for.
local function columns_of(args)
    local list = {
        { "test", -8, function(row) return row.test end },
        { "depth", 7, function(row) return row.depth end },
        { "batch", 5, function(row) return row.batch end },
        { "t/s", 8, function(row) return short(row.mean) end },
        { "+- sd", 8, function(row) return short(row.sd) end },
        { "bandwidth", 9, function(row) return percent(row.bandwidth_share) end },
        { "peak", 8, function(row) return percent(row.peak_share) end },
    }
    if args.scaling then table.insert(list, 4, { "threads", 7, function(row) return row.threads end }) end
    if #args.ablate > 0 then
        table.insert(list, 4, { "off", -8, function(row) return row.off or "-" end })
        list[#list + 1] = { "loss", 7, function(row) return row.loss and percent(row.loss) end }
    end
    if #args.verify > 0 then
        list[#list + 1] = { "cost", 7, function(row) return row.cost and ("%.2f x"):format(row.cost) end }
    end
    if args.peer then
        list[#list + 1] = { "peer t/s", 8, function(row) return row.peer_mean and short(row.peer_mean) end }
        list[#list + 1] = { "ratio", 7, function(row) return row.peer_ratio and ("%.2f x"):format(row.peer_ratio) end }
    end
    return columns.new(list)
end

-- What was measured, and on what.
function Result:header()
    local model, machine = self.model, self.machine
    local lines = { ("model    %s: %s, %.2f million parameters, %s; a token reads %s"):format(model.name,
        model.architecture, model.parameters / 1e6, progress.amount(model.bytes, "B"),
        progress.amount(model.bytes_per_token, "B")),
        ("machine  %s, %s, threads: %d"):format(machine.cpu, machine.isa, machine.threads) }
    if machine.read_bandwidth then
        lines[2] = lines[2] .. ("; reads %.1f GB/s, multiplies %.1f GFLOP/s"):format(machine.read_bandwidth / 1e9,
            machine.multiply_peak / 1e9)
    end
    if self.peer then lines[#lines + 1] = "peer     " .. tostring(self.peer) end
    for _, variant in ipairs(self.variants) do
        if variant.off then lines[#lines + 1] = ("%-8s %s"):format(variant.off, variant.meaning) end
    end
    return table.concat(lines, "\n") .. "\n\n" .. self.columns:heading()
end

function Result:__tostring()
    local lines = { self:header() }
    for _, row in ipairs(self.rows) do lines[#lines + 1] = self.columns:line(row) end
    return table.concat(lines, "\n") .. (self.interrupted and "\n(interrupted)" or "")
end

function Result:summary()
    return ("%d rows in %.1f s%s"):format(#self.rows, self.seconds, self.interrupted and ", interrupted" or "")
end

function Result:json()
    return { machine = self.machine, model = self.model, rows = self.rows, interrupted = self.interrupted }
end

local M = {}

--- A result without rows, of a model and the arguments of bench.
function M.new(args, model, variants)
    return setmetatable({
        machine = { cpu = moonloom.cpu(), isa = moonloom.isa(), threads = moonloom.threads() },
        model = {
            name = model.name, architecture = model:config().architecture, parameters = model.weights:parameters(),
            bytes = model.weights:bytes(), bytes_per_token = model:bytes_per_token(),
        },
        rows = {}, variants = variants, columns = columns_of(args), interrupted = false,
    }, Result)
end

return M
