-- The NEON kernels against the plain ones: compiled for aarch64 and run under qemu, where both are installed (Debian:
-- gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). tests/aarch64.sh runs these tests themselves there.
local folder = require "helpers.folder"

local COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
local FLAGS = "-static -std=gnu11 -O2 -Wall -Wextra -Werror -fno-math-errno -ffp-contract=off -I core"

-- What a shell command prints, and its exit code.
local function run(command)
    local pipe = assert(io.popen(("cd '%s' && { %s; } 2>&1; printf '\n%%d' $?"):format(MOONLOOM_HOME, command)))
    local text, code = pipe:read("*a"):match("^(.*)\n(%d+)$")
    pipe:close()
    return text, tonumber(code)
end

local function installed(tool)
    local _, code = run("command -v " .. tool)
    return code == 0
end

local function compile(arguments)
    local text, code = run(("%s %s %s"):format(COMPILER, FLAGS, arguments))
    assert.equal("", text)
    assert.equal(0, code)
end

describe("the NEON kernels", function()
    teardown(folder.remove)

    it("agree with the plain ones, with SDOT and on a CPU without it", function()
        for _, tool in ipairs { COMPILER, EMULATOR } do
            if not installed(tool) then return pending(tool .. " is not installed") end
        end
        local program, objects, with_dot = folder.path("neon_check"), {}, { "neon_panel", "neon_warm_dot" }
        for i, name in ipairs(with_dot) do
            objects[i] = folder.path(name .. ".o")
            compile(("-march=armv8.2-a+dotprod -c core/kernels/%s.c -o %s"):format(name, objects[i]))
        end
        compile(("tests/tools/neon_check.c core/kernels/neon.c core/kernels/neon_warm.c core/kernels/scalar.c "
            .. "core/kernels/scalar_warm.c core/dtype/decode.c core/dtype/dtype.c core/base/cpu.c %s -lm -o %s")
            :format(table.concat(objects, " "), program))
        -- ARMv8.2 with SDOT and no more, and ARMv8.0: an instruction that is not promised kills the program.
        local with_sdot, without = "agrees: whole products mxfp4", "no products in whole numbers"
        local cpus = { ["cortex-a76"] = with_sdot, ["cortex-a53"] = without }
        for cpu, whole in pairs(cpus) do
            local text, code = run(("%s -cpu %s %s"):format(EMULATOR, cpu, program))
            for _, line in ipairs { whole, "agrees: attend_warm, 4 and 4 bits", "agrees: multiply_rounds" } do
                assert.truthy(text:find(line, 1, true), text)
            end
            assert(code == 0, text)
        end
    end)
end)
