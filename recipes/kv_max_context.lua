-- As many tokens as fit: 4 bits for all but the newest page's worth, about a quarter of bf16.
return {
    summary = "4 bits behind the newest 128 tokens",
    bits = 4,
    hot_tokens = 128,
    first_tokens = 64,
}
