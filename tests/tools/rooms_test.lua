-- The graph of core that lint holds: on made-up trees, since the real one is right.
local run = require "helpers.command"
local rooms = require "tools.rooms"

-- A small tree in which nothing is wrong.
local function tree(more)
    local texts = {
        ["moonloom.h"] = "int ml_tick(void);\nint ml_turn(void);\n",
        ["base/clock.h"] = "int ml_clock(void);\n",
        ["base/clock.c"] = '#include "base/clock.h"\n#include "moonloom.h"\nint ml_clock(void) {\n    return 1;\n}\n',
        ["text/words.c"] = '#include "base/clock.h"\nint ml_tick(void) {\n    return ml_clock();\n}\n',
        ["kv/cache.c"] = 'static const struct {\n    int a;\n} known[] = {{1}};\nint ml_turn(void) {\n'
            .. '    return known[0].a;\n}\n',
        ["model/model.c"] = "static int known(void) {\n    return ml_turn() + ml_tick();\n}\n"
            .. "int ml_model(void) {\n    return known();\n}\n",
    }
    for path, text in pairs(more or {}) do texts[path] = text end
    return texts
end

local function problems(more)
    return rooms.check(tree(more))
end

describe("the rooms of core", function()
    it("are clean where every arrow goes down, and are counted", function()
        local found, files, arrows = rooms.check(tree())
        assert.same({}, found)
        assert.same({ 4, 3 }, { files, arrows })
    end)

    it("may not form a circle: by calls, by includes, through a third file", function()
        local found = problems { ["base/clock.c"] = "int ml_clock(void) {\n    return ml_beat();\n}\n",
            ["base/beat.c"] = "int ml_beat(void) {\n    return ml_clock();\n}\n" }
        assert.same({ "a circle of 2 files (base/beat, base/clock): base/beat.c:2 names ml_clock of base/clock.c; "
            .. "base/clock.c:2 names ml_beat of base/beat.c" }, found)
        found = problems { ["base/clock.h"] = '#include "base/a.h"\n', ["base/a.h"] = '\n#include "base/b.h"\n',
            ["base/b.c"] = '#include "base/clock.h"\n', ["base/b.h"] = "" }
        assert.same({ "a circle of 3 files (base/a, base/b, base/clock): base/a.h:2 includes base/b.h; base/b.c:1 "
            .. "includes base/clock.h; base/clock.h:1 includes base/a.h" }, found)
    end)

    it("may not know what stands after them", function()
        assert.same({ "base/clock.c:1 includes kv/cache.h: base stands before kv and must not know it" },
            problems { ["base/clock.c"] = '#include "kv/cache.h"\n', ["kv/cache.h"] = "" })
        assert.same({ "kv/more.c:2 names ml_model of model/model.c: kv stands before model and must not know it" },
            problems { ["kv/more.c"] = "int ml_more(void) {\n    return ml_model();\n}\n" })
        assert.same({ "cellar/wine stands in no folder of the order " .. table.concat(rooms.ORDER, ", ") },
            problems { ["cellar/wine.c"] = "" })
    end)

    it("keep tensors, files and texts out of kv, but for tensors in its laboratory", function()
        local uses = '#include "tensor/tensor.h"\n'
        local with = { ["tensor/tensor.h"] = "", ["load/file.h"] = "" }
        with["kv/lab/warm.c"] = uses
        assert.same({}, problems(with))
        with["kv/save.c"] = uses
        assert.same({ "kv/save.c:1 includes tensor/tensor.h: kv must not know tensor; only kv/lab/ may" },
            problems(with))
        with["kv/save.c"], with["kv/lab/warm.c"] = "", '#include "load/file.h"\n'
        assert.same({ "kv/lab/warm.c:1 includes load/file.h: kv must not know load" }, problems(with))
    end)

    it("name nothing in comments, quotes, members, declarations, or where several define it", function()
        assert.same({}, problems { ["base/quiet.c"] = [[
/* ml_model() is
 * what ml_turn calls */
// #include "kv/cache.h"
int ml_model(void);
extern int ml_turn_count;
int ml_quiet(struct thing *x) {
    const char *s = "ml_model \" ml_turn", c = '"'; // ml_turn
    return x->ml_turn + x->y.ml_model + ml_twice;
}
]], ["kv/a.c"] = "int ml_twice;\n", ["kv/b.c"] = "int ml_twice;\n", ["kv/cache.h"] = "" })
    end)

    it("name things in macros and tables too", function()
        local found = problems { ["base/macro.h"] = "#define TURN(x) \\\n    ml_turn(x)\n",
            ["base/table.c"] = "static int (*const calls[])(void) = {ml_tick, 0};\nint ml_last;\n" }
        assert.same({ "base/macro.h:2 names ml_turn of kv/cache.c: base stands before kv and must not know it",
            "base/table.c:1 names ml_tick of text/words.c: base stands before text and must not know it" }, found)
        found = problems { ["model/tables.c"] = "const int ml_table[] = {1, 2};\n",
            ["kv/reader.c"] = "int ml_reader(void) {\n    return ml_table[0];\n}\n" }
        assert.equal(1, #found)
        assert.truthy(found[1]:find("kv/reader.c:2 names ml_table of model/tables.c", 1, true))
    end)

    it("count a template with those that include it, but free it of circles", function()
        local with = { ["kernels/set.c"] = "int ml_set(void) {\n    return ml_wide();\n}\n",
            ["kernels/wide.c"] = '#include "kernels/tile.c.h"\nint ml_wide(void) {\n    return 1;\n}\n',
            ["kernels/tile.c.h"] = "static int tile(void) {\n    return ml_set();\n}\n" }
        assert.same({}, problems(with))
        with["kernels/tile.c.h"] = "static int tile(void) {\n    return ml_turn();\n}\n"
        assert.same({ "kernels/tile.c.h:2 names ml_turn of kv/cache.c: kernels stands before kv and must not know it" },
            problems(with))
    end)

    it("are looked at by a command, which refuses a folder without C", function()
        local out, err, code = run({ MOONLOOM_HOME .. "/tests/tools/rooms.lua", MOONLOOM_HOME .. "/data" })
        assert.equal(1, code, err)
        assert.truthy(out:find("no C file", 1, true), out)
    end)
end)
