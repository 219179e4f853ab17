/* Attention of the rows of a batch to the pages of a layer, inside core. */
#ifndef ML_MODEL_ATTEND_H
#define ML_MODEL_ATTEND_H

#include "kv/cache.h"
#include "model/batch.h"

typedef struct ml_attention {
    ml_cache *cache;
    ml_batch *batch; /* `q` holds queries, turned and scaled; the keys and values of its rows are in the cache */
    int32_t layer;
    ml_config shape; /* the model's; with as many KV heads as heads where each of these attends by itself */
    /* Set by ml_attention_run: */
    int64_t tiles, items, parts; /* tiles of the batch; their chunks; partial results of rows in these */
    int32_t block;               /* KV heads of a page that are worked on one after the other, see choose_block() */
    int64_t blocks;
} ml_attention;

/* First token that a row at `position` sees. */
static inline int64_t ml_attention_first_seen(const ml_attention *work, int64_t position) {
    const int64_t window = work->batch->model->layers[work->layer].window;
    return window > 0 && position >= window ? position + 1 - window : 0;
}

/* batch->attended = what the rows attend to. ML_E_IO or ML_E_MEMORY if pages that are not in memory cannot be had. */
int ml_attention_run(ml_attention *work);

#endif
