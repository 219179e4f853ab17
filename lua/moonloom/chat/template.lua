--- Chat templates of models without harmony: known by the special tokens they use, else plain lines of text.
local M = {}

-- How one message begins and ends, how the model's turn begins, and what tells the kind from the file's template.
local kinds = {
    {
        name = "chatml", mark = "<|im_start|>",
        before = function(role) return "<|im_start|>" .. role .. "\n" end, after = "<|im_end|>\n",
    },
    {
        name = "llama3", mark = "<|start_header_id|>",
        before = function(role) return "<|start_header_id|>" .. role .. "<|end_header_id|>\n\n" end,
        after = "<|eot_id|>",
    },
    {
        name = "zephyr", mark = "<|user|>",
        before = function(role) return "<|" .. role .. "|>\n" end, after = "</s>\n",
    },
}

local plain = {
    name = "plain", after = "\n", stop = { "\nUser:" },
    before = function(role) return ({ user = "User: ", assistant = "Assistant: " })[role] or "" end,
    turn = "Assistant:",
}

--- The kind of template for a model.
function M.of(model)
    local text = model.weights:meta("tokenizer.chat_template") or ""
    for _, kind in ipairs(kinds) do
        if type(text) == "string" and text:find(kind.mark, 1, true) then return kind end
    end
    return plain
end

--- Token ids of messages { role, content }, then the start of the model's turn. Special tokens are only parsed in the
--- frame. Also the position of the last user message.
function M.render(model, kind, messages)
    local ids, branch = model:tokenize("", { bos = true }), 0
    local function add(text, special)
        for _, id in ipairs(model:tokenize(text, { special = special })) do ids[#ids + 1] = id end
    end
    for _, message in ipairs(messages) do
        if message.role == "user" then branch = #ids end
        local role = message.role == "developer" and "system" or message.role
        if kind == plain then -- one text: a word may join what stands before it
            add(kind.before(role) .. message.content .. kind.after, false)
        else
            add(kind.before(role), true)
            add(message.content, false)
            add(kind.after, true)
        end
    end
    add(kind.turn or kind.before("assistant"), true)
    return ids, branch
end

return M
