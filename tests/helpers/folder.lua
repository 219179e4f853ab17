-- A folder for the files of one test run; in memory where the machine has such a place.
local M = {}

local made

local function folder()
    if made then return made end
    local memory = io.open("/dev/shm/.", "r")
    if memory then memory:close() end
    local pipe = assert(io.popen(("mktemp -d %s/moonloom-test-XXXXXX"):format(memory and "/dev/shm" or "/tmp")))
    made = pipe:read("*l")
    pipe:close()
    return made
end

--- The path of a file of that name in the folder.
function M.path(name)
    return folder() .. "/" .. name
end

--- Writes a file and returns its path.
function M.write(name, bytes)
    local path = M.path(name)
    local file = assert(io.open(path, "wb"))
    assert(file:write(bytes))
    file:close()
    return path
end

--- The bytes of a file.
function M.read(path)
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("*a")
    file:close()
    return bytes
end

--- Removes the folder with all that is in it; the next call of path() makes a new one.
function M.remove()
    if made then os.execute("rm -rf " .. made) end
    made = nil
end

return M
