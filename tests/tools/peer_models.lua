-- Makes tests/golden/peer.json: the logits that llama.cpp gives for the models of tests/helpers/peer_models.lua.
--
--   git clone https://github.com/ggml-org/llama.cpp LLAMA       (outside the repository; 3f545becc was used)
--   cmake -S LLAMA -B BUILD -DCMAKE_BUILD_TYPE=Release && cmake --build BUILD --target llama
--   gcc ...                                                     (see tests/tools/peer_logits.c)
--   moonloom tests/tools/peer_models.lua PEER_LOGITS > tests/golden/peer.json
--
-- The peer loads f32 weights, keeps f32 keys and values, and attends without its flash attention: what is left between
-- its numbers and ours is rounding, about 1e-5.
package.path = MOONLOOM_HOME .. "/tests/?.lua;" .. package.path
local folder = require "helpers.folder"
local peer_models = require "helpers.peer_models"
local random_model = require "helpers.random_model"

local lines = {}
for _, case in ipairs(peer_models.list) do
    local path = random_model.write(folder.path("peer.gguf"), case.peer or case[2])
    local pipe = assert(io.popen(("'%s' %s %g %s"):format(arg[1], path, case.ext_factor or -1,
        table.concat(peer_models.ids(), " "))))
    local logits = pipe:read("*l")
    pipe:close()
    lines[#lines + 1] = ("%q: %s"):format(case[1], assert(logits, case[1] .. ": the peer gave nothing"))
end
folder.remove()
print("{\n" .. table.concat(lines, ",\n") .. "\n}")
