/* A file, mapped read-only. */
#ifndef ML_LOAD_MAPPING_H
#define ML_LOAD_MAPPING_H

#include <stddef.h>
#include <stdint.h>

typedef struct ml_mapping {
    const uint8_t *data;
    size_t size; /* never 0 */
} ml_mapping;

/* Maps the regular file at `path`, shared with every process that reads it. ML_E_IO with a sentence if it is missing,
 * a folder, empty or unreadable. */
int ml_mapping_open(const char *path, ml_mapping *out);
void ml_mapping_close(ml_mapping *mapping);

#endif
