/* Prefixes inside core: the pages that closed and rewound sequences leave behind, found again by their tokens. */
#ifndef ML_KV_PREFIX_H
#define ML_KV_PREFIX_H

#include "kv/state.h"

typedef struct ml_prefix ml_prefix;

/* Keeps the full pages of what a sequence soundly holds, and with `tail` what stands in the page after them. Where
 * there is no memory to remember them, they are forgotten. Does nothing where prefixes are off. */
void ml_prefix_keep(ml_cache *cache, const ml_sequence *sequence, int tail);
/* Forgets the least recently used until pages that only prefixes show, in memory and on disk, are within the budget of
 * ml_cache_keep(). */
void ml_prefix_settle(ml_cache *cache);
/* Forgets the least recently used page of tokens. 0 if nothing is left: for whoever needs memory. */
int ml_prefix_forget(ml_cache *cache);
/* The pages {layers} of a page of tokens; NULL after the last. *at = NULL: of the least recently used, then of the one
 * used after that, and so on, until one is forgotten. */
ml_page *const *ml_prefix_pages(const ml_cache *cache, const ml_prefix **at);
/* Forgets all, and that there are prefixes. */
void ml_prefixes_free(ml_cache *cache);

#endif
