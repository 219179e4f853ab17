#include "kv/budget.h"

/* What the cache has of the pool, with what rounding loses. */
static int64_t in_use(const ml_cache *cache) {
    ml_pool_info info;
    ml_pool_stats(cache->pool, &info);
    return info.used + info.lost;
}

/* A part of the budget goes for blocks of the pool that are not full. */
static int64_t limit_of(const ml_cache *cache) {
    return cache->places.memory - cache->places.memory / 8;
}

int64_t ml_budget_excess(const ml_cache *cache, int64_t more) {
    return cache->places.memory == 0 ? 0 : in_use(cache) + more - limit_of(cache);
}

/* Less than the limit by what a few tokens need: else what comes back would be put down again at once. */
int64_t ml_budget_spare(const ml_cache *cache) {
    if (cache->places.memory == 0) return INT64_MAX;
    const int64_t limit = limit_of(cache), room = 2 * (int64_t)cache->shape.layers * cache->plain->bytes,
                  margin = room < limit / 8 ? room : limit / 8;
    return limit - margin - in_use(cache);
}
