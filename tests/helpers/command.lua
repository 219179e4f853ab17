-- The command line, for tests: run(words, input) gives standard output, standard error and the exit code. `words` is a
-- list, or a string of words that need no quotes; `variables` are added to the environment.
local COMMAND = (os.getenv("MOONLOOM_BUILD") or MOONLOOM_HOME .. "/build") .. "/moonloom"

local function quote(word)
    return "'" .. word:gsub("'", "'\\''") .. "'"
end

return function(words, input, variables)
    local quoted, environment = {}, {}
    for name, value in pairs(variables or {}) do environment[#environment + 1] = name .. "=" .. quote(value) .. " " end
    if type(words) == "table" then
        for i, word in ipairs(words) do quoted[i] = quote(word) end
        words = table.concat(quoted, " ")
    end
    local out, err = os.tmpname(), os.tmpname()
    local code = os.execute(("printf %%s %s | %s%s %s >%s 2>%s"):format(quote(input or ""), table.concat(environment),
        COMMAND, words, out, err))
    local texts = {}
    for i, path in ipairs { out, err } do
        local file = assert(io.open(path))
        texts[i] = file:read("*a")
        file:close()
        os.remove(path)
    end
    return texts[1], texts[2], math.floor(code / 256)
end
