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

    -- What `--kv 'example(eight_from=100)'` or kv = { "example", eight_from = 100 } may change.
    parameters = {
        { name = "eight_from", type = "integer", min = 0, default = 256, doc = "position from which 8 bits do" },
        { name = "four_from", type = "integer", min = 0, default = 512, doc = "position from which 4 bits do" },
    },

    -- Until something below says otherwise, all is plain.
    bits = 16,

    -- The newest tokens stay plain. Only full pages of 64 tokens are ever quantised.
    hot_tokens = 128,

    -- So do the first tokens: models put much attention there.
    first_tokens = 64,

    -- Called after every pass (in decoding: between two tokens). `now` has position (tokens in the session), bytes (of
    -- the cache) and the sizes of the model, `p` the parameters. What it returns replaces the fields above.
    at = function(now, p)
        if now.position < p.eight_from then return nil end

        -- At first 8 bits.
        if now.position < p.four_from then return { bits = 8 } end

        -- Then values in 4 bits, and keys too but for the last layer. The pages that have 8 bits by now get 4, too.
        by_layer[now.layers - 1] = 8
        return { key_bits = by_layer, value_bits = 4 }
    end,
}
