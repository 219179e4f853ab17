local M = {}
function M.turn() end
function M.settles() end
function M.hold() end
function M.inside() end
return M
