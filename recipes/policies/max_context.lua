-- As many tokens as fit: 4 bits for all but the newest tokens, about 29 % of bf16, and 131,072 tokens of gpt-oss-20b
-- within 0.95 GB. What left the window of window layers, and what is above the budget, lies in a spill file.
return {
    summary = "4 bits behind the newest 128 tokens, at most 0.95 GB",
    parameters = {
        { name = "hot_tokens", type = "integer", min = 0, default = 128, doc = "newest tokens that stay plain" },
        { name = "memory", default = 0.95e9, doc = "bytes of memory for pages, such as '2G'" },
    },
    bits = 4,
    first_tokens = 64,
    window = "disk",
    spill = os.getenv("TMPDIR") or "/var/tmp",
}
