-- All plain: nothing is ever converted, and results are those of a session without a policy. At great depths 4 bits
-- decode faster, because attention reads less: see max_context.
return {
    summary = "all plain",
    bits = 16,
    window = "keep", -- what left the window of a layer stays where it is, too
}
