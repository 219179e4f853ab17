/* Prefixes inside core: the pages that closed and rewound sequences leave behind, found again by their tokens. */
#ifndef ML_KV_PREFIX_H
#define ML_KV_PREFIX_H

#include "kv/cache.h"

/* Keeps the full pages of what a sequence soundly holds, and with `tail` what stands in the page after them. Where
 * there is no memory to remember them, they are forgotten. Does nothing where prefixes are off. */
void ml_prefix_keep(ml_cache *cache, const ml_sequence *sequence, int tail);
/* Forgets the least recently used until pages that only prefixes show are within the budget. */
void ml_prefix_settle(ml_cache *cache);
/* Forgets the least recently used page of tokens. 0 if nothing is left: for whoever needs memory. */
int ml_prefix_forget(ml_cache *cache);
/* Forgets all, and that there are prefixes. */
void ml_prefixes_free(ml_cache *cache);

#endif
