/* States of attention: online softmax (arXiv:2205.14135) of the queries of some rows, a KV head at a time; and how much
 * room attention takes. */
#ifndef ML_MODEL_ATTEND_STATE_H
#define ML_MODEL_ATTEND_STATE_H

#include "kernels/kernels.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum {
    ML_TILE_QUERIES = 128, /* that a page is read for: enough that it is read seldom, few enough for the caches */
    ML_PART_ROWS = 512     /* partial results of rows that there is room for */
};

/* Online softmax of `queries` queries of a KV head: running maximum, sum of exp(score - top), values weighted so. */
typedef struct attend_state {
    int64_t queries;
    float *acc, *top, *sum; /* {queries, head_dim}, {queries}, {queries} */
} attend_state;

/* Queries that share a KV head. */
static inline int64_t group_of(const ml_config *c) {
    return c->heads / c->kv_heads;
}

/* Floats of the state of `rows` rows: acc, top, sum. */
static inline int64_t state_floats(const ml_config *c, int64_t rows) {
    return rows * group_of(c) * (c->head_dim + 2);
}

/* Rows of a tile at most. */
static inline int64_t tile_rows(const ml_config *c) {
    return group_of(c) < ML_TILE_QUERIES ? ML_TILE_QUERIES / group_of(c) : 1;
}

/* The state of `rows` rows that lies in `area`. */
static inline attend_state state_of(const ml_config *c, int64_t rows, float *area) {
    const int64_t queries = rows * group_of(c), n = queries * c->head_dim;
    return (attend_state){queries, area, area + n, area + n + queries};
}

/* An empty state of `rows` rows in `area`. */
static inline attend_state state_begin(const ml_config *c, int64_t rows, float *area) {
    const attend_state state = state_of(c, rows, area);
    memset(area, 0, (size_t)state_floats(c, rows) * sizeof *area);
    for (int64_t i = 0; i < state.queries; i++) state.top[i] = -INFINITY;
    return state;
}

/* Adds the tokens of the state `part`, which come after those of `total`. */
static inline void state_merge(attend_state total, attend_state part, int64_t head_dim) {
    for (int64_t i = 0; i < total.queries; i++) {
        if (part.sum[i] == 0) continue; /* it saw none; where all scores are NaN the sum is, too */
        const float top = fmaxf(total.top[i], part.top[i]);
        const float old = total.top[i] < top ? expf(total.top[i] - top) : 1;
        const float new = part.top[i] < top ? expf(part.top[i] - top) : 1;
        float *acc = total.acc + i * head_dim;
        const float *more = part.acc + i * head_dim;
        for (int64_t j = 0; j < head_dim; j++) acc[j] = acc[j] * old + more[j] * new;
        total.sum[i] = total.sum[i] * old + part.sum[i] * new;
        total.top[i] = top;
    }
}

/* The sink joins the softmax as a key without a value; then the weighted values are divided by the whole sum. */
static inline void finish_query(const float *acc, int64_t n, float top, float sum, const float *sink, float *out) {
    float scale = 1;
    if (sink) {
        const float highest = fmaxf(top, *sink);
        scale = expf(top - highest);
        sum = sum * scale + expf(*sink - highest);
    }
    scale /= sum;
    for (int64_t i = 0; i < n; i++) out[i] = acc[i] * scale;
}

/* Floats of an area of the attend kernels; of the queries of a tile. */
static inline int64_t area_floats(const ml_config *c) {
    return 2 * (int64_t)c->head_dim * ML_PAGE_TOKENS;
}

static inline int64_t query_floats(const ml_config *c) {
    return tile_rows(c) * group_of(c) * c->head_dim;
}

/* Bytes of scratch a thread, and floats of a batch's `parts`, that attention needs. */
size_t ml_attention_scratch(const ml_config *config);
int64_t ml_attention_parts(const ml_config *config);

#endif
