/* What both schemes share: where their ids go. */
#ifndef ML_TEXT_SCHEME_H
#define ML_TEXT_SCHEME_H

#include "text/vocab.h"

/* The caller's array: ids past its end are counted, not stored. */
typedef struct ml_ids {
    int32_t *ids;
    int64_t capacity, count;
} ml_ids;

static inline void ml_ids_put(ml_ids *out, int32_t id) {
    if (out->count < out->capacity) out->ids[out->count] = id;
    out->count++;
}

#endif
