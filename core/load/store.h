/* What a loader fills in: the content of ml_weights. Only core/load looks inside. */
#ifndef ML_LOAD_STORE_H
#define ML_LOAD_STORE_H

#include "base/mapping.h"
#include "load/names.h"
#include "load/prefault.h"
#include "load/values.h"
#include "moonloom.h"

#include <stdatomic.h>

/* One tensor; its name has the same number in ml_weights.names. */
typedef struct ml_entry {
    ml_tensor_info info;
    const uint8_t *data;
} ml_entry;

struct ml_loader;

struct ml_weights {
    atomic_int references;
    char *path;                     /* as given to ml_weights_open() */
    const struct ml_loader *loader; /* of the file's format */
    ml_mapping *files;
    size_t file_count, file_capacity;
    ml_prefault *prefault; /* under way, or ended by itself; NULL if not started */
    ml_metadata metadata;
    ml_names names;
    ml_entry *entries;
    size_t entry_capacity;
    double timings[3]; /* milliseconds: header, metadata, tensor infos */
};

/* Opens one more file; its number is file_count - 1 afterwards. */
int ml_store_map(ml_weights *weights, const char *path);
/* Adds a tensor of the newest file: *entry has its name and file, and a shape of ones; the loader fills in the rest.
 * Adding another may move it. ML_E_FORMAT, without a sentence, if the name is there already. */
int ml_store_add(ml_weights *weights, const char *name, size_t bytes, ml_entry **entry);
/* Points the tensors from number `first` on, which count their offsets from byte `begin` of the newest file, called
 * `path` in sentences, into it. Refuses tensors that do not lie in the file, or in each other. */
int ml_store_place(ml_weights *weights, const char *path, size_t first, uint64_t begin);
/* Ends mapping ahead, which looks at the files. */
void ml_store_stop_prefault(ml_weights *weights);
/* Closes all files and forgets what was read from them. */
void ml_store_clear(ml_weights *weights);

#endif
