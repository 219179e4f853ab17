-- The NEON kernels against the plain ones: compiled for aarch64 and run under qemu, where both are installed (Debian:
-- gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). tests/aarch64.sh runs these tests themselves there.
local folder = require "helpers.folder"

local COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
local FLAGS = "-static -std=gnu11 -O3 -Wall -Wextra -Werror -fno-math-errno -ffp-contract=off -I core"

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

describe("the NEON kernels", function()
    teardown(folder.remove)

    it("agree with the plain ones, with SDOT and on a CPU without it", function()
        for _, tool in ipairs { COMPILER, EMULATOR } do
            if not installed(tool) then return pending(tool .. " is not installed") end
        end
        local panel, program = folder.path("neon_panel.o"), folder.path("neon_check")
        local compile = COMPILER .. " " .. FLAGS
        local sources = "tests/tools/neon_check.c core/kernels/neon.c core/kernels/scalar.c core/kernels/scalar_warm.c "
            .. "core/tensor/decode.c core/tensor/dtype.c core/base/cpu.c"
        local text, code = run(("%s -march=armv8.2-a+dotprod -c core/kernels/neon_panel.c -o %s && %s %s %s -lm -o %s")
            :format(compile, panel, compile, sources, panel, program))
        assert.equal("", text)
        assert.equal(0, code)
        local cpus = { max = "agrees: whole products mxfp4", ["cortex-a72"] = "no products in whole numbers" }
        for cpu, whole in pairs(cpus) do
            text, code = run(("%s -cpu %s %s"):format(EMULATOR, cpu, program))
            assert.truthy(text:find(whole, 1, true), text)
            assert.truthy(text:find("agrees: multiply_rounds", 1, true), text)
            assert(code == 0, text)
        end
    end)
end)
