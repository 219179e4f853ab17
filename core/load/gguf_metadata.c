#include "load/gguf_metadata.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_DEPTH = 8 }; /* arrays within arrays */

/* Walks over the meta->count strings from meta->data on and notes where some begin. */
static int take_strings(ml_gguf_reader *r, ml_meta *meta) {
    const size_t begin = r->at, count = (size_t)meta->count;
    meta->places = ml_calloc(count / ML_STRINGS_STEP + 1, sizeof *meta->places);
    if (!meta->places) return ML_E_MEMORY;
    for (size_t i = 0; i < count; i++) {
        if (i % ML_STRINGS_STEP == 0) {
            if (r->at - begin > UINT32_MAX) {
                return ml_error(ML_E_UNSUPPORTED, "%s: %s is over 4 GiB of strings", r->path, r->what);
            }
            meta->places[i / ML_STRINGS_STEP] = (uint32_t)(r->at - begin);
        }
        uint64_t length = 0;
        const uint8_t *text = NULL;
        int status = ml_gguf_take_string(r, &text, &length);
        if (status) return status;
    }
    meta->bytes = r->at - begin;
    return ML_OK;
}

/* Walks over `count` items of a fixed size. */
static int take_plain(ml_gguf_reader *r, uint64_t count, int stored) {
    const uint8_t *items = NULL;
    int status = ml_gguf_check_count(r, count, ml_stored_bytes(stored));
    if (!status) status = ml_gguf_take(r, count * ml_stored_bytes(stored), &items);
    if (status || stored != ML_STORED_BOOL) return status;
    for (uint64_t i = 0; i < count; i++) {
        if (items[i] > 1) return ml_error(ML_E_FORMAT, "%s is damaged: %s is neither true nor false", r->path, r->what);
    }
    return ML_OK;
}

static int take_array(ml_gguf_reader *r, int depth, ml_meta *meta);

/* Walks over `count` arrays; what is in them is checked and otherwise left alone. */
static int take_arrays(ml_gguf_reader *r, uint64_t count, int depth) {
    if (depth == MAX_DEPTH) {
        return ml_error(ML_E_UNSUPPORTED, "%s: %s nests arrays more than %d deep", r->path, r->what, MAX_DEPTH);
    }
    for (uint64_t i = 0; i < count; i++) {
        ml_meta inner = {0};
        int status = take_array(r, depth + 1, &inner);
        free(inner.places);
        if (status) return status;
    }
    return ML_OK;
}

/* Type, count and items of an array. */
static int take_array(ml_gguf_reader *r, int depth, ml_meta *meta) {
    uint32_t stored = 0;
    uint64_t count = 0;
    int status = ml_gguf_take_u32(r, &stored);
    if (!status) status = ml_gguf_take_u64(r, &count);
    if (status) return status;
    meta->is_array = 1;
    meta->stored = (int)stored;
    meta->data = r->data + r->at;
    size_t least = stored == ML_STORED_STRING ? 8 : stored == ML_STORED_ARRAY ? 12 : ml_stored_bytes((int)stored);
    if (least == 0) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s is an array of the unknown type %u (at byte %zu)", r->path,
                        r->what, stored, r->at - 12);
    }
    status = ml_gguf_check_count(r, count, least);
    if (status) return status;
    meta->count = (int64_t)count;
    if (stored == ML_STORED_STRING) return take_strings(r, meta);
    if (stored == ML_STORED_ARRAY) return take_arrays(r, count, depth);
    return take_plain(r, count, (int)stored);
}

/* Type and value of a pair. */
static int take_value(ml_gguf_reader *r, ml_meta *meta) {
    uint32_t stored = 0;
    int status = ml_gguf_take_u32(r, &stored);
    if (status) return status;
    if (stored == ML_STORED_ARRAY) return take_array(r, 0, meta);
    *meta = (ml_meta){.stored = (int)stored, .count = 1, .data = r->data + r->at};
    if (stored == ML_STORED_STRING) {
        uint64_t length = 0;
        const uint8_t *text = NULL;
        return ml_gguf_take_string(r, &text, &length);
    }
    if (ml_stored_bytes((int)stored)) return take_plain(r, 1, (int)stored);
    return ml_error(ML_E_FORMAT, "%s is damaged: %s has the unknown type %u (at byte %zu)", r->path, r->what, stored,
                    r->at - 4);
}

int ml_gguf_take_metadata(ml_gguf_reader *r, uint64_t count, ml_metadata *metadata) {
    for (uint64_t i = 0; i < count; i++) {
        const char *key = NULL;
        size_t bytes = 0;
        ml_meta *value = NULL;
        snprintf(r->what, sizeof r->what, "metadata pair %llu", (unsigned long long)i);
        int status = ml_gguf_take_name(r, &key, &bytes);
        if (status) return status;
        snprintf(r->what, sizeof r->what, "metadata value %.*s", bytes < 200 ? (int)bytes : 200, key);
        status = ml_metadata_add(metadata, key, bytes, &value);
        if (status == ML_E_FORMAT) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s is there twice", r->path, r->what);
        }
        if (!status) status = take_value(r, value);
        if (status) return status;
    }
    return ML_OK;
}
