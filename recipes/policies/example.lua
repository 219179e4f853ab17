-- A policy to learn from: it changes as the session grows. Try it, with this file open beside:
--
--     session = load("data/tiny-gpt-oss.gguf"):session{ kv = "example" }
--     session:feed(("Once upon a time there was a little girl. "):rep(60))
--     session:policy()          -- the fields in use now
--     session:levels()          -- what lies where
--
-- Save a change while a model talks: the next token uses it. Copy the file to use it under another name
-- (policies/mine.lua in ~/.config/moonloom/recipes is then `--kv mine`), or name a file: `--kv ./mine.lua`.

-- Bits by layer. Layers of gpt-oss take turns: window layers (0, 2, ...) see the last 128 tokens only, the others see
-- everything, so those hold nearly all of the memory that matters. The last layer is kept finer here.
local by_layer = { default = 4 }

return {
    summary = "plain at first, then 8 bits, then 4: an example with comments",

    -- Until something below says otherwise, all is plain.
    bits = 16,

    -- The newest tokens stay plain. Only full pages of 64 tokens are ever quantised.
    hot_tokens = 128,

    -- So do the first tokens: models put much attention there.
    first_tokens = 64,

    -- Called after every pass (in decoding: between two tokens). `now` has position (tokens in the session), bytes (of
    -- the cache) and the sizes of the model. What it returns replaces the fields above.
    at = function(now)
        if now.position < 256 then return nil end

        -- Up to 512 tokens: 8 bits.
        if now.position < 512 then return { bits = 8 } end

        -- Then values in 4 bits, and keys too but for the last layer. The pages that have 8 bits by now get 4, too.
        by_layer[now.layers - 1] = 8
        return { key_bits = by_layer, value_bits = 4 }
    end,
}
