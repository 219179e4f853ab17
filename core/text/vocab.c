#include "text/vocab.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/weights.h"

#include <stdlib.h>
#include <string.h>

static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char TYPES[] = "tokenizer.ggml.token_type";

enum { HEAD = sizeof(uint64_t) };

/* Up to eight bytes as a number. */
static uint64_t load_head(const uint8_t *text, size_t bytes) {
    uint64_t head = 0;
    memcpy(&head, text, bytes < HEAD ? bytes : HEAD);
    return head;
}

/* Multiply and fold, eight bytes at a time. */
static uint64_t hash_bytes(uint64_t head, const uint8_t *text, size_t bytes, uint64_t seed) {
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    uint64_t hash = seed ^ (bytes * factor);
    for (size_t at = 0; at == 0 || at < bytes; at += HEAD) {
        hash = (hash ^ (at == 0 ? head : load_head(text + at, bytes - at))) * factor;
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
static ml_vocab_slot *find_slot(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    uint64_t head = load_head(text, bytes);
    size_t at = (size_t)hash_bytes(head, text, bytes, vocab->seed) & vocab->mask;
    for (;; at = (at + 1) & vocab->mask) {
        ml_vocab_slot *slot = &vocab->slots[at];
        if (slot->id < 0) return slot;
        if (slot->head != head || slot->length != bytes) continue;
        if (bytes <= HEAD || is_text(vocab, slot->id, text, bytes)) return slot;
    }
}

int32_t ml_vocab_find(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    return bytes <= vocab->longest ? find_slot(vocab, text, bytes)->id : -1;
}

void ml_vocab_prefetch(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    __builtin_prefetch(&vocab->slots[hash_bytes(load_head(text, bytes), text, bytes, vocab->seed) & vocab->mask]);
}

int32_t ml_vocab_find_plain(const ml_vocab *vocab, const uint8_t *text, size_t bytes) {
    int32_t id = ml_vocab_find(vocab, text, bytes);
    return id >= 0 && is_plain(vocab->type[id]) ? id : -1;
}

int ml_vocab_is_plain(const ml_vocab *vocab, int64_t id, const uint8_t *text, size_t bytes) {
    return ml_vocab_has(vocab, id) && is_plain(vocab->type[id]) && is_text(vocab, (int32_t)id, text, bytes);
}

static void insert(ml_vocab *vocab, int32_t id) {
    const uint8_t *text = ml_vocab_bytes(vocab, id);
    size_t bytes = ml_vocab_length(vocab, id);
    ml_vocab_slot *slot = find_slot(vocab, text, bytes);
    if (slot->id < 0 || (is_plain(vocab->type[id]) && !is_plain(vocab->type[slot->id])))
        *slot = (ml_vocab_slot){.head = load_head(text, bytes), .length = (uint32_t)bytes, .id = id};
}

/* Number of items of the array `key` of `item` kinds; ML_E_FORMAT if it is something else. */
static int array_count(ml_weights *weights, const char *key, int wanted, const char *wanted_name, int64_t *count) {
    int kind, item;
    int status = ml_meta_kind(weights, key, &kind, &item, count);
    if (status != ML_OK) return status;
    if (kind != ML_META_ARRAY || item != wanted)
        return ml_error(ML_E_FORMAT, "%s: %s is no array of %s", ml_weights_path(weights), key, wanted_name);
    return ML_OK;
}

static int load_types(ml_vocab *vocab, ml_weights *weights) {
    int64_t count;
    memset(vocab->type, ML_TOKEN_NORMAL, (size_t)vocab->count);
    int status = array_count(weights, TYPES, ML_META_INT, "integers", &count);
    if (status == ML_E_NOT_FOUND) return ML_OK;
    if (status != ML_OK) return status;
    if (count != vocab->count)
        return ml_error(ML_E_FORMAT, "%s: %s has %lld items for %d tokens", ml_weights_path(weights), TYPES,
                        (long long)count, vocab->count);
    for (int32_t id = 0; id < vocab->count; id++) {
        int64_t type;
        status = ml_meta_int(weights, TYPES, id, &type);
        if (status != ML_OK) return status;
        if (type < ML_TOKEN_NORMAL || type > ML_TOKEN_BYTE)
            return ml_error(ML_E_FORMAT, "%s: %s of token %d is %lld, which is no token type (1..6)",
                            ml_weights_path(weights), TYPES, id, (long long)type);
        vocab->type[id] = (uint8_t)type;
    }
    return ML_OK;
}

/* Copies the bytes of all tokens, as `spelling` understands them. */
static int load_bytes(ml_vocab *vocab, ml_weights *weights, ml_spelling spelling) {
    size_t used = 0, capacity = 0;
    for (int32_t id = 0; id < vocab->count; id++) {
        const char *text;
        int64_t bytes;
        int status = ml_meta_string(weights, TOKENS, id, &text, &bytes);
        if (status != ML_OK) return status;
        if (bytes > INT32_MAX || used + (size_t)bytes > UINT32_MAX - 1)
            return ml_error(ML_E_FORMAT, "%s: the vocabulary is over 4 GiB at token %d", ml_weights_path(weights), id);
        status = ml_grow((void **)&vocab->bytes, &capacity, used + (size_t)bytes + 1, 1);
        if (status != ML_OK) return status;
        vocab->start[id] = (uint32_t)used;
        size_t length = spelling((const uint8_t *)text, (size_t)bytes, &vocab->type[id], vocab->bytes + used);
        if (length > vocab->longest) vocab->longest = length;
        used += length;
    }
    vocab->start[vocab->count] = (uint32_t)used;
    return ML_OK;
}

static int build_table(ml_vocab *vocab) {
    size_t slots = 1024;
    while (slots < (size_t)vocab->count * 2) slots *= 2;
    vocab->slots = ml_alloc_aligned(slots, sizeof *vocab->slots);
    if (!vocab->slots) return ML_E_MEMORY;
    ml_memory_huge(vocab->slots, slots * sizeof *vocab->slots);
    for (size_t i = 0; i < slots; i++) vocab->slots[i].id = -1;
    vocab->mask = slots - 1;
    vocab->seed = (uint64_t)(uintptr_t)vocab->slots * 0xd6e8feb86659fd93u;
    for (int32_t id = 0; id < vocab->count; id++)
        if (ml_vocab_length(vocab, id) > 0) insert(vocab, id);
    return ML_OK;
}

int ml_vocab_load(ml_vocab *vocab, ml_weights *weights, ml_spelling spelling) {
    int64_t count;
    int status = array_count(weights, TOKENS, ML_META_STRING, "strings", &count);
    if (status == ML_E_NOT_FOUND)
        return ml_error(status, "%s: there is no vocabulary (%s is missing)", ml_weights_path(weights), TOKENS);
    if (status != ML_OK) return status;
    if (count < 1 || count > INT32_MAX / 4)
        return ml_error(ML_E_FORMAT, "%s: a vocabulary of %lld tokens", ml_weights_path(weights), (long long)count);
    vocab->count = (int32_t)count;
    vocab->start = ml_calloc((size_t)count + 1, sizeof *vocab->start);
    vocab->type = ml_calloc((size_t)count, 1);
    if (!vocab->start || !vocab->type) return ML_E_MEMORY;
    memset(vocab->byte_id, 0xff, sizeof vocab->byte_id);
    status = load_types(vocab, weights);
    if (status == ML_OK) status = load_bytes(vocab, weights, spelling);
    if (status == ML_OK) status = build_table(vocab);
    return status;
}

void ml_vocab_release(ml_vocab *vocab) {
    free(vocab->bytes);
    free(vocab->start);
    free(vocab->type);
    free(vocab->slots);
}
