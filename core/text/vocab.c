#include "text/vocab.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"

#include <string.h>
#include <sys/mman.h>

enum { HEAD = 8 };

static uint64_t head_of(const uint8_t *text, size_t bytes) {
    return ml_get_start(text, bytes < HEAD ? bytes : HEAD);
}

/* Multiply and fold, eight bytes at a time. */
static uint64_t hash_bytes(const ml_vocab *vocab, uint64_t head, const uint8_t *text, size_t bytes) {
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    uint64_t hash = ((vocab->seed ^ (bytes * factor)) ^ head) * factor;
    hash ^= hash >> 29;
    for (size_t at = HEAD; at < bytes; at += HEAD) {
        hash = (hash ^ head_of(text + at, bytes - at)) * factor;
        hash ^= hash >> 29;
    }
    return hash;
}

static int is_plain(uint8_t type) {
    return type == ML_TOKEN_NORMAL || type == ML_TOKEN_USER || type == ML_TOKEN_UNUSED;
}

static int is_text(const ml_vocab *vocab, int32_t id, const uint8_t *text, size_t bytes) {
    return ml_vocab_length(vocab, id) == bytes && memcmp(ml_vocab_bytes(vocab, id), text, bytes) == 0;
}

/* The slot that holds these bytes, or the empty one where they belong. */
static ml_vocab_slot *find_slot(const ml_vocab *vocab, uint64_t hash, uint64_t head, const uint8_t *text,
                                size_t bytes) {
    for (size_t at = (size_t)hash & vocab->mask;; at = (at + 1) & vocab->mask) {
        ml_vocab_slot *slot = &vocab->slots[at];
        if (!slot->taken) return slot;
        if (slot->head != head || slot->length != bytes) continue;
        if (bytes <= HEAD || is_text(vocab, (int32_t)slot->taken - 1, text, bytes)) return slot;
    }
}

int32_t ml_vocab_find(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    if (bytes > vocab->longest) return -1;
    const uint64_t head = head_of(text, bytes);
    return (int32_t)find_slot(vocab, hash_bytes(vocab, head, text, bytes), head, text, bytes)->taken - 1;
}

int32_t ml_vocab_find_plain(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    int32_t id = ml_vocab_find(vocab, text, bytes);
    return id >= 0 && is_plain(vocab->type[id]) ? id : -1;
}

int ml_vocab_is_plain(const ml_vocab *vocab, int64_t id, const uint8_t *text, size_t bytes) {
    return ml_vocab_has(vocab, id) && is_plain(vocab->type[id]) && is_text(vocab, (int32_t)id, text, bytes);
}

static void insert(ml_vocab *vocab, int32_t id, uint64_t hash) {
    const uint8_t *text = ml_vocab_bytes(vocab, id);
    const size_t bytes = ml_vocab_length(vocab, id);
    const uint64_t head = head_of(text, bytes);
    ml_vocab_slot *slot = find_slot(vocab, hash, head, text, bytes);
    if (slot->taken) {
        vocab->has_twins = 1;
        if (!is_plain(vocab->type[id]) || is_plain(vocab->type[slot->taken - 1])) return;
    }
    *slot = (ml_vocab_slot){.head = head, .length = (uint32_t)bytes, .taken = (uint32_t)id + 1};
}

/* Copies the bytes of all tokens, as `spelling` understands them. */
static void load_bytes(ml_vocab *vocab, const ml_vocabulary *source, ml_spelling spelling) {
    const uint8_t *next = ml_strings_at(&source->tokens, 0);
    size_t used = 0;
    for (int32_t id = 0; id < vocab->count; id++) {
        size_t bytes;
        const uint8_t *text = ml_string_next(&next, &bytes);
        vocab->start[id] = (uint32_t)used;
        const size_t length = spelling(text, bytes, &vocab->type[id], vocab->bytes + used);
        if (length > vocab->longest) vocab->longest = length;
        used += length;
    }
    vocab->start[vocab->count] = (uint32_t)used;
}

/* The hashes of some tokens are made first, so that the processor can fetch their slots meanwhile. */
static void build_table(ml_vocab *vocab) {
    enum { RUN = 64 };
    uint64_t hashes[RUN];
    for (int32_t first = 0; first < vocab->count; first += RUN) {
        const int32_t count = vocab->count - first < RUN ? vocab->count - first : RUN;
        for (int32_t i = 0; i < count; i++) {
            const uint8_t *text = ml_vocab_bytes(vocab, first + i);
            const size_t bytes = ml_vocab_length(vocab, first + i);
            hashes[i] = hash_bytes(vocab, head_of(text, bytes), text, bytes);
            __builtin_prefetch(&vocab->slots[hashes[i] & vocab->mask], 1);
        }
        for (int32_t i = 0; i < count; i++)
            if (ml_vocab_length(vocab, first + i) > 0) insert(vocab, first + i, hashes[i]);
    }
}

/* Room for `count` tokens whose strings have `text` bytes in all. */
static int create(ml_vocab *vocab, size_t count, size_t text) {
    size_t slots = 1024;
    while (slots < count * 2) slots *= 2;
    const size_t slot_bytes = slots * sizeof *vocab->slots, start_bytes = (count + 1) * sizeof *vocab->start;
    vocab->block_bytes = slot_bytes + start_bytes + count + text + ML_SPELLING_SLACK;
    vocab->block = ml_memory_map(vocab->block_bytes);
    if (!vocab->block) return ML_E_MEMORY;
    vocab->slots = vocab->block;
    vocab->start = (uint32_t *)(void *)((uint8_t *)vocab->block + slot_bytes);
    vocab->type = (uint8_t *)vocab->block + slot_bytes + start_bytes;
    vocab->bytes = vocab->type + count;
    vocab->count = (int32_t)count;
    vocab->mask = slots - 1;
    vocab->seed = (uint64_t)(uintptr_t)vocab->block * 0xd6e8feb86659fd93u;
    vocab->seed ^= vocab->seed >> 32; /* the address ends in zeros */
    return ML_OK;
}

int ml_vocab_load(ml_vocab *vocab, const ml_vocabulary *source, ml_spelling spelling) {
    const size_t count = (size_t)source->tokens.count, text = source->tokens.bytes;
    if (text >= UINT32_MAX) return ml_error(ML_E_FORMAT, "%s: the vocabulary is over 4 GiB", source->path);
    memset(vocab->byte_id, 0xff, sizeof vocab->byte_id);
    int status = create(vocab, count, text);
    if (status != ML_OK) return status;
    if (source->types)
        memcpy(vocab->type, source->types, count);
    else
        memset(vocab->type, ML_TOKEN_NORMAL, count);
    load_bytes(vocab, source, spelling);
    build_table(vocab);
    return ML_OK;
}

void ml_vocab_release(ml_vocab *vocab) {
    if (vocab->block) munmap(vocab->block, vocab->block_bytes);
}
