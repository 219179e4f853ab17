-- As many tokens as fit: 4 bits for all but the newest tokens, about 29 % of bf16, and 131,072 tokens of gpt-oss-20b
-- within 0.95 GB. What left the window of window layers, and what is above the budget, lies in a spill file.
return {
    summary = "4 bits behind the newest 128 tokens, at most 0.95 GB",
    bits = 4,
    hot_tokens = 128,
    first_tokens = 64,
    memory = 0.95e9,
    window = "disk",
    spill = os.getenv("TMPDIR") or "/var/tmp",
}
