-- Elements first .. last of a list, then those of `more`, if given.
return function(list, first, last, more)
    local part = {}
    for i = first, last do part[#part + 1] = list[i] end
    for _, item in ipairs(more or {}) do part[#part + 1] = item end
    return part
end
