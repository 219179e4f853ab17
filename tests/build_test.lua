-- build.sh and .ci/run, in folders of their own with made-up tools: nothing here installs or compiles.
local prompts = require "helpers.prompt"

local REAL = { "bash", "basename", "cat", "dirname", "env", "find", "grep", "mkdir", "mktemp", "pwd", "rm", "rmdir",
    "tee", "touch", "sed", "sort" }

-- What stands in for the machine: each notes its call in calls.txt.
local TOOLS = {
    ["dpkg-query"] = [[
for package in "${@:3}"; do
  case " $ABSENT " in *" $package "*) ;; *) echo " $package install ok installed" ;; esac
done
[ -z "$ABSENT" ] ]],
    id = "echo ${USER_ID:-0}",
    ["apt-get"] = 'echo "apt-get $*" >>"$ROOT/calls.txt"\n'
        .. '[ -z "$APT_FAILS" ] || { echo "E: no network"; exit 100; }',
    cmake = [[
echo "cmake $*" >>"$ROOT/calls.txt"
if [ "$1" = --install ]; then
  mkdir -p "$4/bin" "$4/share/moonloom/lua"
  touch "$4/bin/moonloom" "$4/share/moonloom/lua/$PART.lua"
  printf '%s\n%s' "$4/bin/moonloom" "$4/share/moonloom/lua/$PART.lua" >build/install_manifest.txt
else
  touch "$4/build.ninja"
fi]],
    ninja = [[
echo "ninja $*" >>"$ROOT/calls.txt"
echo "[0/2] Re-checking globbed directories..."
[ -z "$NINJA_FAILS" ] || { echo "[1/2] Building C object x.o"; echo "x.c:1: error: broken"; exit 1; }
if [ -f "$2/built" ]; then echo "ninja: no work to do."; exit; fi
touch "$2/built"
echo "[1/2] Building C object x.o"
echo "[2/2] Linking C executable moonloom"
printf '#!/bin/sh\necho "moonloom $*"; [ -z "$TSAN_OPTIONS" ] || echo "$TSAN_OPTIONS" >&2' >"$2/moonloom"
/bin/chmod +x "$2/moonloom"]],
}

-- A folder with build.sh and the tools: { folder, run(words [, variables]) -> out, err, code; calls() }.
local function yard()
    local folder = prompts.shell("mktemp -d")
    local shell = prompts.shell
    shell(("mkdir -p %s/bin %s/moon/tests %s/moon/core && cp %s/build.sh %s/moon/"):format(folder, folder, folder,
        MOONLOOM_HOME, folder))
    for _, name in ipairs(REAL) do shell(("ln -s $(command -v %s) %s/bin/"):format(name, folder)) end
    local function tool(name, text)
        local file = assert(io.open(folder .. "/bin/" .. name, "w"))
        file:write("#!", folder, "/bin/bash\n", text, "\n")
        file:close()
        shell(("chmod +x %s/bin/%s"):format(folder, name))
    end
    for name, text in pairs(TOOLS) do tool(name, text) end
    local one = { folder = folder, tool = tool }
    function one.run(words, variables)
        local code = os.execute(("cd %s && env -i PATH=%s/bin ROOT=%s %s moon/build.sh %s >%s/out 2>%s/err"):format(
            folder, folder, folder, variables or "", words, folder, folder))
        return shell("cat " .. folder .. "/out"), shell("cat " .. folder .. "/err"), math.floor(code / 256)
    end
    function one.calls()
        local text = shell(("cat %s/calls.txt 2>/dev/null; rm -f %s/calls.txt"):format(folder, folder))
        return text
    end
    return one
end

describe("build.sh", function()
    local one
    before_each(function() one = yard() end)
    after_each(function() os.execute("rm -rf " .. one.folder) end)

    it("says that it builds, once", function()
        local out, err, code = one.run("build")
        assert.same({ "", "building (about a minute; log in build/build.log)", 0 }, { out, err, code })
        assert.equal("cmake -S core -B build -G Ninja\nninja -C build", one.calls())
        assert.same({ "", "", 0 }, { one.run("") })
        assert.equal("ninja -C build", one.calls())
        os.remove(one.folder .. "/moon/build/built")
        assert.same({ "", "building (log in build/build.log)", 0 }, { one.run("") })
        out, err, code = one.run("run a 'b c'")
        assert.same({ "moonloom a b c", "", 0 }, { out, err, code })
    end)

    it("tells what a compiler said that failed", function()
        local _, err, code = one.run("build", "NINJA_FAILS=1")
        assert.equal(1, code)
        assert.truthy(err:find("x.c:1: error: broken", 1, true), err)
    end)

    it("counts the steps on a terminal", function()
        if not prompts.available then return pending("no pseudo terminals here: is /dev/pts mounted?") end
        local terminal = require("helpers.pty").start({ one.folder .. "/bin/bash", one.folder .. "/moon/build.sh" },
            { PATH = one.folder .. "/bin", ROOT = one.folder })
        terminal:expect("about a minute")
        assert.equal(0, terminal:wait())
        assert.truthy(terminal.raw:find("\r  1/2\27[K\r  2/2\27[K\r\27[K", 1, true), terminal.raw)
        terminal:close()
    end)

    it("installs what a verb needs, and nothing else", function()
        local absent = "ABSENT='lua-busted lua-check clang'"
        assert.equal(0, select(3, one.run("run", absent)))
        assert.falsy(one.calls():find("apt-get", 1, true))
        local _, err, code = one.run("test", absent)
        assert.equal(0, code)
        assert.equal("installing: lua-busted", err)
        assert.truthy(one.calls():find("apt-get install -y -qq --no-install-recommends lua-busted\n", 1, true))
        one.run("lint", absent) -- there is no lint.sh here
        assert.truthy(one.calls():find("apt-get install -y -qq --no-install-recommends lua-check clang", 1, true))
    end)

    it("goes on without what lint only wishes for", function()
        local _, err = one.run("lint", "APT_FAILS=1 ABSENT=gcc-aarch64-linux-gnu")
        assert.truthy(err:find("going on without gcc-aarch64-linux-gnu", 1, true), err)
        assert.truthy(err:find("tests/lint.sh", 1, true), err)
    end)

    it("stops where installing fails, with what was said", function()
        local _, err, code = one.run("test", "APT_FAILS=1 ABSENT=lua-busted")
        assert.equal(1, code)
        assert.equal("installing: lua-busted\nE: no network\ninstalling failed; the lines above say why", err)
    end)

    it("names the one package that is missing where it may not install", function()
        local absent = "USER_ID=1000 ABSENT='lua-check libzstd-dev'"
        local _, err, code = one.run("run", absent)
        assert.same({ 1, "not installed: libzstd-dev\nas root: apt install libzstd-dev" }, { code, err })
        assert.equal(0, select(3, one.run("run", "USER_ID=1000 ABSENT=lua-check")))
        one.tool("sudo", '"$@"')
        assert.equal(0, select(3, one.run("build", absent)))
        assert.truthy(one.calls():find("apt-get install -y -qq --no-install-recommends libzstd-dev\n", 1, true))
    end)

    it("takes a prefix either way, relative to where it is called, and removes what it installed", function()
        for _, words in ipairs { "--prefix=place", "--prefix place", "--prefix " .. one.folder .. "/place" } do
            local place = one.folder .. "/place"
            local _, err, code = one.run("install " .. words, "PART=old")
            assert.equal(0, code, err)
            assert.truthy(err:find("installed below " .. place, 1, true), err)
            os.execute("touch " .. place .. "/bin/other")
            one.run("install " .. words, "PART=new")
            assert.equal("new.lua", prompts.shell("ls " .. place .. "/share/moonloom/lua")) -- the old one is gone
            _, err, code = one.run("uninstall " .. words)
            assert.same({ 0, "removed from " .. place }, { code, err })
            assert.equal("bin\nother\nshare", prompts.shell(("cd %s && find . -mindepth 1 -printf '%%f\\n' | sort")
                :format(place)))
            _, err, code = one.run("uninstall " .. words)
            assert.equal(1, code)
            assert.truthy(err:find("moonloom is not installed below " .. place, 1, true), err)
        end
    end)

    it("removes nothing outside of the prefix", function()
        one.run("install --prefix place", "PART=a")
        os.execute(("cd %s && touch keep1 keep2 && printf '%%s\\n' %s/keep1 %s/place/../keep2 "
            .. ">>place/share/moonloom/installed.txt"):format(one.folder, one.folder, one.folder))
        assert.equal(0, select(3, one.run("uninstall --prefix place")))
        assert.equal("keep1\nkeep2", prompts.shell(("cd %s && ls keep*"):format(one.folder)))
    end)

    it("refuses words that it does not know, with a sentence", function()
        for words, sentence in pairs {
            ["tset"] = "there is no verb 'tset'",
            ["build now"] = "build takes no arguments, not 'now'",
            ["debug -x"] = "debug takes no arguments, not '-x'",
            ["lint all"] = "lint takes no arguments, not 'all'",
            ["clean everything"] = "clean takes no arguments, not 'everything'",
            ["help me"] = "help takes no arguments, not 'me'",
            ["test a b"] = "test takes one pattern, not also 'b'",
            ["asan --all"] = "asan takes a pattern of file names, not '--all'",
            ["tsan a b"] = "tsan takes one pattern, not also 'b'",
            ["install foo"] = "install takes --prefix FOLDER, not 'foo'",
            ["install --prefix"] = "install --prefix needs a folder",
            ["install --prefix="] = "install --prefix needs a folder",
            ["install --prefix ''"] = "install --prefix needs a folder",
            ["uninstall --all"] = "uninstall takes --prefix FOLDER, not '--all'",
        } do
            local out, err, code = one.run(words)
            assert.same({ "", "build.sh: " .. sentence .. "; ./build.sh help lists the verbs", 2 }, { out, err, code })
        end
        assert.equal("", one.calls())
    end)

    it("gives the sanitizers a build and options of their own", function()
        local out, err, code = one.run("tsan kv")
        assert.same({ 0, "moonloom tests/run.lua kv" }, { code, out })
        assert.truthy(err:find("suppressions=" .. one.folder .. "/moon/tests/tsan.supp", 1, true), err)
        assert.truthy(one.calls():find("%-B build/tsan %-G Ninja .*%-DMOONLOOM_SANITIZE=thread\n"))
        assert.equal(0, select(3, one.run("asan")))
        assert.truthy(one.calls():find("%-B build/asan %-G Ninja .*%-DMOONLOOM_SANITIZE=address,undefined\n"))
    end)
end)

describe(".ci/run", function()
    -- Runs it beside a build.sh whose parts print and end as they are told: { lint = { code, last line }, ... }.
    local function ci(parts)
        local folder = prompts.shell("mktemp -d")
        prompts.shell(("mkdir %s/.ci && cp %s/.ci/run %s/.ci/"):format(folder, MOONLOOM_HOME, folder))
        local file = assert(io.open(folder .. "/build.sh", "w"))
        file:write("#!/bin/sh\necho \"$1\" >>calls\ncase $1 in\n")
        for verb, part in pairs(parts) do
            file:write(("%s) echo '%s'; exit %d ;;\n"):format(verb, part[2], part[1]))
        end
        file:write("esac\n")
        file:close()
        local code = os.execute(("chmod +x %s/build.sh && cd / && %s/.ci/run >%s/out"):format(folder, folder, folder))
        local out, calls = prompts.shell("cat " .. folder .. "/out"), prompts.shell("cat " .. folder .. "/calls")
        os.execute("rm -rf " .. folder)
        assert.equal("lint\nasan\ntest", calls)
        return out:match("[^\n]*$"), math.floor(code / 256), out
    end

    it("closes with what the tests say, where all is well", function()
        local last, code, out = ci { lint = { 0, "clean" }, asan = { 0, "400 passed, 0 failed" },
            test = { 0, "412 passed, 0 failed" } }
        assert.same({ "412 passed, 0 failed", 0 }, { last, code })
        for _, part in ipairs { "lint", "AddressSanitizer", "tests" } do
            assert.truthy(out:find(part .. " +well, %d+ s"), out)
        end
    end)

    it("fails with each of its parts, and its closing line tells", function()
        local lint, asan, test = { 0, "clean" }, { 0, "400 passed, 0 failed" }, { 0, "412 passed, 0 failed" }
        for _, case in ipairs {
            { { 1, "NOT CLEAN" }, asan, test, "412 passed, 1 failed" },
            { lint, { 2, "398 passed, 2 failed" }, test, "412 passed, 2 failed" },
            { lint, { 1, "a compiler error" }, test, "412 passed, 1 failed" },
            { lint, { 1, "400 passed, 0 failed" }, test, "412 passed, 1 failed" },
            { lint, asan, { 1, "409 passed, 3 failed" }, "409 passed, 3 failed" },
            { { 1, "NOT CLEAN" }, asan, { 139, "crashed" }, "0 passed, 2 failed" },
        } do
            local last, code, out = ci { lint = case[1], asan = case[2], test = case[3] }
            assert.same({ case[4], 1 }, { last, code })
            assert.truthy(out:find("FAILED, %d+ s"), out)
        end
    end)
end)
