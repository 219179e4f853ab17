-- How values look at the prompt.
local show = require("repl.pretty").show
local style = require "repl.style"

describe("pretty printing", function()
    it("quotes strings, keeps characters, escapes the rest", function()
        assert.equal([["a\n\"b\"\\"]], show('a\n"b"\\'))
        assert.equal('"grün 漢字 🙂"', show("grün 漢字 🙂"))
        assert.equal([["\xff\x00\27[31m\xe6\xbc"]], show("\255\0\27[31m\230\188"))
        for _, text in ipairs { "\1\2\200\0x", "a\"b\\c\n\t\r", "漢\255字" } do
            assert.equal(text, loadstring("return " .. show(text))())
        end
    end)

    it("writes numbers so that they read back", function()
        for _, value in ipairs { 0, -1, 0.1, 1 / 3, 2 ^ 53, 1e300, 123456789012 } do
            assert.equal(value, tonumber(show(value)))
        end
        assert.equal("nan", show(0 / 0))
        assert.equal("0.1", show(0.1))
        assert.equal("-inf", show(-1 / 0))
    end)

    it("sorts keys and quotes those that are no names", function()
        assert.equal([[{ 1, 2, a = 1, b = 2, ["c d"] = 3, ["end"] = 4, [true] = 5 }]],
            show { 1, 2, b = 2, a = 1, ["c d"] = 3, ["end"] = 4, [true] = 5 })
        assert.equal("{}", show {})
        assert.equal("{ [2] = 2 }", show { [2] = 2 })
    end)

    it("breaks what is too wide into lines", function()
        local wide = {}
        for i = 1, 5 do wide["a_rather_long_key_" .. i] = { i, i } end
        local text = show(wide, { columns = 60 })
        for line in text:gmatch("[^\n]+") do assert.is_true(#line <= 60) end
        assert.truthy(text:find("\n  a_rather_long_key_1 = { 1, 1 },\n", 1, true))
    end)

    it("stops at cycles, depth and length", function()
        local t = { name = "t" }
        t.self = t
        assert.equal([[{ name = "t", self = <the table around it> }]], show(t))
        assert.truthy(show({ { { { { { 1 } } } } } }):find("{...}", 1, true))
        local long = {}
        for i = 1, 1000 do long[i] = i end
        assert.truthy(show(long):find("... 976 more", 1, true))
        local shared = { 1 }
        assert.equal("{ { 1 }, { 1 } }", show { shared, shared })
        local deep = {}
        for i = 1, 200 do
            deep[i] = {}
            for j = 1, 200 do deep[i][j] = { j } end
        end
        assert.is_true(#show(deep) < 100000)
    end)

    it("uses __tostring, and survives one that fails", function()
        assert.equal("I am", show(setmetatable({}, { __tostring = function() return "I am" end })))
        local two = setmetatable({}, { __tostring = function() return "one\ntwo" end })
        assert.equal("one\ntwo", show(two))
        assert.equal("{ one ... }", show { two })
        local failing = setmetatable({}, { __tostring = function() error("no", 0) end })
        assert.truthy(show(failing):find("failed: no", 1, true))
    end)

    it("does not call metamethods of tables on the way", function()
        local calls = 0
        local t = setmetatable({ 1, a = 2 }, { __index = function() calls = calls + 1 end })
        assert.equal("{ 1, a = 2 }", show(t))
        assert.equal(0, calls)
    end)

    it("shows functions with their place, cdata and coroutines", function()
        assert.truthy(show(show):find("^function repl/pretty.lua:%d+$"))
        assert.equal("function (built in)", show(print))
        assert.equal("12LL", show(12LL))
        assert.equal("coroutine, suspended", show(coroutine.create(function() end)))
    end)

    it("colours only when asked", function()
        local paint = style.painter(true)
        local text = show({ "a", 1, true, x = print }, { paint = paint })
        assert.truthy(text:find("\27[", 1, true))
        assert.equal(show { "a", 1, true, x = print }, (text:gsub("\27%[[%d;]*m", "")))
        assert.equal(#show { "a", 1, true, x = print }, style.width(text))
    end)
end)
