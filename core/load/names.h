/* Names with their numbers: a list of distinct strings and a hash over it. */
#ifndef ML_LOAD_NAMES_H
#define ML_LOAD_NAMES_H

#include <stddef.h>
#include <stdint.h>

typedef struct ml_names {
    char **list; /* owned, zero-terminated, in the order they were added */
    size_t count, capacity;
    uint32_t *slots; /* open addressing: number of the name + 1, or 0 */
    size_t slot_count;
} ml_names;

/* Adds the `bytes` bytes at `name` (no zero byte among them) as number names->count. ML_E_FORMAT, without a sentence,
 * if the name is there already; ML_E_MEMORY. Start from a zeroed ml_names. */
int ml_names_add(ml_names *names, const char *name, size_t bytes);
/* The number of a name, or -1. */
int64_t ml_names_find(const ml_names *names, const char *name);
void ml_names_clear(ml_names *names);

#endif
