-- Runs the busted specs of this folder: moonloom tests/run.lua [pattern]. Closes with `N passed, N failed`.
local pattern = arg[1] or ""
local here = MOONLOOM_HOME .. "/tests"
package.path = here .. "/?.lua;" .. package.path
arg = { [0] = "busted", "--output=" .. here .. "/report.lua", "--pattern=" .. pattern .. ".*_test%.lua$", here }
require "busted.runner" { standalone = false }
