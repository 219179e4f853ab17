--- Modules that had another name once: a user's own file that requires one by the old name gets it, and is told once
--- on standard error where it is now. (It is no error: nothing of what they do has changed.)
local M = {}

local folders = {
    _core = { "columns", "expect", "ffi", "interrupt", "progress", "random", "read_file", "suggest", "terminal",
        "tuning" },
    bench = { "ablation", "peer", "statistics", "yardsticks" },
    cache = { "levels", "memory", "policy", "saved", "store", "tree" },
    chat = { "harmony", "template" },
    file = { "gguf_writer", "json", "vocabulary" },
    recipe = { "arguments", "command" },
}

--- Old name -> new name.
M.names = { ["moonloom.recipe"] = "moonloom.recipe.live" } -- what ran recipes is in moonloom.recipe.door
for folder, list in pairs(folders) do
    for _, name in ipairs(list) do M.names["moonloom." .. name] = ("moonloom.%s.%s"):format(folder, name) end
end

-- The last way in which require() looks for a module.
table.insert(package.loaders, function(old)
    local new = M.names[old]
    if not new then return nil end
    io.stderr:write(("moonloom: %s is %s now\n"):format(old, new))
    return function() return require(new) end
end)

return M
