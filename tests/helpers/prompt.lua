--- The prompt of build/moonloom on a pseudo terminal, with folders of its own: for tests that talk to it.
local pty = require "helpers.pty"

local M = {
    available = pty.available(), -- without pseudo terminals there is nobody to talk to
    program = (os.getenv("MOONLOOM_BUILD") or MOONLOOM_HOME .. "/build") .. "/moonloom",
}

--- Output of a shell command, without the last newline.
function M.shell(command)
    local pipe = io.popen(command)
    local text = pipe:read("*a")
    pipe:close()
    return (text:gsub("\n$", ""))
end

local Prompt = {}
Prompt.__index = Prompt

--- A fresh folder for home, state, configuration and recipes; nothing is started yet.
function M.new()
    local folder = M.shell("mktemp -d")
    os.execute("mkdir -p " .. folder .. "/recipes")
    return setmetatable({ folder = folder }, Prompt)
end

--- The environment in which the prompt runs, with `more` variables.
function Prompt:variables(more)
    local out = {
        HOME = self.folder, PATH = os.getenv("PATH"), TERM = "xterm", LANG = "C.UTF-8",
        XDG_STATE_HOME = self.folder .. "/state", XDG_CONFIG_HOME = self.folder .. "/config",
        MOONLOOM_RECIPES = self.folder .. "/recipes", MOONLOOM_BUILD = os.getenv("MOONLOOM_BUILD"),
        MOONLOOM_ISA = os.getenv("MOONLOOM_ISA"), ASAN_OPTIONS = os.getenv("ASAN_OPTIONS"),
        TSAN_OPTIONS = os.getenv("TSAN_OPTIONS"),
    }
    for name, value in pairs(more or {}) do out[name] = value end
    return out
end

--- Starts a program (a list of words) on a terminal. Returns the terminal.
function Prompt:run(command, more)
    self:stop()
    self.terminal = pty.start(command, self:variables(more))
    return self.terminal
end

--- Starts the prompt and waits for it. Returns the terminal.
function Prompt:start(more)
    local terminal = self:run({ M.program }, more)
    terminal:expect("moon> ")
    return terminal
end

--- Types a line. Returns what is shown up to the next prompt.
function Prompt:answer(line)
    self.terminal:enter(line)
    self.terminal:expect("\n")
    return (self.terminal:expect("(.-)moon> "):gsub("%s+$", ""))
end

--- Ends what runs on the terminal.
function Prompt:stop()
    if self.terminal then self.terminal:close() end
    self.terminal = nil
end

--- Ends it and removes the folder.
function Prompt:close()
    self:stop()
    os.execute("rm -rf " .. self.folder)
end

return M
