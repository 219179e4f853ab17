/* What callers ask of metadata: typed values of weights, with a sentence where there is none. */
#include "base/error.h"
#include "load/store.h"

static const char *const kind_names[] = {"an integer", "a float", "a bool", "a string", "an array"};

int64_t ml_meta_count(const ml_weights *weights) {
    return (int64_t)weights->metadata.keys.count;
}

const char *ml_meta_key(const ml_weights *weights, int64_t index) {
    return index >= 0 && index < ml_meta_count(weights) ? weights->metadata.keys.list[index] : NULL;
}

static int find(const ml_weights *weights, const char *key, const ml_meta **out) {
    *out = ml_metadata_find(&weights->metadata, key);
    return *out ? ML_OK : ml_error(ML_E_NOT_FOUND, "%s has no metadata key %.200s", weights->path, key);
}

/* Finds `key` and checks that it has an item `index`. */
static int find_item(const ml_weights *weights, const char *key, int64_t index, const ml_meta **out) {
    int status = find(weights, key, out);
    if (status || (index >= 0 && index < (*out)->count)) return status;
    return ml_error(ML_E_ARGUMENT, "%s: %.200s has %lld items; there is no item %lld", weights->path, key,
                    (long long)(*out)->count, (long long)index);
}

static int wrong_kind(const ml_weights *weights, const char *key, const ml_meta *meta, int wanted) {
    return ml_error(ML_E_ARGUMENT, "%s: %.200s is %s, not %s", weights->path, key,
                    kind_names[ml_stored_kind(meta->stored)], kind_names[wanted]);
}

int ml_meta_kind(const ml_weights *weights, const char *key, int *kind, int *item, int64_t *count) {
    const ml_meta *meta;
    int status = find(weights, key, &meta);
    if (status) return status;
    *item = ml_stored_kind(meta->stored);
    *kind = meta->is_array ? ML_META_ARRAY : *item;
    *count = meta->count;
    return ML_OK;
}

int ml_meta_int(const ml_weights *weights, const char *key, int64_t index, int64_t *out) {
    const ml_meta *meta;
    int status = find_item(weights, key, index, &meta);
    if (status) return status;
    if (ml_stored_kind(meta->stored) != ML_META_INT) return wrong_kind(weights, key, meta, ML_META_INT);
    if (ml_value_int(meta, index, out)) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "%s: %.200s is over 2^63 - 1; read it as a float", weights->path, key);
}

int ml_meta_float(const ml_weights *weights, const char *key, int64_t index, double *out) {
    const ml_meta *meta;
    int status = find_item(weights, key, index, &meta);
    if (status || ml_value_float(meta, index, out)) return status;
    return wrong_kind(weights, key, meta, ML_META_FLOAT);
}

int ml_meta_bool(const ml_weights *weights, const char *key, int64_t index, int *out) {
    const ml_meta *meta;
    int status = find_item(weights, key, index, &meta);
    if (status) return status;
    if (meta->stored != ML_STORED_BOOL) return wrong_kind(weights, key, meta, ML_META_BOOL);
    *out = meta->data[index];
    return ML_OK;
}

int ml_meta_string(const ml_weights *weights, const char *key, int64_t index, const char **out, int64_t *bytes) {
    const ml_meta *meta;
    int status = find_item(weights, key, index, &meta);
    if (status) return status;
    if (meta->stored != ML_STORED_STRING) return wrong_kind(weights, key, meta, ML_META_STRING);
    const uint8_t *next = meta->data;
    if (meta->is_array) {
        const ml_strings strings = ml_value_strings(meta);
        next = ml_strings_at(&strings, index);
    }
    size_t length;
    *out = (const char *)ml_string_next(&next, &length);
    *bytes = (int64_t)length;
    return ML_OK;
}
