-- Runs the busted specs of this folder: moonloom tests/run.lua [pattern]. Closes with `N passed, N failed`.
local pattern = arg[1] or ""
local here = MOONLOOM_HOME .. "/tests"
package.path = here .. "/?.lua;" .. package.path
-- busted gives each file modules of its own, but a recipe keeps those that it was loaded with: so all load before.
require "moonloom"
require("moonloom.recipe.live").names()
arg = { [0] = "busted", "--output=" .. here .. "/report.lua", "--pattern=" .. pattern .. ".*_test%.lua$", here }
require "busted.runner" { standalone = false }
