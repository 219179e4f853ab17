--- A person at a terminal, for tests: starts a program on a pseudo terminal, types, and waits for what it shows.
local ffi = require "ffi"

ffi.cdef [[
struct pty_size { unsigned short rows, columns, x, y; };
struct pty_poll { int fd; short events, revents; };
int forkpty(int *master, char *name, const void *settings, const struct pty_size *size);
int execve(const char *path, char *const argv[], char *const envp[]);
void _exit(int status);
int poll(struct pty_poll *fds, unsigned long count, int milliseconds);
long read(int fd, void *buffer, unsigned long count);
long write(int fd, const void *buffer, unsigned long count);
int close(int fd);
int kill(int process, int signal);
int waitpid(int process, int *status, int options);
]]

local POLLIN, WNOHANG, SIGKILL = 1, 1, 9

local libutil = pcall(function() return ffi.C.forkpty end) and ffi.C or ffi.load("util")

local Pty = {}
Pty.__index = Pty

local M = {}

-- A NULL-terminated array of C strings; the second value keeps the strings alive.
local function strings(list)
    local array, keep = ffi.new("char *[?]", #list + 1), {}
    for i, text in ipairs(list) do
        keep[i] = ffi.new("char[?]", #text + 1, text)
        array[i - 1] = keep[i]
    end
    return array, keep
end

--- Whether the machine gives pseudo terminals: a bare chroot does not.
function M.available()
    local master = ffi.new("int[1]")
    local process = libutil.forkpty(master, nil, nil, nil)
    if process == 0 then ffi.C._exit(0) end
    if process < 0 then return false end
    ffi.C.waitpid(process, nil, 0)
    ffi.C.close(master[0])
    return true
end

--- Starts the program of the list `command` with the environment `environment` (name -> value) on a terminal of
--- 24 rows and 100 columns.
function M.start(command, environment)
    local variables = {}
    for name, value in pairs(environment) do variables[#variables + 1] = name .. "=" .. value end
    local argv, keep_argv = strings(command)
    local envp, keep_envp = strings(variables)
    local size, master = ffi.new("struct pty_size", 24, 100), ffi.new("int[1]")
    local process = libutil.forkpty(master, nil, nil, size)
    if process == 0 then
        ffi.C.execve(command[1], argv, envp)
        ffi.C._exit(127)
    end
    assert(process > 0, "forkpty failed")
    assert(#keep_argv == #command and #keep_envp == #variables)
    return setmetatable({ process = process, fd = master[0], raw = "", text = "", at = 1 }, Pty)
end

-- Takes up what the program wrote within `milliseconds`. Returns false at its end.
function Pty:read(milliseconds)
    local wanted = ffi.new("struct pty_poll[1]", { { self.fd, POLLIN, 0 } })
    if ffi.C.poll(wanted, 1, milliseconds) <= 0 then return true end
    local buffer = ffi.new("char[4096]")
    local count = tonumber(ffi.C.read(self.fd, buffer, 4096))
    if count <= 0 then return false end
    self.raw = self.raw .. ffi.string(buffer, count)
    -- Without escape sequences, carriage returns and bells; what is cut in two is left for the next time. The prompt
    -- goes to a fresh line by filling this one with spaces.
    local text = self.raw:gsub((" "):rep(100) .. "\r\27%[K", "\1"):gsub("\27%[[%d;?]*%a", ""):gsub("\27[=>]", "")
    text = text:gsub("[\r\7]", ""):gsub("\n\1", "\n"):gsub("\1", "\n")
    self.text = text
    return true
end

--- Types `text`.
function Pty:send(text)
    local at = 0
    while at < #text do
        local count = tonumber(ffi.C.write(self.fd, ffi.cast("const char *", text) + at, #text - at))
        assert(count > 0, "the program reads no more")
        at = at + count
    end
end

--- Types `text` and Enter.
function Pty:enter(text)
    self:send(text .. "\r")
end

--- Waits until the Lua pattern `pattern` appears in what was shown since the last expect(). Returns its captures; an
--- error with what was shown after `seconds` (60).
function Pty:expect(pattern, seconds)
    local waits, open = (seconds or 60) * 10, true
    while true do
        local found = { self.text:find(pattern, self.at) }
        if found[1] then
            self.at = found[2] + 1
            return unpack(found, 3)
        end
        if not open or waits <= 0 then
            error(("waited for %q; %s since the last match:\n%s"):format(pattern,
                open and "shown" or "the program ended; shown", self.text:sub(self.at)), 2)
        end
        open = self:read(100)
        waits = waits - 1
    end
end

--- Looks on for about `milliseconds`. Returns what was shown since the last expect().
function Pty:watch(milliseconds)
    for _ = 1, milliseconds / 10 do
        ffi.C.poll(nil, 0, 10)
        self:read(0)
    end
    return self.text:sub(self.at)
end

--- Waits for the end of the program. Returns its exit code, or 128 + the signal that ended it.
function Pty:wait(seconds)
    local status = ffi.new("int[1]")
    for _ = 1, (seconds or 60) * 20 do
        if not self:read(50) then ffi.C.poll(nil, 0, 50) end -- the terminal is gone a little before the program
        if ffi.C.waitpid(self.process, status, WNOHANG) == self.process then
            self.process = nil
            local before
            repeat
                before = #self.raw
                self:read(10)
            until #self.raw == before
            local low = status[0] % 128
            return low == 0 and math.floor(status[0] / 256) % 256 or 128 + low
        end
    end
    error("the program does not end; shown since the last match:\n" .. self.text:sub(self.at), 2)
end

--- Ends the program if it still runs, and closes the terminal.
function Pty:close()
    if self.process then
        ffi.C.kill(self.process, SIGKILL)
        ffi.C.waitpid(self.process, nil, 0)
        self.process = nil
    end
    if self.fd then ffi.C.close(self.fd) end
    self.fd = nil
end

return M
