/* The attention block of a layer: norm, q k v, RoPE, append to the cache, attention with sinks and window, output. */
#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/batch.h"

#include <math.h>
#include <string.h>

typedef struct attention_work {
    const ml_cache *cache;
    ml_batch *batch;
    int32_t layer;
} attention_work;

/* Turns queries and keys of each row and appends its keys and values to the cache. */
static void append_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const attention_work *work = arg;
    ml_batch *b = work->batch;
    const ml_config *c = &b->model->config;
    const int64_t half = c->rope_dims / 2, keys = (int64_t)c->kv_heads * c->head_dim;
    for (int64_t r = begin; r < end; r++) {
        const float *cosines = b->cosines + r * half, *sines = b->sines + r * half;
        ml_rope_apply(b->model, cosines, sines, b->q + r * c->heads * c->head_dim, c->heads);
        ml_rope_apply(b->model, cosines, sines, b->k + r * keys, c->kv_heads);
        ml_cache_write(work->cache, &work->cache->sequences[b->row[r].sequence], work->layer, b->row[r].position,
                       b->k + r * keys, b->v + r * keys);
    }
}

/* The sink joins the softmax as a key without a value; then the weighted values are divided by the whole sum. */
static void finish_head(float *out, int64_t n, float top, float sum, const float *sink) {
    float scale = 1;
    if (sink) {
        const float highest = fmaxf(top, *sink);
        scale = expf(top - highest);
        sum = sum * scale + expf(*sink - highest);
    }
    scale /= sum;
    for (int64_t i = 0; i < n; i++) out[i] *= scale;
}

/* One row against one KV head: the queries that share it walk the pages of keys and values together. */
static void attend_head(const attention_work *work, int64_t r, int32_t head, float *scratch) {
    const ml_batch *b = work->batch;
    const ml_config *c = &b->model->config;
    const ml_layer *layer = &b->model->layers[work->layer];
    const int64_t group = c->heads / c->kv_heads, n = c->head_dim, offset = (r * c->heads + head * group) * n;
    float *q = scratch, *top = q + group * n, *sum = top + group, *out = b->attended + offset;
    const float scale = 1.0f / sqrtf((float)n);
    for (int64_t i = 0; i < group * n; i++) q[i] = b->q[offset + i] * scale;
    for (int64_t i = 0; i < group; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
    }
    memset(out, 0, sizeof *out * (size_t)(group * n));
    const ml_sequence *sequence = &work->cache->sequences[b->row[r].sequence];
    const int64_t end = b->row[r].position + 1;
    for (int64_t t = layer->window > 0 && end > layer->window ? end - layer->window : 0; t < end;) {
        const int64_t left = ML_PAGE_TOKENS - t % ML_PAGE_TOKENS, tokens = end - t < left ? end - t : left;
        const void *keys, *values;
        ml_cache_read(work->cache, sequence, work->layer, t, head, &keys, &values);
        ml_kernels_get()->attend(q, group, n, keys, values, work->cache->dtype, tokens, top, sum, out);
        t += tokens;
    }
    for (int64_t i = 0; i < group; i++) {
        finish_head(out + i * n, n, top[i], sum[i], layer->sinks ? &layer->sinks[head * group + i] : NULL);
    }
}

/* Items are (KV head, row), rows running faster: neighbours share pages. */
static void attend_rows(void *arg, int64_t begin, int64_t end, int thread) {
    const attention_work *work = arg;
    const int64_t rows = work->batch->active_rows;
    for (int64_t i = begin; i < end; i++) attend_head(work, i % rows, (int32_t)(i / rows), ml_scratch(thread));
}

static void add_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const ml_batch *b = arg;
    const int64_t d = b->model->config.width;
    ml_kernels_get()->axpy(1, b->normed + begin * d, b->residual + begin * d, (end - begin) * d);
}

/* What the attention of this layer reads and multiplies. */
static void count_attention(ml_batch *b, const ml_cache *cache, const ml_layer *w) {
    const ml_config *c = &b->model->config;
    ml_batch_count(b, &w->attn_q, b->active_rows);
    ml_batch_count(b, &w->attn_k, b->active_rows);
    ml_batch_count(b, &w->attn_v, b->active_rows);
    ml_batch_count(b, &w->attn_output, b->active_rows);
    for (int64_t r = 0; r < b->active_rows; r++) {
        const int64_t all = b->row[r].position + 1, seen = w->window > 0 && all > w->window ? w->window : all;
        b->work.cache_bytes += seen * cache->vector_bytes * c->kv_heads * 2;
        b->work.operations += 4.0 * (double)seen * c->heads * c->head_dim;
    }
}

int ml_forward_attention(ml_cache *cache, ml_batch *b, int32_t layer) {
    int status = ml_batch_check(cache, b, layer);
    if (status != ML_OK) return status;
    const ml_config *c = &b->model->config;
    const ml_layer *w = &b->model->layers[layer];
    const int64_t rows = b->active_rows, d = c->width;
    const int64_t queries = (int64_t)c->heads * c->head_dim, keys = (int64_t)c->kv_heads * c->head_dim;
    attention_work work = {cache, b, layer};
    ml_batch_norm(b, w->attn_norm);
    ml_linear(&w->attn_q, w->q_bias, b->normed, d, rows, b->q, queries);
    ml_linear(&w->attn_k, w->k_bias, b->normed, d, rows, b->k, keys);
    ml_linear(&w->attn_v, w->v_bias, b->normed, d, rows, b->v, keys);
    ml_parallel(rows, 4, append_rows, &work);
    ml_parallel(rows * c->kv_heads, rows > 8 ? 8 : 1, attend_rows, &work);
    ml_linear(&w->attn_output, w->output_bias, b->attended, queries, rows, b->normed, d);
    ml_parallel(rows, 4, add_rows, b);
    count_attention(b, cache, w);
    return ML_OK;
}
