-- Top-p, or nucleus sampling: only the best tokens that together have probability p. They are many where the model is
-- unsure, and few where it is not.
return {
    summary = "only the best that together have probability p",
    source = "Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv:1904.09751)",
    parameters = {
        { name = "p", type = "number", min = 0, max = 1, required = true, doc = "the share to reach; 1 is off" },
    },
    apply = function(candidates, p)
        candidates:keep(candidates:rank_of_mass(p.p))
    end,
    best = function(p) return p.p == 0 end,
}
