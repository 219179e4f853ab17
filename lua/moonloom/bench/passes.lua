--- The passes of a case (see cases.lua) over forks of a session: what is timed, and nothing else.
local M = {}

--- What the passes need: forks of the session `base`, which holds the depth, their next tokens (ids_of(sequence) -> a
--- list), a batch.
function M.stage(case, base, ids_of)
    local stage = { sessions = {}, ids = {}, batch = base.model:batch(case.rows * case.batch) }
    for s = 1, case.batch do
        stage.sessions[s], stage.ids[s] = base:fork(), ids_of(s)
    end
    return stage
end

--- One pass: the next tokens of each sequence, from the one at `first` on. Returns its batch.
function M.pass(case, stage, first)
    local last, batch = math.min(first + case.rows - 1, case.tokens), stage.batch:clear()
    for s, session in ipairs(stage.sessions) do
        for i = first, last do
            batch:add(session, stage.ids[s][i], (not case.last_logits or i == case.tokens) and case.want)
        end
    end
    return batch:forward()
end

--- Takes the sequences of a stage back to the depth.
function M.rewind(case, stage)
    for _, session in ipairs(stage.sessions) do session:rewind(case.depth) end
end

--- All passes once, each(batch) after each of them; then the sequences are at the depth again.
function M.all(case, stage, each)
    for first = 1, case.tokens, case.rows do
        each(M.pass(case, stage, first))
        if case.verify then M.rewind(case, stage) end
    end
    M.rewind(case, stage)
end

return M
