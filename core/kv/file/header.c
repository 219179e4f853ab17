/* Header and index entries of saved sessions as bytes. */
#include "kv/file/header.h"

static const uint8_t magic[8] = {'m', 'o', 'o', 'n', 'k', 'v', '\r', '\n'};

/* Where things are in the header. Up to HASH all that is not used is 0. */
enum {
    MAGIC = 0,
    VERSION = 8,
    DTYPE = 12,
    LAYERS = 16,
    KV_HEADS = 20,
    HEAD_DIM = 24,
    PAGE_TOKENS = 28,
    IDENTITY = 32, /* model, tokenizer */
    CONTENT = 64,
    BYTES = 80,
    TOKENS = 88,
    SOUND = 96,
    TEXT_BYTES = 104,
    PAGE_COUNT = 112,
    PAGE_BYTES = 120,
    PACKED_BYTES = 128,
    CREATED = 136,
    IDS_HASH = 144,
    TEXT_HASH = 152,
    INDEX_HASH = 160,
    MOONLOOM = 176, /* char[16] */
    ISA = 192,      /* char[16] */
    ARCHITECTURE = 208,
    NAME = 240,
    FILE_NAME = 368,
    POLICY_BYTES = 880,
    POLICY_HASH = 888,
    QUANTISED = 896,
    HASH = ML_SAVED_HEADER - 8
};

static void put_pair(uint8_t *out, const uint64_t pair[2]) {
    ml_put_u64(out, pair[0]);
    ml_put_u64(out + 8, pair[1]);
}

static void get_pair(const uint8_t *in, uint64_t pair[2]) {
    pair[0] = ml_get_u64(in);
    pair[1] = ml_get_u64(in + 8);
}

void ml_saved_put_header(const ml_saved_header *header, uint8_t out[ML_SAVED_HEADER]) {
    const ml_saved_info *info = &header->info;
    memset(out, 0, ML_SAVED_HEADER);
    memcpy(out + MAGIC, magic, sizeof magic);
    ml_put_u32(out + VERSION, ML_SAVED_VERSION);
    ml_put_u32(out + DTYPE, (uint32_t)info->dtype);
    ml_put_u32(out + LAYERS, (uint32_t)info->layers);
    ml_put_u32(out + KV_HEADS, (uint32_t)header->kv_heads);
    ml_put_u32(out + HEAD_DIM, (uint32_t)header->head_dim);
    ml_put_u32(out + PAGE_TOKENS, ML_PAGE_TOKENS);
    put_pair(out + IDENTITY, info->identity.model);
    put_pair(out + IDENTITY + 16, info->identity.tokenizer);
    put_pair(out + CONTENT, info->content);
    ml_put_u64(out + BYTES, (uint64_t)info->bytes);
    ml_put_u64(out + TOKENS, (uint64_t)info->tokens);
    ml_put_u64(out + SOUND, (uint64_t)info->sound);
    ml_put_u64(out + TEXT_BYTES, (uint64_t)info->text_bytes);
    ml_put_u64(out + PAGE_COUNT, (uint64_t)info->page_count);
    ml_put_u64(out + PAGE_BYTES, (uint64_t)info->page_bytes);
    ml_put_u64(out + PACKED_BYTES, (uint64_t)info->packed_bytes);
    ml_put_u64(out + CREATED, (uint64_t)info->created);
    ml_put_u64(out + IDS_HASH, header->ids_hash);
    ml_put_u64(out + TEXT_HASH, header->text_hash);
    ml_put_u64(out + INDEX_HASH, header->index_hash);
    ml_put_u64(out + POLICY_BYTES, (uint64_t)header->policy_bytes);
    ml_put_u64(out + POLICY_HASH, header->policy_hash);
    ml_put_u64(out + QUANTISED, (uint64_t)info->quantised);
    memcpy(out + MOONLOOM, info->version, sizeof info->version);
    memcpy(out + ISA, info->isa, sizeof info->isa);
    memcpy(out + ARCHITECTURE, info->architecture, sizeof info->architecture);
    memcpy(out + NAME, info->name, sizeof info->name);
    memcpy(out + FILE_NAME, info->file, sizeof info->file);
    ml_put_u64(out + HASH, ml_hash(out, HASH, 0));
}

static void get_text(const uint8_t *in, char *out, size_t size) {
    memcpy(out, in, size);
    out[size - 1] = 0;
}

int ml_saved_is_header(const uint8_t *in, uint32_t *version) {
    *version = (uint32_t)ml_get_u32(in + VERSION);
    return memcmp(in + MAGIC, magic, sizeof magic) == 0;
}

int ml_saved_get_header(const uint8_t in[ML_SAVED_HEADER], ml_saved_header *header) {
    uint32_t version;
    if (!ml_saved_is_header(in, &version) || version != ML_SAVED_VERSION) return 0;
    if (ml_get_u64(in + HASH) != ml_hash(in, HASH, 0) || ml_get_u32(in + PAGE_TOKENS) != ML_PAGE_TOKENS) return 0;
    ml_saved_info *info = &header->info;
    info->dtype = (int32_t)ml_get_u32(in + DTYPE);
    info->layers = (int32_t)ml_get_u32(in + LAYERS);
    header->kv_heads = (int32_t)ml_get_u32(in + KV_HEADS);
    header->head_dim = (int32_t)ml_get_u32(in + HEAD_DIM);
    get_pair(in + IDENTITY, info->identity.model);
    get_pair(in + IDENTITY + 16, info->identity.tokenizer);
    get_pair(in + CONTENT, info->content);
    info->bytes = (int64_t)ml_get_u64(in + BYTES);
    info->tokens = (int64_t)ml_get_u64(in + TOKENS);
    info->sound = (int64_t)ml_get_u64(in + SOUND);
    info->text_bytes = (int64_t)ml_get_u64(in + TEXT_BYTES);
    info->page_count = (int64_t)ml_get_u64(in + PAGE_COUNT);
    info->page_bytes = (int64_t)ml_get_u64(in + PAGE_BYTES);
    info->packed_bytes = (int64_t)ml_get_u64(in + PACKED_BYTES);
    info->created = (int64_t)ml_get_u64(in + CREATED);
    header->ids_hash = ml_get_u64(in + IDS_HASH);
    header->text_hash = ml_get_u64(in + TEXT_HASH);
    header->index_hash = ml_get_u64(in + INDEX_HASH);
    header->policy_bytes = (int64_t)ml_get_u64(in + POLICY_BYTES);
    header->policy_hash = ml_get_u64(in + POLICY_HASH);
    info->quantised = (int64_t)ml_get_u64(in + QUANTISED);
    get_text(in + MOONLOOM, info->version, sizeof info->version);
    get_text(in + ISA, info->isa, sizeof info->isa);
    get_text(in + ARCHITECTURE, info->architecture, sizeof info->architecture);
    get_text(in + NAME, info->name, sizeof info->name);
    get_text(in + FILE_NAME, info->file, sizeof info->file);
    return 1;
}

void ml_saved_put_entry(const ml_saved_entry *entry, uint8_t out[ML_SAVED_ENTRY]) {
    ml_put_u32(out, entry->layer);
    ml_put_u32(out + 4, entry->page);
    ml_put_u32(out + 8, entry->format);
    ml_put_u32(out + 12, entry->bytes);
    ml_put_u32(out + 16, entry->packed);
    ml_put_u32(out + 20, entry->frozen);
    ml_put_u64(out + 24, entry->hash);
}

void ml_saved_get_entry(const uint8_t in[ML_SAVED_ENTRY], ml_saved_entry *entry) {
    entry->layer = (uint32_t)ml_get_u32(in);
    entry->page = (uint32_t)ml_get_u32(in + 4);
    entry->format = (uint32_t)ml_get_u32(in + 8);
    entry->bytes = (uint32_t)ml_get_u32(in + 12);
    entry->packed = (uint32_t)ml_get_u32(in + 16);
    entry->frozen = (uint32_t)ml_get_u32(in + 20);
    entry->hash = ml_get_u64(in + 24);
}
