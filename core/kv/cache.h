/* The face of the KV cache: what model/ makes one with; all else of it is in moonloom.h. */
#ifndef ML_KV_CACHE_H
#define ML_KV_CACHE_H

#include "kv/state.h"

/* Makes an empty cache for what `shape` describes (copied); see ml_cache_create(). On failure shape->model stays the
 * caller's. */
int ml_cache_make(const ml_shape *shape, int dtype, ml_cache **out);
/* The model that it was made for. */
const void *ml_cache_model(const ml_cache *cache);

#endif
