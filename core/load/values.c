#include "load/values.h"

#include "base/memory.h"
#include "moonloom.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    uint8_t bytes; /* 0 where an item has no fixed size */
    uint8_t kind;
} facts[ML_STORED_LIMIT] = {
    [ML_STORED_U8] = {1, ML_META_INT},        [ML_STORED_I8] = {1, ML_META_INT},
    [ML_STORED_U16] = {2, ML_META_INT},       [ML_STORED_I16] = {2, ML_META_INT},
    [ML_STORED_U32] = {4, ML_META_INT},       [ML_STORED_I32] = {4, ML_META_INT},
    [ML_STORED_F32] = {4, ML_META_FLOAT},     [ML_STORED_BOOL] = {1, ML_META_BOOL},
    [ML_STORED_STRING] = {0, ML_META_STRING}, [ML_STORED_ARRAY] = {0, ML_META_ARRAY},
    [ML_STORED_U64] = {8, ML_META_INT},       [ML_STORED_I64] = {8, ML_META_INT},
    [ML_STORED_F64] = {8, ML_META_FLOAT},
};

size_t ml_stored_bytes(int stored) {
    return stored >= 0 && stored < ML_STORED_LIMIT ? facts[stored].bytes : 0;
}

int ml_stored_kind(int stored) {
    return facts[stored].kind;
}

int ml_metadata_add(ml_metadata *metadata, const char *key, size_t bytes, ml_meta **value) {
    const size_t number = metadata->keys.count;
    int status = ml_grow((void **)&metadata->values, &metadata->capacity, number + 1, sizeof *metadata->values);
    if (!status) status = ml_names_add(&metadata->keys, key, bytes);
    if (status) return status;
    *value = &metadata->values[number];
    **value = (ml_meta){0};
    return ML_OK;
}

void ml_metadata_clear(ml_metadata *metadata) {
    for (size_t i = 0; i < metadata->keys.count; i++) free(metadata->values[i].places);
    free(metadata->values);
    ml_names_clear(&metadata->keys);
    *metadata = (ml_metadata){0};
}

const ml_meta *ml_metadata_find(const ml_metadata *metadata, const char *key) {
    int64_t found = ml_names_find(&metadata->keys, key);
    return found < 0 ? NULL : &metadata->values[found];
}

/* Item `index` of a type of fixed size, as a little-endian number. */
static uint64_t item_bits(const ml_meta *meta, int64_t index) {
    const size_t bytes = facts[meta->stored].bytes;
    uint64_t bits = 0;
    memcpy(&bits, meta->data + (size_t)index * bytes, bytes);
    return bits;
}

int ml_value_int(const ml_meta *meta, int64_t index, int64_t *out) {
    if (facts[meta->stored].kind != ML_META_INT) return 0;
    const uint64_t bits = item_bits(meta, index);
    switch (meta->stored) {
    case ML_STORED_I8:
        *out = (int8_t)bits;
        return 1;
    case ML_STORED_I16:
        *out = (int16_t)bits;
        return 1;
    case ML_STORED_I32:
        *out = (int32_t)bits;
        return 1;
    case ML_STORED_U64:
        if (bits > INT64_MAX) return 0;
        /* fall through */
    default:
        *out = (int64_t)bits;
        return 1;
    }
}

int ml_value_float(const ml_meta *meta, int64_t index, double *out) {
    int64_t integer;
    if (meta->stored == ML_STORED_F32) {
        float single;
        memcpy(&single, meta->data + (size_t)index * sizeof single, sizeof single);
        *out = single;
    } else if (meta->stored == ML_STORED_F64) {
        memcpy(out, meta->data + (size_t)index * sizeof *out, sizeof *out);
    } else if (ml_value_int(meta, index, &integer)) {
        *out = (double)integer;
    } else if (meta->stored == ML_STORED_U64) {
        *out = (double)item_bits(meta, index);
    } else {
        return 0;
    }
    return 1;
}

ml_strings ml_value_strings(const ml_meta *meta) {
    return (ml_strings){
        .count = meta->count,
        .bytes = meta->bytes - (size_t)meta->count * sizeof(uint64_t),
        .data = meta->data,
        .places = meta->places,
    };
}
