/* Attention of the rows of a batch to the pages of a layer: what all ways of it have in common, one tile at a time.
 *
 * The order of the sums of a row is fixed by positions alone: chunks of ML_CHUNK_TOKENS tokens are walked page by page,
 * each from an empty state, and their states merged in ascending order. Whether one thread does all of that or many
 * share the chunks, and which rows form a tile and which heads a block, changes nothing in the result. */
#ifndef ML_MODEL_ATTEND_H
#define ML_MODEL_ATTEND_H

#include "model/attend_state.h"
#include "model/batch.h"

enum { ML_CHUNK_TOKENS = 1024 };

typedef struct ml_attention {
    ml_cache *cache;
    ml_batch *batch; /* `q` holds queries, turned and scaled; the keys and values of its rows are in the cache */
    int32_t layer;
    ml_config shape; /* the model's; with as many KV heads as heads where each of these attends by itself */
    /* Set by ml_attend_cut() and ml_attend_choose_block(): */
    int64_t tiles, items, parts; /* tiles of the batch; their chunks; partial results of rows in these */
    int32_t block;               /* KV heads of a page that are worked on one after the other */
    int64_t blocks;
} ml_attention;

/* The rows of a tile and some KV heads of theirs. */
typedef struct ml_attend_item {
    const ml_tile *tile;
    int32_t head, heads;
} ml_attend_item;

/* The scratch of one thread. */
typedef struct ml_attend_scratch {
    float *area, *q, *state, *total; /* of the kernel; {rows, group, head_dim}; of a chunk; of all chunks */
    int32_t *from, *to;              /* {rows} */
} ml_attend_scratch;

/* First token that a row at `position` sees. */
static inline int64_t ml_attention_first_seen(const ml_attention *work, int64_t position) {
    const int64_t window = work->batch->model->layers[work->layer].window;
    return window > 0 && position >= window ? position + 1 - window : 0;
}

/* The scratch of a thread, for rows of the batch. */
ml_attend_scratch ml_attend_scratch_of(const ml_attention *work, int thread);
/* Makes the queries in integers, if a row of the batch reads a quantised page. */
void ml_attend_prepare(ml_attention *work);
/* The queries of an item, {heads, rows, group, head_dim}; `room` is for those of several rows. */
const float *ml_attend_queries(const ml_attention *work, ml_attend_item item, float *room);
/* Empty states of an item, one a head. */
void ml_attend_begin(const ml_attention *work, ml_attend_item item, float *states);
/* Adds the tokens [begin, end), at most a chunk, to the states of an item. */
void ml_attend_tokens(const ml_attention *work, ml_attend_item item, int64_t begin, int64_t end, const float *q,
                      const ml_attend_scratch *s, float *states);
/* Adds the states of a chunk, one a head, to those of all chunks before. */
void ml_attend_merge(const ml_attention *work, ml_attend_item item, float *totals, float *states);
/* batch->attended of the rows of a tile, for one KV head whose tokens are all in `total`. */
void ml_attend_finish(const ml_attention *work, const ml_tile *tile, int32_t head, attend_state total);

#endif
