/* Reading a GGUF file from front to back: every length is checked against what is left of it. */
#ifndef ML_LOAD_GGUF_READER_H
#define ML_LOAD_GGUF_READER_H

#include "moonloom.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A place in a mapped file. */
typedef struct ml_gguf_reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    char what[256]; /* what is being read, for the sentence about it */
} ml_gguf_reader;

/* The sentence for `bytes` bytes that are not left; always ML_E_FORMAT. */
int ml_gguf_short(const ml_gguf_reader *r, uint64_t bytes);

/* The next `bytes` bytes, where they lie. ML_E_FORMAT if fewer are left. */
static inline int ml_gguf_take(ml_gguf_reader *r, uint64_t bytes, const uint8_t **out) {
    if (bytes > r->size - r->at) return ml_gguf_short(r, bytes);
    *out = r->data + r->at;
    r->at += (size_t)bytes;
    return ML_OK;
}

static inline int ml_gguf_take_u32(ml_gguf_reader *r, uint32_t *out) {
    const uint8_t *bytes = NULL;
    int status = ml_gguf_take(r, sizeof *out, &bytes);
    if (!status) memcpy(out, bytes, sizeof *out);
    return status;
}

static inline int ml_gguf_take_u64(ml_gguf_reader *r, uint64_t *out) {
    const uint8_t *bytes = NULL;
    int status = ml_gguf_take(r, sizeof *out, &bytes);
    if (!status) memcpy(out, bytes, sizeof *out);
    return status;
}

/* A string: its length in 8 bytes, then its bytes. */
static inline int ml_gguf_take_string(ml_gguf_reader *r, const uint8_t **text, uint64_t *bytes) {
    int status = ml_gguf_take_u64(r, bytes);
    return status ? status : ml_gguf_take(r, *bytes, text);
}

/* `count` things of at least `least` bytes each must fit in what is left; nothing is taken. */
int ml_gguf_check_count(const ml_gguf_reader *r, uint64_t count, size_t least);
/* A key or a tensor's name: 1 to 65535 bytes, no control characters. */
int ml_gguf_take_name(ml_gguf_reader *r, const char **name, size_t *bytes);

#endif
