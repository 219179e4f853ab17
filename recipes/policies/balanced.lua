-- Keys and values in 8 bits behind the newest 1024 tokens: about half the memory of bf16. The tests hold it to 0.1 % of
-- perplexity. The first page stays plain, because much attention goes to the first tokens. `kv = true` means this one.
--
-- Pages that left the window of a window layer are needed only by branches: they go to a spill file, which has no name
-- and is gone with the session. So 131,072 tokens of gpt-oss-20b stay within 1.75 GB; what is above the budget goes
-- to that file, too, and attention reads it from there, slower.
return {
    summary = "8 bits behind the newest 1024 tokens, at most 1.75 GB",
    parameters = {
        { name = "hot_tokens", type = "integer", min = 0, default = 1024, doc = "newest tokens that stay plain" },
        { name = "memory", default = 1.75e9, doc = "bytes of memory for pages, such as '2G'" },
    },
    bits = 8,
    first_tokens = 64,
    window = "disk",
    spill = os.getenv("TMPDIR") or "/var/tmp",
}
