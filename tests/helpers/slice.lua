-- Elements first .. last of a list.
return function(list, first, last)
    local part = {}
    for i = first, last do part[#part + 1] = list[i] end
    return part
end
