/* The attention block of a layer: norm, q k v, RoPE, append to the cache, attention (attend_plan.c), output. */
#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/kernels.h"
#include "kv/pass.h"
#include "model/attend_plan.h"

#include <math.h>

/* RMSNorm of each of `heads` vectors of a head, in place. */
static void norm_heads(const ml_config *c, const float *weight, float *vectors, int32_t heads) {
    for (int32_t h = 0; h < heads; h++) {
        float *v = vectors + (int64_t)h * c->head_dim;
        ml_kernels_get()->rms_norm(v, weight, c->norm_epsilon, v, c->head_dim);
    }
}

/* Norms and turns queries and keys of each row, scales the queries, and appends its keys and values to the cache. */
static void append_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const ml_attention *work = arg;
    ml_batch *b = work->batch;
    const ml_config *c = &b->model->config;
    const ml_layer *w = &b->model->layers[work->layer];
    const int64_t half = c->rope_dims / 2, keys = (int64_t)c->kv_heads * c->head_dim;
    const int64_t queries = (int64_t)c->heads * c->head_dim;
    const float scale = 1.0f / sqrtf((float)c->head_dim);
    for (int64_t r = begin; r < end; r++) {
        const float *cosines = b->cosines + r * half, *sines = b->sines + r * half;
        float *q = b->q + r * queries;
        if (w->q_norm) norm_heads(c, w->q_norm, q, c->heads);
        if (w->k_norm) norm_heads(c, w->k_norm, b->k + r * keys, c->kv_heads);
        ml_rope_apply(&b->model->rope, cosines, sines, q, c->heads);
        for (int64_t i = 0; i < queries; i++) q[i] *= scale;
        ml_rope_apply(&b->model->rope, cosines, sines, b->k + r * keys, c->kv_heads);
        ml_sequence_write(work->cache, ml_pass_sequence(work->cache, b->row[r].sequence), work->layer,
                          b->row[r].position, b->k + r * keys, b->v + r * keys);
    }
}

static void add_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const ml_batch *b = arg;
    const int64_t d = b->model->config.width;
    ml_kernels_get()->axpy(1, b->normed + begin * d, b->residual + begin * d, (end - begin) * d);
}

/* What the attention of this layer multiplies, and the weights that it reads; its pages are counted as they are read.
 */
static void count_attention(const ml_attention *work) {
    ml_batch *b = work->batch;
    const ml_config *c = &b->model->config;
    const ml_layer *w = &b->model->layers[work->layer];
    ml_batch_count(b, &w->attn_q, b->active_rows);
    ml_batch_count(b, &w->attn_k, b->active_rows);
    ml_batch_count(b, &w->attn_v, b->active_rows);
    ml_batch_count(b, &w->attn_output, b->active_rows);
    for (int64_t r = 0; r < b->active_rows; r++) {
        const int64_t seen = b->row[r].position + 1 - ml_attention_first_seen(work, b->row[r].position);
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
    ml_attention work = {.cache = cache, .batch = b, .layer = layer, .shape = *c};
    if (!ml_tuned(ML_TUNING_GROUPED)) work.shape.kv_heads = c->heads;
    ml_batch_norm(b, w->attn_norm);
    ml_input normed = {.x = b->normed, .ld = d, .columns = rows};
    ml_input_prepare(&normed, d, NULL, b->integers);
    const ml_product qkv[] = {{&w->attn_q, w->q_bias, b->q, queries},
                              {&w->attn_k, w->k_bias, b->k, keys},
                              {&w->attn_v, w->v_bias, b->v, keys}};
    ml_linear(qkv, 3, &normed);
    ml_parallel(rows, rows > 64 ? 32 : 4, append_rows, &work); /* neighbours share the cache lines of keys */
    status = ml_attention_run(&work);
    if (status != ML_OK) return status;
    ml_input attended = {.x = b->attended, .ld = queries, .columns = rows};
    ml_input_prepare(&attended, queries, NULL, b->integers);
    ml_linear(&(ml_product){&w->attn_output, w->output_bias, b->normed, d}, 1, &attended);
    ml_parallel(rows, 4, add_rows, b);
    count_attention(&work);
    return ML_OK;
}
