/* The mover within memory: after the budget became smaller, what is there moves close together. */
#ifndef ML_KV_COMPACT_H
#define ML_KV_COMPACT_H

#include "kv/state.h"

/* Moves all that the cache has in memory to a pool of its budget, and the old pool goes as a whole. ML_E_MEMORY, and
 * nothing is changed, if it does not fit. */
int ml_compact(ml_cache *cache);

#endif
