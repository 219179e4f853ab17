-- The error of f(...), which must be one line: a sentence, no stack trace.
local assert = require "luassert"

return function(f, ...)
    local fine, problem = pcall(f, ...)
    assert.is_false(fine)
    problem = tostring(problem)
    assert.is_nil(problem:find("\n", 1, true))
    return problem
end
