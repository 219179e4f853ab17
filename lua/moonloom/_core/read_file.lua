--- read_file(path, what) -> all bytes of a file; raises a sentence that says `what` cannot be read ("the text"). With
--- `most` no more than so many bytes.
return function(path, what, most)
    local file, problem = io.open(path, "rb")
    if not file then error(("%s cannot be read: %s"):format(what, problem), 0) end
    local text
    text, problem = file:read(most or "*a")
    file:close()
    if problem then error(("%s cannot be read: %s: %s"):format(what, path, problem), 0) end -- a folder
    return text or ""
end
