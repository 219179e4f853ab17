-- What one sees of a cache: the tree of its branches, its levels by layer, and the random fill that benchmarks use.
local folder = require "helpers.folder"
local json = require "moonloom.file.json"
local moonloom = require "moonloom"
local slice = require "helpers.slice"

local TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "

describe("sight of the cache:", function()
    local model, ids, layers

    setup(function()
        model = moonloom.load(MOONLOOM_HOME .. "/data/tiny-gpt-oss.gguf")
        layers = model:config().layers
        ids = model:tokenize(TEXT:rep(30))
    end)

    teardown(function()
        model:close()
        folder.remove()
    end)

    local function first(count)
        return slice(ids, 1, count)
    end

    local function close(...)
        for _, session in ipairs { ... } do session:close() end
    end

    describe("the tree", function()
        it("shows where sessions part, and what closed ones left behind", function()
            local one = model:session { kv = "fastest" } -- a cache that no other test has used
            one:feed(first(300))
            local two = one:fork(200)
            two:feed { 7, 8, 9 }
            local three = two:fork(201)
            local gone = one:fork()
            gone:feed(first(40))
            gone:close()
            local tree = two:tree():data()
            assert.same({ "bf16", "fastest", 3, 1, false }, { tree.cache, tree.policy, tree.sessions, tree.kept,
                tree.more })
            assert.equal(one:bytes() + select(2, one:bytes()), tree.bytes)
            local root = tree.branches[1]
            assert.equal(1, #tree.branches)
            assert.same({ 0, 200, false, {} }, { root.first, root.last, root.kept, root.sessions })
            assert.same({ 2, 200, 300, 200, 201 }, { #root.branches, root.branches[1].first, root.branches[1].last,
                root.branches[2].first, root.branches[2].last })
            assert.same({ { id = one.sequence, this = false } }, root.branches[1].sessions)
            assert.same({ { id = three.sequence, this = false } }, root.branches[2].sessions)
            assert.same({ { id = two.sequence, this = true } }, root.branches[2].branches[1].sessions)
            local kept = root.branches[1].branches[1]
            assert.same({ 300, 340, true }, { kept.first, kept.last, kept.kept })
            assert.equal(model:detokenize { 7, 8, 9 }, root.branches[2].text .. root.branches[2].branches[1].text)
            assert.truthy(root.text:find("^Once upon a time.* %.%.%. "))
            assert.is_true(#root.text < 70)
            assert.equal(0, two:tree { kept = 0 }:data().kept)
            assert.is_true(two:tree { kept = 0 }:data().more)
            close(one, two, three)
        end)

        it("is drawn in plain text, and is a JSON value", function()
            local one = model:session { prefixes = false }
            one:feed(first(70))
            local two, empty = one:fork(64), one:fork(0)
            two:feed("\n\27[31m")
            local text = tostring(one:tree())
            assert.truthy(text:find("3 sessions, 0 kept branches", 1, true), text)
            assert.truthy(text:find("\n├─ 64..70  ", 1, true), text)
            assert.truthy(text:find("\n└─ 64..", 1, true), text)
            assert.truthy(text:find(("● session %d (this one)"):format(one.sequence), 1, true), text)
            assert.truthy(text:find("(empty)  ● session", 1, true), text)
            assert.is_nil(text:find("\27", 1, true))
            assert.equal(70, json.decode(json.encode(one:tree():json())).branches[1].branches[1].last)
            close(one, two, empty)
            assert.has_error(function() one:tree() end)
        end)

        it("cuts texts between characters", function()
            local one = model:session { prefixes = false }
            one:feed(("é€😀"):rep(80))
            local text = one:tree():data().branches[1].text
            assert.equal(text, json.utf8(text))
            one:close()
        end)
    end)

    describe("the levels", function()
        it("add up, by layer and in all", function()
            local session = model:session { kv = { hot_tokens = 64, first_tokens = 64, bits = 4, window = "keep" } }
            session:feed(first(500)):step(5)
            local found = session:levels():data()
            assert.equal(501, found.tokens)
            assert.equal((session:bytes()), found.bytes)
            assert.equal(layers, #found.layers)
            local warm = 0
            for l, row in ipairs(found.layers) do
                assert.equal(l - 1, row.layer)
                assert.equal((l - 1) % 2 == 0 and 128 or nil, row.window)
                assert.same({ hot = 501 - 5 * 64, warm = 5 * 64, cold = 0, disk = 0 }, row.tokens)
                assert.equal(8 * session:page_bytes(0, true), row.plain_bytes)
                assert.equal(3 * session:page_bytes(0, true) + 5 * session:page_bytes(0),
                    row.hot.bytes + row.warm.bytes)
                assert.is_true(row.sample.key_error.bits8 < row.sample.key_error.bits4)
                warm = warm + row.warm.hits
            end
            assert.equal(warm, found.levels.warm.hits)
            assert.equal(5 * layers, found.levels.warm.demoted)
            local shares = 0
            for _, name in ipairs { "hot", "warm", "cold", "disk" } do
                shares = shares + found.levels[name].hit_share
            end
            assert.is_true(math.abs(shares - 1) < 1e-9)
            session:close()
        end)

        it("tell cold and disk pages apart", function()
            local kv = { hot_tokens = 64, bits = 8, window = "disk", spill = folder.path("") }
            local session = model:session { kv = kv }
            session:feed(first(640)):step(5)
            local found = session:levels():data()
            assert.equal((session:bytes()), found.bytes)
            assert.is_true(found.disk_bytes > 0)
            assert.same({ 0, 0 }, { found.layers[2].disk.pages, found.layers[4].disk.pages })
            assert.is_true(found.layers[1].tokens.disk >= 256 and found.layers[3].disk.demoted > 3)
            local text = tostring(session:levels())
            assert.truthy(text:find("MB on disk", 1, true) and text:find("░▓", 1, true))
            session:policy { hot_tokens = 64, bits = 8, window = "cold" }
            session:feed(first(200))
            assert.is_true(session:levels():data().layers[1].tokens.cold > 0)
            session:close()
        end)

        it("are drawn with a bar for each layer", function()
            local session = model:session { kv = { hot_tokens = 0, bits = 8, window = "keep" } }
            local text = tostring(session:levels())
            assert.truthy(text:find("0 tokens", 1, true))
            session:feed(first(640))
            text = tostring(session:levels())
            assert.equal(layers, select(2, text:gsub("\n +%d+ +%w+  " .. ("▓"):rep(32), "")))
            session:feed(first(60))
            text = tostring(session:levels())
            assert.equal(layers, select(2, text:gsub("▓▓▓▓▓█", "")))
            for line in text:gmatch("[^\n]+") do assert.is_true(#line:gsub("[\128-\191]", "") <= 110, line) end
            assert.is_true(#json.encode(session:levels():json()) > 100)
            session:close()
        end)
    end)

    describe("the random fill", function()
        it("is as long as asked, settled as it goes, the same for a seed, and worth nothing to others", function()
            local session = model:session { kv = { hot_tokens = 64, bits = 4, window = "keep" } }
            session:feed(first(10)):fill_random(2000):fill_random(3, 5)
            assert.equal(2013, session.position)
            local tokens = session:levels():data().layers[1].tokens
            assert.same({ hot = 2013 - 30 * 64, warm = 30 * 64, cold = 0, disk = 0 }, tokens)
            assert.is_true(session:stats().kv.used_peak < 1.2 * session:bytes()) -- never more than a page above
            session:step(5)
            local logit = session:logits()[7]
            assert.is_true(logit == logit)
            local other = model:session { kv = { hot_tokens = 64, bits = 4, window = "keep" } }
            other:feed(first(10)):fill_random(2000):fill_random(3, 5):step(5)
            assert.equal(logit, other:logits()[7])
            assert.same(session:tokens(), other:tokens())
            close(session, other)
            local shared = model:session()
            shared:fill_random(200)
            local random = shared:tokens()
            local second = model:session()
            second:feed(random)
            assert.equal(0, second.adopted)
            assert.has_error(function() second:fill_random(-1) end, "0 random tokens or more are filled in, not -1")
            close(shared, second)
        end)
    end)
end)
