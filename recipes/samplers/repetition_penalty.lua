-- Repetition penalty: what stands among the last tokens becomes less likely, once, however often it stands there.
return {
    summary = "makes the last tokens less likely",
    source = "Keskar et al., CTRL (arXiv:1909.05858), over the last tokens",
    parameters = {
        { name = "penalty", type = "number", min = 0.1, required = true,
            doc = "divides positive logits and multiplies negative ones; 1 is off, below 1 rewards" },
        { name = "last", type = "integer", min = 0, default = 64, doc = "how many tokens to look back" },
    },
    apply = function(candidates, p, context)
        local tokens, seen = context.tokens, {}
        for i = math.max(1, #tokens - p.last + 1), #tokens do
            local id = tokens[i]
            if not seen[id] then
                local logit = candidates:logit(id)
                candidates:set(id, logit > 0 and logit / p.penalty or logit * p.penalty)
                seen[id] = true
            end
        end
    end,
}
