--- Variants of a measurement: one with everything on, and one for each optimisation that is switched off.
--
-- A variant is { off = name or nil, meaning =, base = session, samples = {} }. They take their samples in turns: what
-- else happens on the machine hits all alike, and each sample is compared with that of its own round.
local arguments = require "moonloom.recipe.arguments"
local moonloom = require "moonloom"
local statistics = require "moonloom.bench.statistics"
local tuning = require "moonloom._core.tuning"

local M = {}

-- Switches that show only in memory that is asked for while they are off: these variants have sessions of their own.
local ANEW = { huge = true }

-- Whether a switch can make a difference on this machine.
local function works(name)
    return name ~= "matrix" or moonloom.isa():find("amx", 1, true) ~= nil
end

--- The variants for a list of switches, "all" standing for those that can make a difference here.
function M.variants(names)
    local known, words, wanted, list = tuning.list(), { "all" }, {}, { {} }
    for _, one in ipairs(known) do
        words[#words + 1], wanted[one.name] = one.name, false
    end
    for _, name in ipairs(names) do
        if name ~= "all" and wanted[name] == nil then
            arguments.fail("bench: ablate takes %s, not '%s'", table.concat(words, ", "), tostring(name))
        end
        for _, one in ipairs(known) do
            if name == one.name or name == "all" and works(one.name) then wanted[one.name] = true end
        end
    end
    for _, one in ipairs(known) do
        if wanted[one.name] then list[#list + 1] = { off = one.name, meaning = one.meaning } end
    end
    return list
end

--- Gives each variant an empty session of the model, the same one where that is possible.
function M.open(variants, model)
    for _, variant in ipairs(variants) do
        variant.base = not ANEW[variant.off] and variants[1].base or tuning.without(variant.off, function()
            return model:session { prefixes = false }
        end)
    end
end

function M.close(variants)
    for _, variant in ipairs(variants) do
        if variant.base then variant.base:close() end
    end
end

--- How much slower than `whole` the samples are (tokens per second of both), as a share: the median over the rounds.
function M.loss(whole, samples)
    local losses = {}
    for i, rate in ipairs(samples) do losses[i] = 1 - rate / whole[i] end
    return statistics.median(losses)
end

return M
