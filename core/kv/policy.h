/* The policy of a cache: which formats its pages become. */
#ifndef ML_KV_POLICY_H
#define ML_KV_POLICY_H

#include "kv/state.h"

/* The cache's format of these bits {kv_heads} (NULL: all 16), made when it is asked for first: pages and policies point
 * to it until the cache goes. NULL without memory, or when the pool has no room for another size. */
const ml_format *ml_policy_format(ml_cache *cache, int rotated, const uint8_t *key_bits, const uint8_t *value_bits);
/* 1 if quantised keys are turned: so must the queries be that meet them. */
static inline int ml_policy_rotated(const ml_cache *cache) {
    return cache->rotated;
}
/* Lets keys be turned, or not, before they are quantised. 0 if a policy or quantised pages have it otherwise. */
int ml_policy_rotate(ml_cache *cache, int rotated);
/* Frees what the policy holds. */
void ml_policy_free(ml_cache *cache);

#endif
