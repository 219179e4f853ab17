/* The formats of model files. To add one: write its loader, and give it a row in loaders.c. */
#ifndef ML_LOAD_LOADERS_H
#define ML_LOAD_LOADERS_H

#include "load/store.h"
#include "load/vocabulary.h"

typedef struct ml_loader {
    const char *name; /* of the format, "GGUF" */
    const char *sign; /* what a file of it does, "begins with the bytes \"GGUF\"" */
    /* 1 if the file whose `size` bytes lie at `data` is of this format, by a look at its beginning. */
    int (*recognise)(const uint8_t *data, size_t size);
    /* Fills `weights`, which has weights->path mapped as its only file, and may map more. Every length, offset and
     * count is checked against the files. What a failure leaves is freed by the caller. */
    int (*load)(ml_weights *weights);
    /* Fills `out`, in which the path stands and everything else says nothing yet, from weights that it loaded; the
     * caller releases it, after a failure as well. ML_E_NOT_FOUND if they have no vocabulary. */
    int (*vocabulary)(const ml_weights *weights, ml_vocabulary *out);
} ml_loader;

/* The loader that recognises `file`, mapped from `path`. ML_E_FORMAT with a sentence that names the formats if none
 * does. */
int ml_loader_find(const char *path, const ml_mapping *file, const ml_loader **out);

#endif
