-- Entry of the moonloom command: sets the module path and runs a script file (thin first version).
local home = MOONLOOM_HOME
package.path = home .. "/lua/?.lua;" .. home .. "/?.lua;" .. package.path
local script = arg[1]
if not script then
    io.stderr:write("usage: moonloom FILE.lua [args]\n")
    return 2
end
arg = { [0] = script, unpack(arg, 2) }
local chunk, problem = loadfile(script)
if not chunk then
    io.stderr:write(problem, "\n")
    return 1
end
return chunk(unpack(arg)) or 0
