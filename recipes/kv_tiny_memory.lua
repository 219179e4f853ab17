-- The least memory: 4 bits as soon as a page is full.
return {
    summary = "4 bits as soon as a page is full",
    bits = 4,
    hot_tokens = 0,
}
