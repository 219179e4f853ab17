-- Instruction sets for tests that ask more of rows than every set promises: on a matrix unit a row may depend on
-- whether its batch is large (ml_precision_set in core/moonloom.h).
local ffi = require "ffi"
local moonloom = require "moonloom"

ffi.cdef [[
int setenv(const char *name, const char *value, int overwrite);
int unsetenv(const char *name);
]]

local M = {}

--- Names of the instruction sets, but for those with a matrix unit; which of them a machine has is found by trying.
M.sets = { "scalar", "avx2", "avx512", "neon" }
--- Those too.
M.all = { "scalar", "avx2", "avx512", "neon", "amx", "amx-emulated" }
local before, variable

--- For setup(): chooses a set under which no row depends on its batch, here and for commands that are run.
function M.rows_alone()
    before, variable = moonloom.isa(), os.getenv("MOONLOOM_ISA")
    if before:find("amx", 1, true) then
        moonloom.isa "avx512"
        ffi.C.setenv("MOONLOOM_ISA", "avx512", 1)
    end
end

--- For teardown(): goes back.
function M.as_before()
    moonloom.isa(before)
    if variable then
        ffi.C.setenv("MOONLOOM_ISA", variable, 1)
    else
        ffi.C.unsetenv("MOONLOOM_ISA")
    end
end

--- body(...) under precision "exact".
function M.exactly(body, ...)
    local precision = moonloom.precision()
    moonloom.precision "exact"
    local fine, problem = pcall(body, ...)
    moonloom.precision(precision)
    if not fine then error(problem, 0) end
end

--- body(name) under each instruction set that this machine has; a matrix unit under precision "exact".
function M.each(body)
    for _, name in ipairs(M.all) do
        local used = moonloom.isa()
        if pcall(moonloom.isa, name) then
            local fine, problem = pcall(M.exactly, body, name)
            moonloom.isa(used)
            if not fine then error(problem, 0) end
        end
    end
end

return M
