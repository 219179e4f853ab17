--- What the prompt knows of models: the banner, the current model and chat, finished generations, interrupts.
local environment = require "repl.environment"
local ffi = require "ffi"
local lib = require "moonloom.ffi"

local M = {}

function M.version()
    return ffi.string(lib.C.ml_version())
end

--- Name of the instruction set of the kernels.
function M.isa()
    local known, name = pcall(function() return ffi.string(lib.C.ml_isa_name()) end)
    return known and name or "unknown"
end

function M.can_resume()
    return false
end

--- What the prompt shows for `value` in place of the pretty printer's text, or nil.
function M.display(value)
    return nil
end

function M.set_model(path)
end

--- Milliseconds for a reader.
function M.duration(ms)
    if ms < 1 then return ("%.1f us"):format(ms * 1e3) end
    if ms < 1000 then return ("%.2f ms"):format(ms) end
    return ("%.2f s"):format(ms / 1000)
end

--- The three lines for a new user.
function M.banner()
    return ("moonloom %s, %s\nTry: 1 + 1\nHelp: ? shows what there is, ?name tells about one thing\n")
        :format(M.version(), M.isa())
end

function M.say()
    error("no chat yet", 0)
end

function M.offer_globals()
    environment.offer("quit", "leaves; so does Ctrl-D", function()
        return setmetatable({}, {
            __call = function(_, code) os.exit(code or 0) end,
            __tostring = function() return "quit() or Ctrl-D leaves" end,
        })
    end)
end

return M
