/* The tokens of a vocabulary as encoding looks them up: every token's bytes in one block, and a hash table from bytes
 * to id. */
#ifndef ML_TEXT_VOCAB_H
#define ML_TEXT_VOCAB_H

#include "load/vocabulary.h"
#include "moonloom.h"

#include <stddef.h>

/* A slot of the hash table. It holds the beginning of the token's bytes, so that most look-ups touch nothing else. */
typedef struct ml_vocab_slot {
    uint64_t head;   /* the first eight bytes, zeros after the last */
    uint32_t length; /* of the whole token */
    uint32_t taken;  /* id + 1, or 0 */
} ml_vocab_slot;

typedef struct ml_vocab {
    int32_t count;
    void *block; /* what the next four point into: fresh memory is dear, so it is one area under huge pages */
    size_t block_bytes;
    uint8_t *bytes;       /* what the tokens stand for, one after the other */
    uint32_t *start;      /* count + 1 offsets into `bytes` */
    uint8_t *type;        /* ML_TOKEN_..., one a token */
    ml_vocab_slot *slots; /* open addressing */
    size_t mask;          /* slots - 1 */
    uint64_t seed;        /* of the hash, so that no file can be built to collide */
    size_t longest;       /* bytes of the longest token */
    int has_twins;        /* some tokens stand for the same bytes as others */
    int32_t byte_id[256]; /* the token that stands for a single byte, or -1 */
} ml_vocab;

/* Turns the text of a token of `type`, as the file spells it, into the bytes it stands for (at most as many).
 * Returns how many. `type` may be changed. `out` has room for ML_SPELLING_SLACK bytes more, which may be written. */
enum { ML_SPELLING_SLACK = 8 };
typedef size_t (*ml_spelling)(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out);

/* Takes the tokens and their types over from `source`. Two tokens may stand for the same bytes: the one that plain text
 * can become is found, then the lower id. */
int ml_vocab_load(ml_vocab *vocab, const ml_vocabulary *source, ml_spelling spelling);
void ml_vocab_release(ml_vocab *vocab);

/* The token that stands for exactly these bytes, of any type, or -1. */
int32_t ml_vocab_find(const ml_vocab *vocab, const uint8_t *text, size_t bytes);
/* Like ml_vocab_find(), but only tokens that plain text can become (not control, unknown or byte tokens). */
int32_t ml_vocab_find_plain(const ml_vocab *vocab, const uint8_t *text, size_t bytes);

/* 1 if `id` is a token that plain text can become and stands for exactly these bytes. */
int ml_vocab_is_plain(const ml_vocab *vocab, int64_t id, const uint8_t *text, size_t bytes);

static inline int ml_vocab_has(const ml_vocab *vocab, int64_t id) {
    return id >= 0 && id < vocab->count;
}
static inline const uint8_t *ml_vocab_bytes(const ml_vocab *vocab, int32_t id) {
    return vocab->bytes + vocab->start[id];
}
static inline size_t ml_vocab_length(const ml_vocab *vocab, int32_t id) {
    return vocab->start[id + 1] - vocab->start[id];
}
/* Tokens that stand apart from plain text: their name in a text becomes them before anything else is looked at. */
static inline int ml_vocab_is_apart(const ml_vocab *vocab, int32_t id) {
    uint8_t type = vocab->type[id];
    return type == ML_TOKEN_CONTROL || type == ML_TOKEN_UNKNOWN || type == ML_TOKEN_USER;
}

#endif
