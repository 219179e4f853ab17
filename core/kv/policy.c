#include "kv/policy.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>

void ml_policy_free(ml_cache *cache) {
    for (size_t i = 0; i < cache->format_count; i++) free(cache->formats[i]);
    free(cache->formats);
    free(cache->goal);
}

const ml_format *ml_policy_format(ml_cache *cache, int rotated, const uint8_t *key_bits, const uint8_t *value_bits) {
    ml_format *format = ml_calloc(1, ml_format_size(cache->shape.kv_heads));
    if (!format) return NULL;
    ml_format_lay_out(format, cache->dtype, cache->shape.kv_heads, cache->shape.head_dim, rotated, key_bits,
                      value_bits);
    const ml_format *known = format->plain ? cache->plain : NULL;
    for (size_t i = 0; !known && i < cache->format_count; i++) {
        if (ml_format_same(cache->formats[i], format)) known = cache->formats[i];
    }
    if (known) {
        free(format);
        return known;
    }
    void *list = cache->formats;
    int status = ml_grow(&list, &cache->format_capacity, cache->format_count + 1, sizeof *cache->formats);
    cache->formats = list;
    if (status == ML_OK) status = ml_pool_size(cache->pool, format->bytes);
    if (status != ML_OK) {
        free(format);
        return NULL;
    }
    cache->formats[cache->format_count++] = format;
    return format;
}

int ml_policy_rotate(ml_cache *cache, int rotated) {
    if (cache->rotated != rotated && (cache->warm_pages > 0 || cache->goal)) return 0;
    cache->rotated = rotated;
    return 1;
}

/* Whether bits are such that there is a format of them. */
static int check_bits(const ml_cache *cache, const uint8_t *bits, const char *what) {
    for (int32_t i = 0; bits && i < cache->shape.layers * cache->shape.kv_heads; i++) {
        if (bits[i] == 16 || bits[i] == 8 || bits[i] == 4) continue;
        return ml_error(ML_E_ARGUMENT, "%s of layer %d, head %d are 16, 8 or 4, not %d", what,
                        i / cache->shape.kv_heads, i % cache->shape.kv_heads, bits[i]);
    }
    return ML_OK;
}

int ml_cache_policy(ml_cache *cache, const ml_policy *policy) {
    const int64_t most = INT64_C(1) << 48; /* so that sums of them stay in range; a saved session has no more */
    if (policy->hot_tokens < 0 || policy->hot_tokens > most || policy->first_tokens < 0 ||
        policy->first_tokens > most) {
        return ml_error(ML_E_ARGUMENT, "hot_tokens and first_tokens are 0 to 2^48, not %lld and %lld",
                        (long long)policy->hot_tokens, (long long)policy->first_tokens);
    }
    const int rotated = policy->rotate != 0;
    if (rotated != cache->rotated && cache->warm_pages > 0) {
        return ml_error(ML_E_ARGUMENT, "rotation cannot change while %lld pages are quantised",
                        (long long)cache->warm_pages);
    }
    int status = check_bits(cache, policy->key_bits, "key_bits");
    if (status == ML_OK) status = check_bits(cache, policy->value_bits, "value_bits");
    if (status != ML_OK) return status;
    const ml_format **goal = ml_calloc((size_t)cache->shape.layers, sizeof *goal);
    if (!goal) return ML_E_MEMORY;
    for (int32_t l = 0; l < cache->shape.layers; l++) {
        const int32_t at = l * cache->shape.kv_heads;
        goal[l] = ml_policy_format(cache, rotated, policy->key_bits ? policy->key_bits + at : NULL,
                                   policy->value_bits ? policy->value_bits + at : NULL);
        if (!goal[l]) {
            free(goal);
            return ML_E_MEMORY;
        }
    }
    free(cache->goal);
    cache->goal = goal;
    cache->rotated = rotated;
    cache->hot_tokens = policy->hot_tokens;
    cache->first_tokens = policy->first_tokens;
    for (size_t i = 0; i < cache->count; i++) cache->sequences[i].settled = cache->sequences[i].windowed = 0;
    return ML_OK;
}

int ml_cache_read_policy(const ml_cache *cache, ml_policy *out, uint8_t *bits) {
    const size_t heads = (size_t)cache->shape.kv_heads, all = (size_t)cache->shape.layers * heads;
    if (!cache->goal) return 0;
    for (size_t i = 0; i < 2 * all; i++) {
        const size_t values = i >= all, at = i - values * all;
        bits[i] = (uint8_t)cache->goal[at / heads]->sides[values * heads + at % heads].bits;
    }
    *out = (ml_policy){cache->hot_tokens, cache->first_tokens, bits, bits + all, cache->rotated};
    return 1;
}

int64_t ml_cache_page_bytes(const ml_cache *cache, int32_t layer, int plain) {
    if (layer < 0 || layer >= cache->shape.layers) return ml_error(ML_E_ARGUMENT, "the cache has no layer %d", layer);
    return plain || !cache->goal ? cache->plain->bytes : cache->goal[layer]->bytes;
}

void ml_cache_pages(const ml_cache *cache, int64_t *pages, int64_t *quantised) {
    *pages = cache->pages_used;
    *quantised = cache->warm_pages;
}
