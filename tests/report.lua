-- A busted output handler: a line per test file, every failure in full, and the closing line that CI reads.
return function()
    local busted = require "busted"
    local handler = require "busted.outputHandlers.base"()

    local function say(...)
        io.stdout:write(table.concat { ... }, "\n")
        io.stdout:flush()
    end

    local shown = { failed = 0, pending = 0 }
    local function show_new()
        for _, list in ipairs { handler.failures, handler.errors } do
            for i = (shown[list] or 0) + 1, #list do
                local failure = list[i]
                local trace = failure.trace or failure.element.trace or {}
                say("FAILED ", failure.name or "?", " (", tostring(trace.short_src), ":",
                    tostring(trace.currentline), ")")
                say("  ", tostring(type(failure.message) == "string" and failure.message
                    or require "pl.pretty".write(failure.message)):gsub("\n", "\n  "))
            end
            shown[list] = #list
        end
        for i = shown.pending + 1, #handler.pendings do
            local pending = handler.pendings[i]
            say("skipped ", pending.name or "?", ": ", (tostring(pending.message or ""):gsub("^[^ ]+:%d+: ", "")))
        end
        shown.pending = #handler.pendings
    end

    local clock = require "system".gettime
    local began
    busted.subscribe({ "file", "start" }, function()
        began = clock()
    end)
    busted.subscribe({ "file", "end" }, function(file)
        show_new()
        say(("%-32s %6.1f s"):format(file.name:match("[^/]+$") or file.name, clock() - began))
        return nil, true
    end)
    busted.subscribe({ "suite", "end" }, function()
        show_new()
        local failed = #handler.failures + #handler.errors
        if #handler.pendings > 0 then say(("%d skipped"):format(#handler.pendings)) end
        say(("%d passed, %d failed"):format(handler.successesCount, failed))
        return nil, true
    end)
    return handler
end
