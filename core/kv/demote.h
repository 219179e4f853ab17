/* The mover down: pages are packed and become cold, or go to the spill file. */
#ifndef ML_KV_DEMOTE_H
#define ML_KV_DEMOTE_H

#include "kv/state.h"

/* Puts pages down as the places say: what left the window, then what is over the budget. If the spill file fails, it is
 * not used any more. */
void ml_demote(ml_cache *cache);
/* Puts pages down until `bytes` more are within the budget, as far as that is possible: first those that only prefixes
 * show, which are forgotten where there is no disk for them. */
void ml_demote_for(ml_cache *cache, int64_t bytes);
/* Puts some down where the pool has no room, in the same order. 0 if there is nothing left to do. */
int ml_demote_some(ml_cache *cache);

#endif
