-- Policies: what becomes of keys and values as a session goes on. Each is a file policies/NAME.lua, which
-- `moonloom --kv NAME`, generate{ kv = "NAME" } or session:policy "NAME" put in force. Save a change while the model
-- talks: the next token uses it. What a policy returns is told in lua/moonloom/cache/policy.lua.
local policy = require "moonloom.cache.policy"

local M = {
    name = "policies",
    summary = "list the policies for keys and values that --kv can name",
    parameters = {},
}

function M.run()
    return policy.list()
end

function M.format(rows)
    return { policies = rows }
end

return M
