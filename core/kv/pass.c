#include "kv/pass.h"

#include "base/error.h"
#include "kv/demote.h"

void ml_pass_begin(ml_cache *cache) {
    for (size_t i = 0; i < cache->count; i++) cache->sequences[i].pending = 0;
}

int64_t ml_pass_expect(ml_cache *cache, int32_t sequence) {
    ml_sequence *s = ml_sequence_find(cache, sequence);
    return s ? s->length + s->pending++ : ML_E_ARGUMENT;
}

int ml_pass_reserve_one(ml_cache *cache, ml_sequence *sequence, int64_t count) {
    const int64_t begin = sequence->length, end = begin + count;
    ml_sequence_unreserve(cache, sequence); /* of a pass that was given up */
    sequence->used_at = cache->tick;
    /* The last page may have to be copied. */
    const int64_t fresh =
        (end + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS - (begin + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS + 1;
    ml_demote_for(cache, fresh * cache->shape.layers * cache->plain->bytes);
    int status = ml_sequence_grow(cache, sequence, count);
    if (status != ML_OK) ml_sequence_unreserve(cache, sequence);
    return status;
}

int ml_pass_reserve(ml_cache *cache) {
    cache->tick++;
    for (size_t i = 0; i < cache->count; i++) {
        if (cache->sequences[i].pending > 0) cache->sequences[i].used_at = cache->tick;
    }
    for (size_t i = 0; i < cache->count; i++) {
        ml_sequence *sequence = &cache->sequences[i];
        if (sequence->pending == 0) continue;
        int status = ml_pass_reserve_one(cache, sequence, sequence->pending);
        if (status != ML_OK) {
            ml_pass_abandon(cache);
            return status;
        }
    }
    return ML_OK;
}

void ml_pass_abandon(ml_cache *cache) {
    for (size_t i = 0; i < cache->count; i++) {
        if (cache->sequences[i].pending > 0) ml_sequence_unreserve(cache, &cache->sequences[i]);
    }
}

void ml_pass_append(ml_cache *cache, int32_t sequence, int32_t id, int whole) {
    ml_sequence_append(&cache->sequences[sequence], id, whole);
}

void ml_pass_end(ml_cache *cache) {
    ml_pages_changed(cache);
}
