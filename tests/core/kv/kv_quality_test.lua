-- What quantised keys and values cost on trained models: perplexity beside plain ones, on text long enough to leave the
-- window, with every full page quantised. MOONLOOM_REPORT=1 prints the figures.
local folder = require "helpers.folder"
local moonloom = require "moonloom"
local perplexity = require("moonloom.recipe.live").get("perplexity")

local SHARED = MOONLOOM_HOME .. "/../shared/models/"
local MODELS = {
    { path = SHARED .. "tiny-gpt-oss/tiny-gpt-oss-mxfp4.gguf", context = 1024 },
    { path = SHARED .. "stories260K/stories260K-f32.gguf", context = 512 },
}
local BYTES = 12000 -- of the text

local function read(path)
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read(BYTES)
    file:close()
    return text
end

describe("quantised keys and values", function()
    local text = read(SHARED .. "tiny-gpt-oss/validation.txt")

    teardown(function()
        moonloom.use(nil)
        folder.remove()
    end)

    for _, case in ipairs(MODELS) do
        local name = case.path:match("[^/]*$")
        it(("cost at most 0.1 %% with 8 bits and 1 %% with 4 on %s"):format(name), function()
            if not text or not read(case.path) then
                pending("../shared/models is absent")
                return
            end
            moonloom.use(case.path)
            local function worse(kv, unrotated)
                local args = { text = text, context = case.context, cache = "bf16", kv = kv, hot = 0,
                    unrotated = unrotated or false }
                local found = perplexity.run(args).perplexity
                case.plain = case.plain or found
                return (found / case.plain - 1) * 100
            end
            worse(nil)
            local eight, four = worse("8"), worse("4")
            assert.is_true(math.abs(eight) <= 0.1, ("8 bits: %+.3f %%"):format(eight))
            assert.is_true(four <= 1, ("4 bits: %+.3f %%"):format(four))
            if os.getenv("MOONLOOM_REPORT") then
                local figures = "%s: bf16 %.4f; 8 bits %+.4f %%, not rotated %+.4f %%; 4 bits %+.4f %%, not rotated " ..
                    "%+.4f %%; keys of 4 bits alone %+.4f %%, values %+.4f %%\n"
                io.stderr:write(figures:format(name, case.plain, eight, worse("8", true), four, worse("4", true),
                    worse("4,16"), worse("16,4")))
            end
        end)
    end
end)
