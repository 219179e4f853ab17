-- Greedy: the best token, always. Nothing is drawn, and a chain of this alone needs no logits but the best one.
return {
    summary = "only the best",
    parameters = {},
    apply = function(candidates)
        candidates:keep(1)
    end,
    best = function() return true end,
}
