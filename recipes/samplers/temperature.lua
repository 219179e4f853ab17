-- Temperature: divides the logits by t. Below 1 the best tokens get more of the probability, above 1 all become more
-- alike.
return {
    summary = "below 1 bolder towards the best, above 1 more even",
    source = "Ackley, Hinton and Sejnowski, A Learning Algorithm for Boltzmann Machines (1985)",
    parameters = {
        { name = "t", type = "number", min = 0, required = true, doc = "what logits are divided by; 0 is greedy" },
    },
    apply = function(candidates, p)
        if p.t <= 0 then return candidates:keep(1) end
        candidates:scale(1 / p.t)
    end,
    best = function(p) return p.t <= 0 end,
}
