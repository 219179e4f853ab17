#include "load/names.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* The slot that holds the name, or the empty one where it belongs. Where the slots lie is the seed, so that no file can
 * be built to collide. */
static size_t find_slot(const ml_names *names, const char *name, size_t bytes) {
    size_t slot = ml_hash(name, (int64_t)bytes, (uint64_t)(uintptr_t)names->slots) & (names->slot_count - 1);
    for (; names->slots[slot]; slot = (slot + 1) & (names->slot_count - 1)) {
        const char *other = names->list[names->slots[slot] - 1];
        if (strncmp(other, name, bytes) == 0 && other[bytes] == 0) break;
    }
    return slot;
}

/* Doubles the slots, so that at most half of them are ever taken. */
static int grow_slots(ml_names *names) {
    ml_names wider = *names;
    wider.slot_count = names->slot_count ? names->slot_count * 2 : 64;
    wider.slots = ml_calloc(wider.slot_count, sizeof *wider.slots);
    if (!wider.slots) return ML_E_MEMORY;
    for (size_t i = 0; i < names->count; i++) {
        wider.slots[find_slot(&wider, names->list[i], strlen(names->list[i]))] = (uint32_t)i + 1;
    }
    free(names->slots);
    *names = wider;
    return ML_OK;
}

int ml_names_add(ml_names *names, const char *name, size_t bytes) {
    if (names->count >= UINT32_MAX / 4) return ml_error(ML_E_MEMORY, "out of memory: too many names");
    if (2 * (names->count + 1) > names->slot_count) {
        int status = grow_slots(names);
        if (status) return status;
    }
    size_t slot = find_slot(names, name, bytes);
    if (names->slots[slot]) return ML_E_FORMAT;
    int status = ml_grow((void **)&names->list, &names->capacity, names->count + 1, sizeof *names->list);
    if (status) return status;
    char *copy = ml_calloc(bytes + 1, 1);
    if (!copy) return ML_E_MEMORY;
    memcpy(copy, name, bytes);
    names->list[names->count++] = copy;
    names->slots[slot] = (uint32_t)names->count;
    return ML_OK;
}

int64_t ml_names_find(const ml_names *names, const char *name) {
    if (!names->slot_count) return -1;
    return (int64_t)names->slots[find_slot(names, name, strlen(name))] - 1;
}

void ml_names_clear(ml_names *names) {
    for (size_t i = 0; i < names->count; i++) free(names->list[i]);
    free(names->list);
    free(names->slots);
    *names = (ml_names){0};
}
