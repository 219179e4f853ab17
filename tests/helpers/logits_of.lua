-- The logits after the last token of a session, as a list that stays when the session goes on.
return function(session)
    local list, logits = {}, session:logits()
    for i = 0, #logits - 1 do list[i + 1] = logits[i] end
    return list
end
