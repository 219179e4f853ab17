-- Min-p: only tokens with at least p times the probability of the best one. In logits that is a distance from the best,
-- so no probability is worked out.
return {
    summary = "only those with at least p times the probability of the best",
    source = "Nguyen et al., Turning Up the Heat: Min-p Sampling (arXiv:2407.01082)",
    parameters = {
        { name = "p", type = "number", min = 0, max = 1, required = true, doc = "share of the best's; 0 is off" },
    },
    apply = function(candidates, p)
        local _, best = candidates:best()
        if p.p > 0 then candidates:keep_above(best + math.log(p.p)) end
    end,
}
