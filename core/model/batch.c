#include "model/batch.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "kv/pass.h"
#include "model/attend_state.h"
#include "tensor/tensor.h"

#include <stdlib.h>

/* Gives `count` items of `size` bytes of the arena at a cache line; with a NULL arena only counts. */
static void *carve(uint8_t *arena, size_t *used, int64_t count, size_t size) {
    void *area = arena ? arena + *used : NULL;
    *used += ((size_t)count * size + 63) & ~(size_t)63;
    return area;
}

/* Elements of the longest vector that a matrix multiplies. */
static int64_t widest_input(const ml_config *c) {
    const int64_t heads_width = (int64_t)c->heads * c->head_dim;
    const int64_t widest = c->width > c->ffn_width ? c->width : c->ffn_width;
    return heads_width > widest ? heads_width : widest;
}

/* Lays out all activations of `capacity` rows and returns their bytes. */
static size_t lay_out(ml_batch *b, uint8_t *arena) {
    const ml_config *c = &b->model->config;
    const int64_t rows = b->capacity, used_experts = c->experts ? c->experts_used : 1, slots = rows * used_experts;
    const int64_t experts = c->experts ? c->experts : 1;
    size_t used = 0;
    b->row = carve(arena, &used, rows, sizeof *b->row);
    b->cosines = carve(arena, &used, rows * c->rope_dims / 2, sizeof(float));
    b->sines = carve(arena, &used, rows * c->rope_dims / 2, sizeof(float));
    b->residual = carve(arena, &used, rows * c->width, sizeof(float));
    b->normed = carve(arena, &used, rows * c->width, sizeof(float));
    b->q = carve(arena, &used, rows * c->heads * c->head_dim, sizeof(float));
    b->attended = carve(arena, &used, rows * c->heads * c->head_dim, sizeof(float));
    b->k = carve(arena, &used, rows * c->kv_heads * c->head_dim, sizeof(float));
    b->v = carve(arena, &used, rows * c->kv_heads * c->head_dim, sizeof(float));
    b->queries = carve(arena, &used, rows * c->heads, (size_t)ml_query_bytes(c->head_dim));
    b->tiles = carve(arena, &used, rows, sizeof *b->tiles);
    b->parts = carve(arena, &used, ml_attention_parts(c), sizeof(float));
    b->router_logits = carve(arena, &used, rows * experts, sizeof(float));
    b->expert_ids = carve(arena, &used, slots, sizeof(int32_t));
    b->expert_weights = carve(arena, &used, slots, sizeof(float));
    b->slot_row = carve(arena, &used, slots, sizeof(int32_t));
    b->row_slot = carve(arena, &used, slots, sizeof(int32_t));
    b->expert_begin = carve(arena, &used, experts + 1, sizeof(int32_t));
    b->busy_experts = carve(arena, &used, experts, sizeof(int32_t));
    b->slots = carve(arena, &used, slots * c->width, sizeof(float));
    b->gate = carve(arena, &used, slots * c->ffn_width, sizeof(float));
    b->up = carve(arena, &used, slots * c->ffn_width, sizeof(float));
    b->integers = carve(arena, &used, slots, (size_t)ml_integer_bytes(widest_input(c)));
    return used;
}

/* Scratch of one thread: a panel of the widest matrix and rows of the head, or what attention needs. */
static size_t scratch_bytes(const ml_model *m) {
    const ml_config *c = &m->config;
    const size_t panel = ml_linear_scratch(widest_input(c)) + (size_t)(ML_BEST_ROWS * m->head.stride);
    const size_t attention = ml_attention_scratch(c);
    return panel > attention ? panel : attention;
}

int ml_batch_create(ml_model *model, int64_t capacity, ml_batch **out) {
    if (capacity < 1 || capacity > 4096) {
        return ml_error(ML_E_ARGUMENT, "a batch holds 1 to 4096 rows, not %lld", (long long)capacity);
    }
    int status = ml_scratch_reserve(scratch_bytes(model));
    if (status != ML_OK) return status;
    ml_batch *batch = ml_calloc(1, sizeof *batch);
    if (!batch) return ML_E_MEMORY;
    atomic_init(&batch->references, 1);
    ml_model_retain(model);
    batch->model = model;
    batch->capacity = capacity;
    batch->routed_layer = -1;
    const size_t bytes = lay_out(batch, NULL);
    batch->arena = ml_alloc_aligned(1, bytes);
    if (!batch->arena) {
        ml_batch_free(batch);
        return ML_E_MEMORY;
    }
    ml_memory_huge(batch->arena, bytes);
    batch->arena_bytes = (int64_t)bytes;
    ml_memory_note(ML_MEMORY_ACTIVATIONS, batch->arena_bytes);
    lay_out(batch, batch->arena);
    *out = batch;
    return ML_OK;
}

void ml_batch_free(ml_batch *batch) {
    if (!batch || atomic_fetch_sub(&batch->references, 1) != 1) return;
    ml_memory_note(ML_MEMORY_ACTIVATIONS,
                   -batch->arena_bytes - (int64_t)(batch->totals_capacity * sizeof *batch->totals));
    ml_memory_note(ML_MEMORY_LOGITS, -(int64_t)(batch->logits_capacity * sizeof *batch->logits));
    free(batch->arena);
    free(batch->logits);
    free(batch->totals);
    ml_model_free(batch->model);
    free(batch);
}

void ml_batch_clear(ml_batch *batch) {
    batch->rows = batch->wanted = batch->wanted_logits = 0;
    /* As many rows may be added again: they are not those of the pass under way, nor are its logits theirs. */
    batch->active_rows = 0;
    batch->epoch = 0;
}

int64_t ml_batch_rows(const ml_batch *batch) {
    return batch->rows;
}

int ml_batch_add(ml_batch *batch, int32_t token, int64_t position, int32_t sequence, int want) {
    if (batch->rows == batch->capacity) {
        return ml_error(ML_E_ARGUMENT, "the batch is full: it holds %lld rows", (long long)batch->capacity);
    }
    if (token < 0 || token >= batch->model->config.vocabulary) {
        return ml_error(ML_E_ARGUMENT, "token %d is outside the vocabulary of %lld", token,
                        (long long)batch->model->config.vocabulary);
    }
    if (want < ML_WANT_NOTHING || want > ML_WANT_BEST) {
        return ml_error(ML_E_ARGUMENT, "a row wants nothing (0), logits (1) or the best (2), not %d", want);
    }
    batch->row[batch->rows++] = (ml_row){token, sequence, position, want ? batch->wanted : -1, want, -1, 0};
    if (want) batch->wanted++;
    if (want == ML_WANT_LOGITS) batch->wanted_logits++;
    return ML_OK;
}

int ml_batch_check(const ml_cache *cache, const ml_batch *batch, int32_t layer) {
    if (batch->epoch != ml_pass_epoch(cache) || batch->active_rows != batch->rows) {
        return ml_error(ML_E_ARGUMENT, "no forward pass is under way on this batch and cache, or one of them changed "
                                       "since: call ml_forward_embed");
    }
    if (layer < 0 || layer >= batch->model->config.layers) {
        return ml_error(ML_E_ARGUMENT, "the model has layers 0 to %d, not %d", batch->model->config.layers - 1, layer);
    }
    if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
    return ML_OK;
}

void ml_batch_count(ml_batch *batch, const ml_matrix *matrix, int64_t columns) {
    batch->work.weight_bytes += matrix->rows * matrix->stride;
    batch->work.operations += 2.0 * (double)(matrix->rows * matrix->cols) * (double)columns;
}

void ml_batch_work(const ml_batch *batch, ml_work *out) {
    *out = batch->work;
}

/* ---- views ---- */

static void release_view(void *owner) {
    ml_batch_free(owner);
}

int ml_batch_tensor(ml_batch *b, int view, ml_tensor **out) {
    const ml_config *c = &b->model->config;
    int64_t shape[2] = {b->active_rows, 0};
    int dtype = ML_F32;
    void *data = NULL;
    switch (view) {
    case ML_VIEW_RESIDUAL:
        data = b->residual;
        shape[1] = c->width;
        break;
    case ML_VIEW_ROUTER_LOGITS:
        data = b->router_logits;
        shape[1] = c->experts;
        break;
    case ML_VIEW_EXPERT_IDS:
        data = b->expert_ids;
        shape[1] = c->experts_used;
        dtype = ML_I32;
        break;
    case ML_VIEW_EXPERT_WEIGHTS:
        data = b->expert_weights;
        shape[1] = c->experts_used;
        break;
    case ML_VIEW_LOGITS:
        if (b->wanted_logits == 0) return ml_error(ML_E_ARGUMENT, "no row of the batch wants logits");
        data = b->logits;
        shape[0] = b->wanted;
        shape[1] = c->vocabulary;
        break;
    default:
        return ml_error(ML_E_ARGUMENT, "a batch has no view %d", view);
    }
    /* Rows that came after the pass began have no logits. */
    if (b->active_rows == 0 || shape[0] == 0 || (view == ML_VIEW_LOGITS && b->active_rows != b->rows)) {
        return ml_error(ML_E_ARGUMENT, "the batch has nothing to show: call ml_forward_embed first");
    }
    if (shape[1] == 0) return ml_error(ML_E_ARGUMENT, "a dense model has no router and no experts");
    atomic_fetch_add(&b->references, 1);
    return ml_tensor_wrap(data, dtype, 2, shape, 1, b, release_view, out);
}

int ml_batch_logits(ml_batch *batch, int64_t row, const float **out) {
    if (row < 0 || row >= batch->active_rows || batch->active_rows != batch->rows ||
        batch->row[row].want != ML_WANT_LOGITS) {
        return ml_error(ML_E_ARGUMENT, "row %lld of the batch has no logits", (long long)row);
    }
    *out = batch->logits + batch->row[row].logits * batch->model->config.vocabulary;
    return ML_OK;
}

int ml_batch_best(const ml_batch *batch, int64_t row, int32_t *id, float *logit) {
    if (row < 0 || row >= batch->active_rows || batch->active_rows != batch->rows || batch->row[row].best < 0) {
        return ml_error(ML_E_ARGUMENT, "row %lld of the batch has no best token", (long long)row);
    }
    *id = batch->row[row].best;
    *logit = batch->row[row].best_logit;
    return ML_OK;
}

/* ---- norm ---- */

typedef struct norm_work {
    const ml_batch *batch;
    const float *weight;
} norm_work;

static void norm_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const norm_work *work = arg;
    const ml_batch *b = work->batch;
    const int64_t d = b->model->config.width;
    for (int64_t r = begin; r < end; r++) {
        ml_kernels_get()->rms_norm(b->residual + r * d, work->weight, b->model->config.norm_epsilon, b->normed + r * d,
                                   d);
    }
}

void ml_batch_norm(ml_batch *batch, const float *weight) {
    norm_work work = {batch, weight};
    ml_parallel(batch->active_rows, 4, norm_rows, &work);
}
