/* The view that every loader yields: metadata and named tensors that point into mapped files. */
#ifndef ML_LOAD_WEIGHTS_H
#define ML_LOAD_WEIGHTS_H

#include "moonloom.h"

#include <stddef.h>
#include <string.h>

/* One more reference; pair it with ml_weights_free(). */
void ml_weights_retain(ml_weights *weights);
/* The path given to ml_weights_open(), for error sentences. */
const char *ml_weights_path(const ml_weights *weights);
/* Start of the data of tensor `index`: ml_tensor_info.bytes bytes, checked to lie in the file. */
const uint8_t *ml_weights_data(const ml_weights *weights, int64_t index);
/* Two hashes over names, types and shapes of all tensors and a sample of their bytes. They do not depend on where the
 * file lies. */
void ml_weights_fingerprint(const ml_weights *weights, uint64_t out[2]);

/* Many items of an array at once: like ml_meta_int() of items index .. index + count - 1, count > 0. */
int ml_meta_ints(const ml_weights *weights, const char *key, int64_t index, int64_t count, int64_t *out);
/* Strings of an array one after the other: *next is where item `index` starts, and ml_string_next() takes it and goes
 * on, as often as there are items. Errors as of ml_meta_string(). */
int ml_meta_strings(const ml_weights *weights, const char *key, int64_t index, const uint8_t **next);
static inline const uint8_t *ml_string_next(const uint8_t **next, size_t *bytes) {
    uint64_t length; /* little endian, and checked to lie in the file */
    memcpy(&length, *next, sizeof length);
    const uint8_t *text = *next + sizeof length;
    *next = text + length;
    *bytes = (size_t)length;
    return text;
}
/* Bytes of all strings of an array together. */
size_t ml_meta_strings_bytes(const ml_weights *weights, const char *key);

#endif
