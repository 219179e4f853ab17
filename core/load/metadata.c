/* Metadata: typed values read in place. */
#include "base/error.h"
#include "load/store.h"

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

static const char *const kind_names[] = {"an integer", "a float", "a bool", "a string", "an array"};

size_t ml_stored_bytes(int stored) {
    return stored >= 0 && stored < ML_STORED_LIMIT ? facts[stored].bytes : 0;
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

/* The `bytes` (1, 2, 4 or 8) bytes at `data` as a little-endian number. */
static uint64_t load_bits(const uint8_t *data, size_t bytes) {
    uint64_t bits = 0;
    memcpy(&bits, data, bytes);
    return bits;
}

int ml_stored_int(const ml_meta *meta, int64_t index, int64_t *out) {
    size_t bytes = facts[meta->stored].bytes;
    if (facts[meta->stored].kind != ML_META_INT) return 0;
    uint64_t bits = load_bits(meta->data + (size_t)index * bytes, bytes);
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

int64_t ml_meta_count(const ml_weights *weights) {
    return (int64_t)weights->metadata.keys.count;
}

const char *ml_meta_key(const ml_weights *weights, int64_t index) {
    return index >= 0 && index < ml_meta_count(weights) ? weights->metadata.keys.list[index] : NULL;
}

/* Finds `key` and checks that it has an item `index`. */
static int find(const ml_weights *weights, const char *key, int64_t index, const ml_meta **out) {
    const ml_meta *meta = ml_metadata_find(&weights->metadata, key);
    if (!meta) return ml_error(ML_E_NOT_FOUND, "%s has no metadata key %.200s", weights->path, key);
    if (index < 0 || index >= meta->count) {
        return ml_error(ML_E_ARGUMENT, "%s: %.200s has %lld items; there is no item %lld", weights->path, key,
                        (long long)meta->count, (long long)index);
    }
    *out = meta;
    return ML_OK;
}

static int wrong_kind(const ml_weights *weights, const char *key, const ml_meta *meta, int wanted) {
    return ml_error(ML_E_ARGUMENT, "%s: %.200s is %s, not %s", weights->path, key, kind_names[facts[meta->stored].kind],
                    kind_names[wanted]);
}

int ml_meta_kind(const ml_weights *weights, const char *key, int *kind, int *item, int64_t *count) {
    const ml_meta *meta = ml_metadata_find(&weights->metadata, key);
    if (!meta) return ml_error(ML_E_NOT_FOUND, "%s has no metadata key %.200s", weights->path, key);
    *item = facts[meta->stored].kind;
    *kind = meta->is_array ? ML_META_ARRAY : *item;
    *count = meta->count;
    return ML_OK;
}

int ml_meta_int(const ml_weights *weights, const char *key, int64_t index, int64_t *out) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index, &meta);
    if (status) return status;
    if (facts[meta->stored].kind != ML_META_INT) return wrong_kind(weights, key, meta, ML_META_INT);
    if (!ml_stored_int(meta, index, out)) {
        return ml_error(ML_E_ARGUMENT, "%s: %.200s is over 2^63 - 1; read it as a float", weights->path, key);
    }
    return ML_OK;
}

int ml_meta_ints(const ml_weights *weights, const char *key, int64_t index, int64_t count, int64_t *out) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index + count - 1, &meta);
    if (status) return status;
    for (int64_t i = 0; i < count; i++) {
        if (!ml_stored_int(meta, index + i, &out[i])) return ml_meta_int(weights, key, index + i, &out[i]);
    }
    return ML_OK;
}

int ml_meta_float(const ml_weights *weights, const char *key, int64_t index, double *out) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index, &meta);
    if (status) return status;
    size_t bytes = facts[meta->stored].bytes;
    int64_t integer;
    float single;
    if (meta->stored == ML_STORED_F32) {
        memcpy(&single, meta->data + (size_t)index * bytes, bytes);
        *out = single;
    } else if (meta->stored == ML_STORED_F64) {
        memcpy(out, meta->data + (size_t)index * bytes, bytes);
    } else if (ml_stored_int(meta, index, &integer)) {
        *out = (double)integer;
    } else if (meta->stored == ML_STORED_U64) {
        *out = (double)load_bits(meta->data + (size_t)index * bytes, bytes);
    } else {
        return wrong_kind(weights, key, meta, ML_META_FLOAT);
    }
    return ML_OK;
}

int ml_meta_bool(const ml_weights *weights, const char *key, int64_t index, int *out) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index, &meta);
    if (status) return status;
    if (meta->stored != ML_STORED_BOOL) return wrong_kind(weights, key, meta, ML_META_BOOL);
    *out = meta->data[index];
    return ML_OK;
}

/* Where string `index` of `meta` starts. */
static const uint8_t *string_at(const ml_meta *meta, int64_t index) {
    if (!meta->places) return meta->data;
    const uint8_t *at = meta->data + meta->places[index / ML_PLACE_STEP];
    size_t bytes;
    for (int64_t i = index % ML_PLACE_STEP; i > 0; i--) ml_string_next(&at, &bytes);
    return at;
}

int ml_meta_string(const ml_weights *weights, const char *key, int64_t index, const char **out, int64_t *bytes) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index, &meta);
    if (status) return status;
    if (meta->stored != ML_STORED_STRING) return wrong_kind(weights, key, meta, ML_META_STRING);
    size_t length;
    const uint8_t *next = string_at(meta, index);
    *out = (const char *)ml_string_next(&next, &length);
    *bytes = (int64_t)length;
    return ML_OK;
}

int ml_meta_strings(const ml_weights *weights, const char *key, int64_t index, const uint8_t **next) {
    const ml_meta *meta = NULL;
    int status = find(weights, key, index, &meta);
    if (status) return status;
    if (meta->stored != ML_STORED_STRING) return wrong_kind(weights, key, meta, ML_META_STRING);
    *next = string_at(meta, index);
    return ML_OK;
}

size_t ml_meta_strings_bytes(const ml_weights *weights, const char *key) {
    const ml_meta *meta = ml_metadata_find(&weights->metadata, key);
    return meta && meta->places ? meta->bytes - (size_t)meta->count * 8 : 0;
}
