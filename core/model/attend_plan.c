/* Which schedule attention takes: a tile a thread, chunks that threads share, or pages that stream. */
#include "model/attend_plan.h"

#include "base/threads.h"
#include "base/tuning.h"
#include "model/attend_stream.h"
#include "model/attend_tiles.h"

enum { SHARE_BELOW = 64 }; /* with fewer (tile, head) pairs than this, threads share chunks */

/* The states of one chunk. */
static void attend_chunk(const ml_attention *work, ml_attend_item item, int64_t chunk, const float *q,
                         const ml_attend_scratch *s, float *states) {
    ml_attend_begin(work, item, states);
    ml_attend_tokens(work, item, chunk * ML_CHUNK_TOKENS, (chunk + 1) * ML_CHUNK_TOKENS, q, s, states);
}

/* ---- a tile a thread ---- */

/* Items are (block of heads, tile), the tiles that see most first. */
static void attend_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    const ml_attend_scratch s = ml_attend_scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[work->tiles - 1 - i % work->tiles];
        const ml_attend_item item = ml_attend_item_of(work, tile, i / work->tiles);
        const int64_t floats = state_floats(c, tile->rows);
        const float *q = ml_attend_queries(work, item, s.q);
        ml_attend_begin(work, item, s.total);
        for (int64_t chunk = tile->chunk; chunk < tile->chunk + tile->chunks; chunk++) {
            attend_chunk(work, item, chunk, q, &s, s.state);
            ml_attend_merge(work, item, s.total, s.state);
        }
        for (int32_t h = 0; h < item.heads; h++) {
            ml_attend_finish(work, tile, item.head + h, state_of(c, tile->rows, s.total + h * floats));
        }
    }
}

/* ---- chunks that threads share ---- */

/* Where the partial result of a tile's chunk lies; they come by tile, chunk and head. */
static float *part_at(const ml_attention *work, const ml_tile *tile, int32_t head, int64_t chunk) {
    const int64_t part = tile->part + (chunk - tile->chunk) * tile->rows;
    return work->batch->parts + state_floats(&work->shape, part * work->shape.kv_heads + head * tile->rows);
}

/* Items are (tile, chunk, block of heads): neighbours read neighbouring memory. */
static void attend_shared(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_attend_scratch s = ml_attend_scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[work->tiles - 1];
        while (tile->item > i / work->blocks) tile--;
        const ml_attend_item item = ml_attend_item_of(work, tile, i % work->blocks);
        const int64_t chunk = tile->chunk + i / work->blocks - tile->item;
        const float *q = ml_attend_queries(work, item, s.q);
        attend_chunk(work, item, chunk, q, &s, part_at(work, tile, item.head, chunk));
    }
}

/* Asks for the floats at `x`. */
static void ask_floats(const float *x, int64_t n) {
    const int64_t line = 64 / (int64_t)sizeof *x;
    for (int64_t i = 0; i < n; i += line) __builtin_prefetch(x + i);
}

/* Items are (head, tile). */
static void merge_shared(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    const ml_attend_scratch s = ml_attend_scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[i % work->tiles];
        const int32_t head = (int32_t)(i / work->tiles);
        const attend_state total = state_begin(c, tile->rows, s.total);
        const int64_t last = tile->chunk + tile->chunks - 1;
        for (int64_t chunk = tile->chunk; chunk <= last; chunk++) {
            const int64_t next = chunk < last ? chunk + 1 : last;
            ask_floats(part_at(work, tile, head, next), state_floats(c, tile->rows));
            state_merge(total, state_of(c, tile->rows, part_at(work, tile, head, chunk)), c->head_dim);
        }
        ml_attend_finish(work, tile, head, total);
    }
}

/* ---- the choice ---- */

static void attend_batch(ml_attention *work) {
    const int few = work->tiles * work->batch->model->config.kv_heads < SHARE_BELOW;
    if (ml_tuned(ML_TUNING_SHARE) && few && work->items > work->tiles && work->parts <= ML_PART_ROWS) {
        ml_attend_choose_block(work, 1, work->items);
        ml_parallel(work->items * work->blocks, 1, attend_shared, work);
        ml_parallel(work->tiles * work->shape.kv_heads, 1, merge_shared, work);
    } else {
        int64_t longest = 0;
        for (int64_t i = 0; i < work->tiles; i++) {
            if (work->batch->tiles[i].chunks > longest) longest = work->batch->tiles[i].chunks;
        }
        ml_attend_choose_block(work, longest, work->items);
        ml_parallel(work->tiles * work->blocks, 1, attend_tiles, work);
    }
}

int ml_attention_run(ml_attention *work) {
    ml_attend_prepare(work);
    ml_attend_cut(work);
    if (ml_attend_misses(work)) return ml_attend_streamed(work);
    attend_batch(work);
    return ML_OK;
}
