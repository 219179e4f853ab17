/* Metadata as a loader notes it: keys, and values that are read where the file holds them. */
#ifndef ML_LOAD_VALUES_H
#define ML_LOAD_VALUES_H

#include "load/names.h"
#include "load/strings.h"

/* How the items of a value are stored, little endian and packed. The numbers are GGUF's. */
enum {
    ML_STORED_U8 = 0,
    ML_STORED_I8 = 1,
    ML_STORED_U16 = 2,
    ML_STORED_I16 = 3,
    ML_STORED_U32 = 4,
    ML_STORED_I32 = 5,
    ML_STORED_F32 = 6,
    ML_STORED_BOOL = 7,
    ML_STORED_STRING = 8, /* length in 8 bytes, then the bytes */
    ML_STORED_ARRAY = 9,  /* type in 4 bytes, count in 8, then the items */
    ML_STORED_U64 = 10,
    ML_STORED_I64 = 11,
    ML_STORED_F64 = 12,
    ML_STORED_LIMIT = 13
};

/* One value; its key has the same number in ml_metadata.keys. */
typedef struct ml_meta {
    int is_array;
    int stored;          /* ML_STORED_... of an item */
    int64_t count;       /* items; 1 for a plain value */
    const uint8_t *data; /* the first item, in the mapped file */
    uint32_t *places;    /* array of strings: see ml_strings; else NULL. Owned. */
    size_t bytes;        /* array of strings: of all of them with their lengths */
} ml_meta;

typedef struct ml_metadata {
    ml_names keys;
    ml_meta *values;
    size_t capacity;
} ml_metadata;

/* Bytes of one item, or 0 for strings, arrays and numbers that are no type. */
size_t ml_stored_bytes(int stored);
/* ML_META_... of an item; `stored` is one of the above. */
int ml_stored_kind(int stored);

/* Adds a key (`bytes` bytes at `key`): *value is zeroed, and the loader fills it in. Adding another may move it.
 * ML_E_FORMAT, without a sentence, if the key is there already; ML_E_MEMORY. Start from a zeroed ml_metadata. */
int ml_metadata_add(ml_metadata *metadata, const char *key, size_t bytes, ml_meta **value);
void ml_metadata_clear(ml_metadata *metadata);
/* The value of `key`, or NULL. */
const ml_meta *ml_metadata_find(const ml_metadata *metadata, const char *key);

/* Item `index` of `meta`, which has that many, as an integer; 0 if it is none, or does not fit. */
int ml_value_int(const ml_meta *meta, int64_t index, int64_t *out);
/* Item `index` of `meta`, which has that many, as a double; integers are converted. 0 if it is no number. */
int ml_value_float(const ml_meta *meta, int64_t index, double *out);
/* The strings of `meta`, an array of strings; they live as long as it. */
ml_strings ml_value_strings(const ml_meta *meta);

#endif
