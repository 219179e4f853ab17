/* What a loader fills in: the content of ml_weights. Only core/load looks inside. */
#ifndef ML_LOAD_STORE_H
#define ML_LOAD_STORE_H

#include "base/mapping.h"
#include "load/names.h"
#include "load/prefault.h"
#include "load/weights.h"

#include <stdatomic.h>

/* How the items of a metadata value are stored, little endian and packed. The numbers are GGUF's. */
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

/* One metadata value; its key has the same number in ml_metadata.keys. */
typedef struct ml_meta {
    int is_array;
    int stored;          /* ML_STORED_... of an item */
    int64_t count;       /* items; 1 for a plain value */
    const uint8_t *data; /* the first item, in the mapped file */
    uint32_t *places;    /* array of strings: where every ML_PLACE_STEP-th one starts, in bytes from `data`; else NULL.
                            Owned. */
    size_t bytes;        /* array of strings: of all of them with their lengths */
} ml_meta;

/* Vocabularies have half a million strings: to note where each one starts costs more time than to walk over a few. */
enum { ML_PLACE_STEP = 16 };

typedef struct ml_metadata {
    ml_names keys;
    ml_meta *values;
    size_t capacity;
} ml_metadata;

/* One tensor; its name has the same number in ml_weights.names. */
typedef struct ml_entry {
    ml_tensor_info info;
    const uint8_t *data;
} ml_entry;

struct ml_weights {
    atomic_int references;
    char *path;
    ml_mapping *files;
    size_t file_count, file_capacity;
    ml_prefault *prefault; /* under way, or ended by itself; NULL if not started */
    ml_metadata metadata;
    ml_names names;
    ml_entry *entries;
    size_t entry_capacity;
    double timings[3]; /* header, metadata, tensor infos */
};

/* Bytes of one item, or 0 for strings, arrays and numbers that are no type. */
size_t ml_stored_bytes(int stored);
void ml_metadata_clear(ml_metadata *metadata);
/* The value of `key`, or NULL. */
const ml_meta *ml_metadata_find(const ml_metadata *metadata, const char *key);
/* Item `index` of `meta` as an integer; 0 if it is none, or does not fit. */
int ml_stored_int(const ml_meta *meta, int64_t index, int64_t *out);

/* Opens one more file; its number is file_count - 1 afterwards. */
int ml_weights_map(ml_weights *weights, const char *path);
/* Closes all files and forgets what was read from them. */
void ml_weights_clear(ml_weights *weights);

/* Fills `weights`, which has weights->path mapped as its only file, from GGUF. Opens the other parts of a split file.
 */
int ml_gguf_load(ml_weights *weights);

#endif
