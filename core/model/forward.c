/* The forward pass from end to end: embed, layers, head, commit. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "kv/cache.h"
#include "kv/pass.h"
#include "model/batch.h"

#include <string.h>

/* The rows of each sequence must go on where it ends, one by one. */
static int check_rows(ml_cache *cache, const ml_batch *b) {
    if (ml_cache_model(cache) != b->model) return ml_error(ML_E_ARGUMENT, "batch and cache belong to different models");
    if (b->rows == 0) return ml_error(ML_E_ARGUMENT, "the batch has no rows");
    ml_pass_begin(cache);
    for (int64_t r = 0; r < b->rows; r++) {
        const int64_t next = ml_pass_expect(cache, b->row[r].sequence);
        if (next < 0) return ML_E_ARGUMENT;
        if (b->row[r].position != next) {
            return ml_error(ML_E_ARGUMENT, "row %lld is position %lld of sequence %d, whose next position is %lld",
                            (long long)r, (long long)b->row[r].position, b->row[r].sequence, (long long)next);
        }
    }
    return ML_OK;
}

static void embed_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    ml_batch *b = arg;
    const ml_model *m = b->model;
    const int64_t d = m->config.width, half = m->config.rope_dims / 2;
    for (int64_t r = begin; r < end; r++) {
        ml_kernels_get()->decode_row[m->embedding.dtype](m->embedding.data + b->row[r].token * m->embedding.stride,
                                                         b->residual + r * d, d);
        ml_rope_angles(&m->rope, b->row[r].position, b->cosines + r * half, b->sines + r * half);
    }
}

int ml_forward_embed(ml_cache *cache, ml_batch *b) {
    b->epoch = 0;
    b->active_rows = 0;
    b->whole_pass = 0;
    b->routed_layer = -1;
    if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
    int status = check_rows(cache, b);
    if (status != ML_OK) return status;
    const size_t all = (size_t)(b->wanted * b->model->config.vocabulary), search = ml_best_floats(b);
    const size_t logits = all > search ? all : search;
    const size_t before = b->logits_capacity;
    void *block = b->logits;
    status = ml_grow(&block, &b->logits_capacity, logits, sizeof *b->logits);
    b->logits = block;
    ml_memory_note(ML_MEMORY_LOGITS, (int64_t)((b->logits_capacity - before) * sizeof *b->logits));
    if (status != ML_OK || (status = ml_pass_reserve(cache)) != ML_OK) return status;
    b->epoch = ml_pass_epoch(cache);
    b->active_rows = b->rows;
    b->work = (ml_work){0};
    for (int64_t r = 0; r < b->rows; r++) b->row[r].best = -1;
    ml_parallel(b->rows, 4, embed_rows, b);
    return ML_OK;
}

int ml_forward_head(ml_cache *cache, ml_batch *b) {
    int status = ml_batch_check(cache, b, 0);
    if (status != ML_OK || b->wanted == 0) return status;
    const ml_model *m = b->model;
    const int64_t d = m->config.width;
    for (int64_t r = 0; r < b->active_rows; r++) {
        if (b->row[r].logits < 0) continue;
        ml_kernels_get()->rms_norm(b->residual + r * d, m->output_norm, m->config.norm_epsilon,
                                   b->normed + b->row[r].logits * d, d);
    }
    ml_input normed = {.x = b->normed, .ld = d, .columns = b->wanted};
    ml_input_prepare(&normed, d, NULL, b->integers);
    int found;
    if ((status = ml_best_find(b, &normed, &found)) != ML_OK || found) return status;
    ml_linear(&(ml_product){&m->head, NULL, b->logits, m->config.vocabulary}, 1, &normed);
    ml_batch_count(b, &m->head, b->wanted);
    for (int64_t r = 0; r < b->active_rows && status == ML_OK; r++) {
        ml_row *row = &b->row[r];
        if (row->want != ML_WANT_BEST) continue;
        status = ml_logits_topk(b->logits + row->logits * m->config.vocabulary, m->config.vocabulary, 1, &row->best,
                                &row->best_logit);
    }
    return status;
}

int ml_forward_commit(ml_cache *cache, ml_batch *b) {
    if (b->epoch != ml_pass_epoch(cache) || b->active_rows != b->rows) {
        return ml_error(ML_E_ARGUMENT, "nothing to commit: no forward pass is under way on this batch and cache");
    }
    for (int64_t r = 0; r < b->rows; r++) {
        ml_pass_append(cache, b->row[r].sequence, b->row[r].token, b->whole_pass);
    }
    ml_pass_end(cache);
    return ML_OK;
}

int ml_forward_layer(ml_cache *cache, ml_batch *batch, int32_t layer) {
    int status = ml_forward_attention(cache, batch, layer);
    if (status == ML_OK) status = ml_forward_router(cache, batch, layer);
    return status == ML_OK ? ml_forward_experts(cache, batch, layer) : status;
}

int ml_forward(ml_cache *cache, ml_batch *batch) {
    int status = ml_forward_embed(cache, batch);
    for (int32_t l = 0; status == ML_OK && l < batch->model->config.layers; l++) {
        status = ml_forward_layer(cache, batch, l);
    }
    if (status == ML_OK) status = ml_forward_head(cache, batch);
    batch->whole_pass = status == ML_OK;
    if (status != ML_OK && batch->epoch == ml_pass_epoch(cache)) ml_pass_abandon(cache);
    return status == ML_OK ? ml_forward_commit(cache, batch) : status;
}
