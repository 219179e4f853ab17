-- The least memory: 4 bits as soon as a page is full, and a budget of 256 MB. What does not fit lies packed in a spill
-- file, and attention reads it from there: exact, but each token then costs as much as reading it all.
return {
    summary = "4 bits as soon as a page is full, at most 256 MB",
    parameters = {
        { name = "memory", default = 256e6, doc = "bytes of memory for pages, such as '2G'" },
    },
    bits = 4,
    hot_tokens = 0,
    window = "disk",
    spill = os.getenv("TMPDIR") or "/var/tmp",
}
