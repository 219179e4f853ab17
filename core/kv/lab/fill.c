/* Random tokens in place of a prefill, to measure how a full cache behaves. For benchmarks only. */
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "kv/pass.h"

#include <stdlib.h>

typedef struct filling {
    const ml_cache *cache;
    const ml_sequence *sequence;
    int64_t first, count; /* tokens that are reserved */
    uint64_t seed;
    float *room; /* {layers, 3, kv_heads, head_dim} */
} filling;

/* `n` numbers (a multiple of 2) around 0 with deviation 1, nearly normal: sums of four uniform ones. */
static void draw(uint64_t *state, float *out, int64_t n) {
    const float root = 1.0f / 147.8f; /* of the sum of four bytes, whose variance is 4 (256^2 - 1) / 12 */
    for (int64_t i = 0; i < n; i += 2) {
        const uint64_t bits = ml_random_next(state);
        const uint64_t pairs = (bits & 0x00FF00FF00FF00FFu) + ((bits >> 8) & 0x00FF00FF00FF00FFu);
        out[i] = ((float)((pairs & 0xFFFF) + ((pairs >> 16) & 0xFFFF)) - 510) * root;
        out[i + 1] = ((float)(((pairs >> 32) & 0xFFFF) + (pairs >> 48)) - 510) * root;
    }
}

/* Keys share a mean for each element, as those of trained models do; values have none. */
static void fill_layers(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const filling *work = arg;
    const int64_t width = (int64_t)work->cache->shape.kv_heads * work->cache->shape.head_dim;
    for (int64_t layer = begin; layer < end; layer++) {
        float *mean = work->room + layer * 3 * width, *keys = mean + width, *values = keys + width;
        uint64_t state = work->seed + (uint64_t)layer;
        draw(&state, mean, width);
        state = ml_random_next(&state) + (uint64_t)work->first;
        for (int64_t t = work->first; t < work->first + work->count; t++) {
            draw(&state, keys, width);
            draw(&state, values, width);
            for (int64_t i = 0; i < width; i++) keys[i] += 2 * mean[i];
            ml_sequence_write(work->cache, work->sequence, (int32_t)layer, t, keys, values);
        }
    }
}

/* Adds `count` tokens that are in one page. */
static int fill_page(ml_cache *cache, ml_sequence *sequence, int64_t count, uint64_t seed, float *room) {
    if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
    int status = ml_pass_reserve_one(cache, sequence, count);
    if (status != ML_OK) return status;
    filling work = {cache, sequence, sequence->length, count, seed, room};
    ml_parallel(cache->shape.layers, 1, fill_layers, &work);
    const uint64_t vocabulary = (uint64_t)cache->shape.vocabulary;
    uint64_t state = ~(seed + (uint64_t)sequence->length);
    for (int64_t i = 0; i < count; i++) ml_sequence_append(sequence, (int32_t)(ml_random_next(&state) % vocabulary), 0);
    ml_pages_changed(cache);
    return ml_cache_settle(cache);
}

int ml_sequence_fill_random(ml_cache *cache, int32_t sequence, int64_t count, uint64_t seed) {
    if (count < 0) return ml_error(ML_E_ARGUMENT, "0 random tokens or more are filled in, not %lld", (long long)count);
    ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    const size_t width = (size_t)cache->shape.kv_heads * (size_t)cache->shape.head_dim;
    float *room = ml_calloc((size_t)cache->shape.layers * 3 * width, sizeof *room);
    if (!room) return ML_E_MEMORY;
    int status = ML_OK;
    while (status == ML_OK && count > 0) {
        const int64_t left = ML_PAGE_TOKENS - s->length % ML_PAGE_TOKENS, take = count < left ? count : left;
        status = fill_page(cache, s, take, seed, room);
        count -= take;
    }
    free(room);
    return status;
}
