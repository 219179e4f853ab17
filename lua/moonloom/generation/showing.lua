--- How a generation is shown: as it comes, in one line, as JSON, as text.
local C = require("moonloom._core.ffi").C
local terminal = require "moonloom._core.terminal"

local M = {}

--- Gives the text that is new and certain to `write(text, token)`: what may yet be a stop string waits until `all`.
function M:stream(write, all)
    local pieces, ends, hold = self._pieces, self.cut or self._bytes, 0
    for _, stop in ipairs(not all and self.parameters.stop or {}) do hold = math.max(hold, #tostring(stop) - 1) end
    local safe, written = all and ends or ends - hold, self._written or 0
    local i, start = #pieces + 1, self._bytes -- the first piece that is not written, and where it begins
    while i > 1 and start > written do
        i = i - 1
        start = start - #pieces[i]
    end
    while pieces[i] and start < ends do
        local stop = start + #pieces[i]
        if stop > safe and not all then break end
        if stop > start then write(pieces[i]:sub(math.max(written - start, 0) + 1, ends - start), self.tokens[i]) end
        i, start, written = i + 1, stop, math.min(stop, ends)
        self._written = written -- so that nothing is written twice, wherever write() is stopped
    end
end

local function rate(count, ms)
    return count > 0 and ms > 0 and count / ms * 1000 or nil
end

--- Generated tokens a second, samplers and all: from step to step, so without those of the first.
function M:speed()
    return rate(self.times.steps, self.times.decode_ms)
end

--- One line: how many tokens, how fast, why it stopped.
function M:summary()
    local count = #self.tokens
    local parts = { ("%d token%s (%s)"):format(count, count == 1 and "" or "s", tostring(self.stop or "not begun")) }
    local speed, prefill = self:speed(), rate(self.times.fed, self.times.prefill_ms)
    if speed then parts[#parts + 1] = ("%.1f t/s"):format(speed) end
    if rawget(self, "ttft_ms") then parts[#parts + 1] = ("first after %.0f ms"):format(self.ttft_ms) end
    if prefill then parts[#parts + 1] = ("prompt of %d at %.0f t/s"):format(#self.prompt_ids, prefill) end
    return table.concat(parts, ", ")
end

-- Log-probabilities of the tokens, if they were worked out.
local function logprobs(self)
    if self._best_rows then return nil end
    local list = {}
    for i, token in ipairs(self.tokens) do list[i] = token.logprob end
    return list
end

--- The JSON value of a generation: logprobs only where they were worked out with the tokens, the bandwidth only if it
--- was measured (self.read_bandwidth). `problem` is the sentence of an error that stopped it.
function M:json()
    local speed, bytes = self:speed(), self.model:bytes_per_token()
    local bandwidth = rawget(self, "read_bandwidth") or 0 / 0
    return {
        text = self.text, prompt_ids = self.prompt_ids, ids = self.ids, stop = self.stop, seed = self.seed,
        problem = rawget(self, "problem"), logprobs = logprobs(self),
        load_ms = self.model.load_ms, ttft_ms = rawget(self, "ttft_ms") or 0 / 0,
        tokens_per_second = speed or 0 / 0,
        prefill_tokens_per_second = rate(self.times.fed, self.times.prefill_ms) or 0 / 0,
        peak_bytes = rawget(self, "peak_bytes") or tonumber(C.ml_memory_peak()),
        weight_bytes_per_token = bytes, read_bandwidth = bandwidth,
        -- passes for the best token alone read less: nobody counts how much
        bandwidth_share = not self._best_rows and speed and bytes * speed / bandwidth or 0 / 0,
    }
end

--- Prompt and text; on a terminal each token is tinted by its probability.
function M:__tostring()
    if not terminal.has_colour(1) then return self.prompt .. self.text end
    local parts, left = { terminal.dim(self.prompt) }, #self.text
    for i, piece in ipairs(self._pieces) do
        parts[#parts + 1] = terminal.tint(piece:sub(1, left), self.tokens[i].p)
        left = math.max(0, left - #piece)
    end
    return table.concat(parts)
end

return M
