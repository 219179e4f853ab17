-- Instruction sets for tests that ask more of rows than every set promises: on a matrix unit a row may depend on
-- whether its batch is large (ml_precision_set in core/moonloom.h).
local moonloom = require "moonloom"

local M = {}
local before

--- For setup(): chooses a set under which no row depends on its batch.
function M.rows_alone()
    before = moonloom.isa()
    if before:find("amx", 1, true) then moonloom.isa "avx512" end
end

--- For teardown(): goes back.
function M.as_before()
    moonloom.isa(before)
end

--- body(...) under precision "exact".
function M.exactly(body, ...)
    local precision = moonloom.precision()
    moonloom.precision "exact"
    local fine, problem = pcall(body, ...)
    moonloom.precision(precision)
    if not fine then error(problem, 0) end
end

return M
