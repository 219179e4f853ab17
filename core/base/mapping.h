/* A file, mapped read-only. */
#ifndef ML_BASE_MAPPING_H
#define ML_BASE_MAPPING_H

#include <stddef.h>
#include <stdint.h>

typedef struct ml_mapping {
    const uint8_t *data;
    size_t size;    /* never 0 */
    size_t copied;  /* bytes from the start on that are memory instead: see ml_mapping_copy() */
    int descriptor; /* or -1 */
} ml_mapping;

/* Maps the regular file at `path`, shared with every process that reads it. ML_E_IO with a sentence if it is missing,
 * a folder, empty or unreadable. */
int ml_mapping_open(const char *path, ml_mapping *out);
void ml_mapping_close(ml_mapping *mapping);
/* Closes the descriptor; the mapping stays, but it can neither be copied nor mapped ahead. */
void ml_mapping_release(ml_mapping *mapping);
/* Puts memory of this process, under huge pages, in the place of the next part of the file: the addresses stay, and the
 * system may drop the file's pages. `copied` tells how far it came. `path` is for error sentences. */
int ml_mapping_copy(ml_mapping *mapping, const char *path);

#endif
