--- Writes GGUF files (ggml-org/ggml, docs/gguf.md), streaming: first everything that is named, then the data.
--
--     writer.save("x.gguf", {}, function(file)
--         file:meta("general.architecture", "string", "llama")
--         file:meta("some.list", "u32[]", { 1, 2, 3 })
--         file:tensor("token_embd.weight", "f32", { 512, 64 })
--         file:data("token_embd.weight", buffer)     -- in the order of the tensors; or
--         file:random("token_embd.weight", 0.02, 1)  -- deviation, seed
--     end)
--
-- The file is written beside its place and renamed at the end, so that a reader never sees half of it.
local ffi = require "ffi"
local ml = require "moonloom._core.ffi"
local uv = require "luv"
local C = ml.C

ffi.cdef [[
size_t fwrite(const void *data, size_t size, size_t count, void *file);
int setvbuf(void *file, char *buffer, int mode, size_t size);
int fileno(void *file);
int fallocate(int descriptor, int mode, int64_t offset, int64_t length);
char *strerror(int code);
]]

local M = {}

local Writer = {}
Writer.__index = Writer

local ENOSPC = 28
local FULLY = 0 -- _IOFBF: buffered until the buffer is full
local CHUNK = 16 * 2 ^ 20 -- bytes that are made and written at once

local function fail(self, reason)
    error(("%s cannot be written: %s"):format(self.path, reason), 0)
end

local function put(self, text)
    local ok, reason = self.file:write(text)
    if not ok then fail(self, reason) end
    self.at = self.at + #text
end

-- The bytes of a number in a C type.
local function packer(ctype, bytes)
    local cell = ffi.new(ctype .. "[1]")
    return function(value)
        cell[0] = value
        return ffi.string(cell, bytes)
    end
end

local u32, u64 = packer("uint32_t", 4), packer("uint64_t", 8)

-- The packed lengths of strings, each made once.
local lengths = setmetatable({}, { __index = function(self, length)
    self[length] = u64(length)
    return self[length]
end })

local function packed_string(text)
    return lengths[#text] .. text
end

-- Value types: the number in the file, and what packs one value.
local types = {
    u8 = { 0, packer("uint8_t", 1) },
    i8 = { 1, packer("int8_t", 1) },
    u16 = { 2, packer("uint16_t", 2) },
    i16 = { 3, packer("int16_t", 2) },
    u32 = { 4, u32 },
    i32 = { 5, packer("int32_t", 4) },
    f32 = { 6, packer("float", 4) },
    bool = { 7, function(value) return value and "\1" or "\0" end },
    string = { 8, packed_string },
    u64 = { 10, u64 },
    i64 = { 11, packer("int64_t", 8) },
    f64 = { 12, packer("double", 8) },
}
local ARRAY = 9

local function split_type(name)
    local item = name:match("^(.*)%[%]$")
    if item then return ARRAY, item end
    local entry = types[name] or error("gguf_writer: there is no value type " .. tostring(name), 0)
    return entry[1], nil, entry[2]
end

-- Adds the packed items of an array to `parts`: item type, count, items.
local function pack_array(parts, item, list)
    local number, inner, pack = split_type(item)
    parts[#parts + 1] = u32(number) .. u64(#list)
    for i = 1, #list do
        if inner then
            pack_array(parts, inner, list[i])
        else
            parts[#parts + 1] = pack(list[i])
        end
    end
end

--- Adds a metadata pair. `kind` is u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool or string, with [] for an array of them
-- ("string[]"), [][] for an array of arrays.
function Writer:meta(key, kind, value)
    local number, item, pack = split_type(kind)
    local parts = { packed_string(key), u32(number) }
    if item then pack_array(parts, item, value) else parts[3] = pack(value) end
    self.pairs[#self.pairs + 1] = table.concat(parts)
    if key == "general.alignment" then self.alignment = value end
end

--- Adds a tensor: `shape` is outermost first. Returns the bytes of its data.
function Writer:tensor(name, dtype, shape)
    local number = C.ml_dtype_from_name(dtype)
    if number < 0 then error(("there is no tensor type %s"):format(dtype), 0) end
    local elements, row, block = 1, shape[#shape] or 1, tonumber(C.ml_dtype_block(number))
    for _, extent in ipairs(shape) do elements = elements * extent end
    if row % block ~= 0 then
        error(("%s has rows of %d elements, which are no whole blocks of %d (%s)"):format(name, row, block, dtype), 0)
    end
    local bytes = elements / block * tonumber(C.ml_dtype_bytes(number))
    local tensor = { name = name, number = number, shape = shape, bytes = bytes }
    self.tensors[#self.tensors + 1], self.by_name[name] = tensor, tensor
    return bytes
end

local function aligned(self, position)
    return math.ceil(position / self.alignment) * self.alignment
end

local function pad(self)
    put(self, ("\0"):rep(aligned(self, self.at) - self.at))
end

-- Asks for all the space now, so that a full disk is known before the long part. Free space is looked up first: some
-- filesystems fill the disk before they refuse. Others cannot reserve at all.
local function reserve(self, bytes)
    local disk = uv.fs_statfs(self.temporary)
    local full = disk and disk.bavail * disk.bsize < bytes
    if not full and bytes > 0 then
        full = ffi.C.fallocate(ffi.C.fileno(self.file), 0, self.at, bytes) ~= 0 and ffi.errno() == ENOSPC
    end
    if full then fail(self, ("it needs %.2f GB, which are not free there"):format(bytes / 1e9)) end
end

-- Everything before the data: header, metadata, tensor infos.
local function put_head(self)
    local offset = 0
    put(self, "GGUF" .. u32(self.version) .. u64(#self.tensors) .. u64(#self.pairs))
    for _, pair in ipairs(self.pairs) do put(self, pair) end
    for _, tensor in ipairs(self.tensors) do
        local parts = { packed_string(tensor.name), u32(#tensor.shape) }
        for d = #tensor.shape, 1, -1 do parts[#parts + 1] = u64(tensor.shape[d]) end
        parts[#parts + 1] = u32(tensor.number) .. u64(offset)
        put(self, table.concat(parts))
        offset = aligned(self, offset + tensor.bytes)
    end
    pad(self)
    reserve(self, offset)
end

--- Writes the next `bytes` bytes at `pointer` (cdata), or a string, of the data of tensor `name`. Tensors come in the
-- order in which they were added; the data of one may come in pieces.
function Writer:data(name, pointer, bytes)
    if self.next == 0 then
        put_head(self)
        self.next, self.left = 1, self.tensors[1] and self.tensors[1].bytes
    end
    bytes = bytes or #pointer
    local tensor = self.tensors[self.next]
    if not tensor or tensor.name ~= name or bytes > self.left then
        error(("gguf_writer: %d bytes of %s do not come next"):format(bytes, name), 0)
    end
    if ffi.C.fwrite(pointer, 1, bytes, self.file) ~= bytes then fail(self, ffi.string(ffi.C.strerror(ffi.errno()))) end
    self.at, self.left = self.at + bytes, self.left - bytes
    if self.left > 0 then return end
    pad(self)
    self.next = self.next + 1
    self.left = self.tensors[self.next] and self.tensors[self.next].bytes
end

-- Writes all data of a tensor in chunks: fill(buffer, elements, index) makes the chunk `index` (from 0). `progress` is
-- told the bytes of each chunk.
local function put_chunks(self, name, fill, progress)
    local tensor = self.by_name[name]
    local block, bytes = tonumber(C.ml_dtype_block(tensor.number)), tonumber(C.ml_dtype_bytes(tensor.number))
    local capacity = math.floor(CHUNK / bytes) * bytes
    self.buffer = self.buffer or ffi.new("uint8_t[?]", CHUNK)
    for start = 0, tensor.bytes - 1, capacity do
        local size = math.min(capacity, tensor.bytes - start)
        fill(self.buffer, size / bytes * block, start / capacity)
        self:data(name, self.buffer, size)
        if progress then progress(size) end
    end
end

--- Writes random data of tensor `name` (see ml_synth_fill): mean 0, standard deviation `deviation`; `seed` is any
-- number. `progress(bytes)`, if given, is called for every piece.
function Writer:random(name, deviation, seed, progress)
    local number = self.by_name[name].number
    put_chunks(self, name, function(buffer, elements, index)
        ml.check(C.ml_synth_fill(number, elements, deviation, ffi.cast("uint64_t", seed) * 2 ^ 20 + index, buffer))
    end, progress)
end

--- Writes an f32 tensor whose elements are all `value`.
function Writer:constant(name, value, progress)
    put_chunks(self, name, function(buffer, elements)
        local floats = ffi.cast("float *", buffer)
        for i = 0, elements - 1 do floats[i] = value end
    end, progress)
end

local function finish(self)
    if self.next == 0 then
        put_head(self)
        self.next = 1
    end
    if self.tensors[self.next] then error(("gguf_writer: %s has no data"):format(self.tensors[self.next].name), 0) end
    local ok, reason = self.file:close()
    self.file = nil
    if not ok then fail(self, reason) end
    ok, reason = os.rename(self.temporary, self.path)
    if not ok then fail(self, reason) end
end

--- Writes the file at `path`: `fill(writer)` names and writes everything. Options: `force` to overwrite a file that is
-- there, `version` (3). Whatever goes wrong, no half-written file stays. Returns the bytes of the file.
function M.save(path, options, fill)
    local present = io.open(path, "rb")
    if present then
        present:close()
        if not options.force then error(path .. " exists; give force to overwrite it", 0) end
    end
    local self = setmetatable({
        path = path, temporary = path .. ".part", version = options.version or 3,
        alignment = 32, at = 0, pairs = {}, tensors = {}, by_name = {}, next = 0,
    }, Writer)
    local reason
    self.file, reason = io.open(self.temporary, "wb")
    if not self.file then fail(self, reason) end
    -- Written in whole pieces at multiples of their size, a file lies in huge pages from the start: mapping 1 GB of it
    -- takes 1 ms instead of 7 (Linux 6.16 on ext4 or xfs).
    self.pending = ffi.new("char[?]", CHUNK)
    ffi.C.setvbuf(self.file, self.pending, FULLY, CHUNK)
    local ok, problem = pcall(function()
        fill(self)
        finish(self)
    end)
    if ok then return self.at end
    if self.file then self.file:close() end
    os.remove(self.temporary)
    error(problem, 0)
end

return M
