-- Top-k: only the k best tokens, however likely the others are.
return {
    summary = "only the k best",
    source = "Fan, Lewis and Dauphin, Hierarchical Neural Story Generation (arXiv:1805.04833)",
    parameters = {
        { name = "k", type = "integer", min = 0, required = true, doc = "how many; 0 is off" },
    },
    apply = function(candidates, p)
        if p.k > 0 then candidates:keep(p.k) end
    end,
    best = function(p) return p.k == 1 end,
}
