--- The models of this process: which one is the current one, on which recipes work, and how they are opened.
--
-- load "map" (the default) leaves the weights in the file: it opens at once, other processes share the pages, and the
-- system may drop and read them again. Where the kernel can (6.18 on ext4 does), what is read from the disk that way
-- lies in huge pages, for later processes too. A file that was just downloaded lies in small pages until it has left
-- the memory once (`dd if=FILE iflag=nocache count=0`); one that `moonloom synth` wrote does not. While the tokenizer
-- is made, a thread maps what is in memory in huge pages, and reads nothing; small pages are left to the first pass,
-- which maps them as fast.
--
-- load "copy" moves the weights into huge pages and releases the file's pages as it goes, so there is never a second
-- copy; it takes as long as reading the file. It pays for a process that stays, alone on its machine.
local given = require "moonloom._core.expect"
local home = require("moonloom._core.ffi").home
local model = require "moonloom.model"
local tokenizer = require "moonloom.tokenizer"

local M = {}

local DEFAULT = home .. "/data/tiny-gpt-oss.gguf"

local loading = "map"

local function checked_loading(how)
    if how and how ~= "map" and how ~= "copy" then error(("load is map or copy, not '%s'"):format(tostring(how)), 0) end
    return how or loading
end

--- moonloom.loading("copy") lets models be loaded that way from now on, unless load() says otherwise; "map" is the
--- default. moonloom.loading() tells.
function M.loading(how)
    loading = checked_loading(how)
    return loading
end

--- moonloom.load(path, { load = "map" | "copy" }) opens a model file. "map": the weights stay in the file, which opens
--- at once and is shared with other processes. "copy": they are copied into memory under huge pages, which takes a
--- while and may read faster.
function M.load(path, options)
    if type(path) ~= "string" then error("moonloom.load needs the path of a model file", 2) end
    options = given.options(options, "moonloom.load", { "load" })
    return model.load(path, checked_loading(options.load))
end

local chosen -- path of the current model
local current -- the current model, once it is loaded

--- Makes a model (a path, or a loaded one) the current one. A path is opened when it is first needed.
function M.use(which)
    if type(which) == "table" then
        chosen, current = which.path, which
    else
        chosen, current = which, nil
    end
end

--- Path of the current model, whether it is loaded or not.
function M.path()
    return chosen or DEFAULT
end

--- The current model; or another for once: moonloom.current(path or model), nil for the current one.
function M.current(which)
    if type(which) == "table" and which.tokenizer then return which end
    if which and which ~= chosen then return M.load(which) end
    current = current or M.load(M.path())
    return current
end

--- The tokenizer of the current model, or of another (a path or a loaded model). Where that is not loaded yet, its file
-- is opened for the vocabulary alone: it need not hold a model that runs.
function M.tokenizer(which)
    which = which or current or M.path()
    if which == chosen and current then which = current end
    return type(which) == "table" and which.tokenizer or tokenizer.open(which)
end

return M
