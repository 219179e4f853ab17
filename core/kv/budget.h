/* The budget of memory for pages (ml_places): what of it is in use, and what is left. */
#ifndef ML_KV_BUDGET_H
#define ML_KV_BUDGET_H

#include "kv/state.h"

/* Bytes that the cache is above its budget when it takes `more`; 0 or less: it is within. */
int64_t ml_budget_excess(const ml_cache *cache, int64_t more);
/* Bytes that may come back into memory to stay, as far as the budget goes. */
int64_t ml_budget_spare(const ml_cache *cache);

#endif
