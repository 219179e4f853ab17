-- The store: sessions that end are found by later processes, by how they begin.
local folder = require "helpers.folder"
local isa_helper = require "helpers.isa"
local ml = require "moonloom._core.ffi"
local moonloom = require "moonloom"
local recipe = require "moonloom.recipe.live"
local run = require "helpers.command"
local copy = require "helpers.logits_of"
local slice = require "helpers.slice"
local C = ml.C

local MODEL = MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf"

describe("a store", function()
    setup(isa_helper.rows_alone)
    teardown(isa_helper.as_before)
    local ids, place, told, reporter, model

    setup(function()
        ids = {}
        local x = 1
        for i = 1, 1000 do
            x = x * 16807 % 2147483647
            ids[i] = x % 1000
        end
        reporter = recipe.reporter
    end)

    before_each(function()
        place = folder.path("store")
        told = {}
        recipe.reporter = function(problem) told[#told + 1] = problem end
        moonloom.store(place)
        model = moonloom.load(MODEL)
    end)

    after_each(function()
        model:close()
        moonloom.store(false)
        recipe.reporter = reporter
        folder.remove()
    end)

    local function part(from, to, more)
        return slice(ids, from, to, more)
    end

    -- As a new process would: nothing is known but what is in the folder.
    local function anew()
        model:close()
        model = moonloom.load(MODEL)
        moonloom.store(place)
    end

    -- Feeds and closes a session; the same bits as without a store. Returns how many tokens were adopted.
    local function feed(list, kind)
        local session, plain = model:session { cache = kind }, model:session { cache = kind, prefixes = false }
        session:feed(list)
        plain:feed(list)
        assert.same(list, session:tokens())
        assert.same(copy(plain), copy(session))
        session:close()
        plain:close()
        return session.adopted
    end

    local function count()
        return #moonloom.store():list()
    end

    it("gives a new process what an old one computed", function()
        assert.equal(0, feed(part(1, 300)))
        assert.equal(1, count())
        anew()
        assert.equal(299, feed(part(1, 300)))
        anew()
        assert.equal(128, feed(part(1, 128, part(500, 600))))
        anew()
        assert.equal(0, feed(part(500, 700)))
        anew()
        assert.equal(0, feed(part(1, 300), "f32"))
        anew()
        assert.equal(299, feed(part(1, 300), "f32"))
        anew()
        local session = model:session()
        session:feed(part(1, 10))
        session:feed(part(11, 300)) -- in the middle of a session, too
        assert.equal(289, session.adopted)
        session:close()
        assert.same({}, told)
        assert.truthy(tostring(moonloom.store()):find("4 sessions", 1, true))
    end)

    it("gives it to another process of the command", function()
        local code = ([[
            local ml = require "moonloom"
            local ids, x = {}, 1
            for i = 1, 300 do
                x = x * 16807 %% 2147483647
                ids[i] = x %% 1000
            end
            session = ml.current():session()
            session:feed(ids)
            io.write(session.adopted, " ", (session:logits():argmax()), "\n")
        ]]):gsub("%%%%", "%%")
        local first, err = run { "--kv-store", place, "-e", code }
        assert.equal("", err)
        local second = run { "--kv-store", place, "-e", code }
        assert.equal(first:gsub("^0 ", "299 "), second)
        assert.equal(1, count())
        local prompt = ("Once upon a time, there was a little girl named Lily. "):rep(8)
        local words = { "generate", prompt, "--temperature", "0", "--max-tokens", "80", "--kv-store", place }
        first = run(words)
        assert.equal(2, count())
        assert.equal(first, (run(words)))
        assert.equal(2, count())
    end)

    it("holds equal sessions once, and longer ones in place of what they begin with", function()
        feed(part(1, 300))
        feed(part(1, 300))
        assert.equal(1, count())
        feed(part(1, 320)) -- not worth a file
        assert.equal(1, count())
        feed(part(1, 63, { 5 }))
        assert.equal(1, count())
        feed(part(1, 400))
        assert.equal(1, count())
        assert.equal(400, moonloom.store():list()[1].tokens)
        feed(part(1, 200, part(600, 800)))
        assert.equal(2, count())
        local short = model:session()
        short:feed(part(900, 950))
        short:close()
        assert.equal(2, count())
    end)

    it("has what was collected, and what a recipe changed only up to there", function()
        local session = model:session()
        session:feed(part(1, 100))
        session = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        model:session():close()
        assert.equal(1, count())
        local batch = model:batch(100)
        session = model:session()
        session:feed(part(200, 299))
        for i = 300, 399 do batch:add(session, ids[i], i == 399) end
        batch:embed()
        batch:head():commit()
        session:close()
        assert.equal(2, count())
        anew()
        assert.equal(100, feed(part(200, 399)))
    end)

    it("removes what is damaged, tells so, and computes it again", function()
        feed(part(1, 300))
        local file = moonloom.store():list()[1].path
        local bytes = folder.read(file)
        for _, at in ipairs { 100, 1100, #bytes / 2, #bytes - 2000, #bytes - 100 } do
            at = math.floor(at)
            folder.write("store/" .. file:match("[^/]+$"), bytes:sub(1, at - 1)
                .. string.char(bit.bxor(bytes:byte(at), 1)) .. bytes:sub(at + 1))
            anew()
            assert.equal(0, feed(part(1, 300)))
            assert.equal(1, #told)
            assert.truthy(told[1]:find("damaged", 1, true) and told[1]:find("it is removed", 1, true), told[1])
            assert.equal(1, count())
            told = {}
        end
        anew()
        assert.equal(299, feed(part(1, 300)))
    end)

    it("stays within its budget: what was used least goes", function()
        feed(part(1, 300))
        local size = moonloom.store():list()[1].bytes
        os.execute("touch -d '2 hours ago' " .. place .. "/*")
        folder.write("store/0123.session.part", "what a process left that was killed")
        os.execute("touch -d '2 hours ago' " .. place .. "/*.part")
        feed(part(400, 699))
        assert.is_nil(io.open(place .. "/0123.session.part"))
        assert.equal(2, count())
        moonloom.store(place, { bytes = size * 2.5 })
        os.execute("touch -d '1 hour ago' " .. place .. "/*")
        anew()
        moonloom.store(place, { bytes = size * 2.5 })
        assert.equal(299, feed(part(1, 300))) -- used now
        feed(part(700, 999))
        assert.equal(2, count())
        anew()
        assert.equal(299, feed(part(1, 300)))
        assert.equal(0, feed(part(400, 699)))
    end)

    it("that cannot be written costs nothing but a sentence", function()
        os.execute("rm -r " .. place)
        assert.equal(0, feed(part(1, 300)))
        assert.equal(1, #told)
        assert.truthy(told[1]:find("cannot be written", 1, true), told[1])
        assert.has_error(function() moonloom.store(MODEL) end, ("the store %s is no folder"):format(MODEL))
        local _, err, code = run { "--kv-store", "/no/such/place", "-e", "1" }
        assert.equal(2, code)
        assert.truthy(err:find("the store /no/such/place cannot be made", 1, true), err)
    end)

    it("leaves alone what is none of its files", function()
        feed(part(1, 300))
        os.execute(("cd %s && mkdir abc.session abd.session abe.session.part && touch abd.session/x letter.part"
            .. " && mkfifo abf.session && ln -s nowhere aba.session && touch -d '2 hours ago' *.part"):format(place))
        local function listing()
            local pipe = io.popen("ls " .. place)
            local text = pipe:read("*a")
            pipe:close()
            return text
        end
        local before = listing()
        anew()
        assert.equal(299, feed(part(1, 300)))
        assert.equal(1, count())
        assert.same({}, told)
        assert.equal(before, listing())
    end)

    it("may hold more files than the process may open", function()
        feed(part(1, 300))
        local bytes = folder.read(moonloom.store():list()[1].path)
        for i = 1, 60 do folder.write(("store/%x.session"):format(i), bytes) end
        local command = (os.getenv("MOONLOOM_BUILD") or MOONLOOM_HOME .. "/build") .. "/moonloom"
        local pipe = io.popen(("ulimit -n 50; %s --kv-store %s -e 'print(#require(\"moonloom\").store():list())'")
            :format(command, place))
        local out = pipe:read("*a")
        pipe:close()
        assert.equal("61\n", out)
        assert.equal(61, count())
    end)

    it("keeps a file that cannot be opened now, and tells so once; of one that is gone it says nothing", function()
        feed(part(1, 300))
        local file = moonloom.store():list()[1].path
        local saved = require "moonloom.cache.saved"
        local open, reason = saved.open, "Too many open files"
        local function refused(path)
            if reason == "gone" then os.remove(path) end
            error(setmetatable({ status = tonumber(C.ML_E_IO), message = path .. ": " .. reason }, ml.Error), 0)
        end
        anew()
        saved.open = refused
        local fine, problem = pcall(function()
            assert.equal(0, count())
            assert.equal(0, count())
            assert.same({ ("store: %s: Too many open files"):format(file) }, told)
            saved.open = open
            assert.equal(299, feed(part(1, 300)))
            told, reason = {}, "gone"
            anew()
            saved.open = refused
            assert.equal(0, count())
            assert.same({}, told)
        end)
        saved.open = open
        assert(fine, problem)
    end)

    it("is not asked by sessions that want no prefixes, nor told of them", function()
        local session = model:session { prefixes = false }
        session:feed(part(1, 300))
        session:close()
        assert.equal(0, count())
    end)
end)
