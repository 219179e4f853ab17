/* The feed-forward block: router and experts, or a dense block as the only expert. */
#include "base/error.h"
#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/kernels.h"
#include "model/batch.h"

#include <string.h>

int ml_forward_router(ml_cache *cache, ml_batch *b, int32_t layer) {
    int status = ml_batch_check(cache, b, layer);
    if (status != ML_OK) return status;
    const ml_config *c = &b->model->config;
    const ml_layer *w = &b->model->layers[layer];
    ml_batch_norm(b, w->ffn_norm);
    b->routed_layer = layer;
    if (!c->experts) return ML_OK;
    const ml_input normed = {.x = b->normed, .ld = c->width, .columns = b->active_rows};
    ml_linear(&(ml_product){&w->router, w->router_bias, b->router_logits, c->experts}, 1, &normed);
    ml_batch_count(b, &w->router, b->active_rows);
    for (int64_t r = 0; r < b->active_rows; r++) {
        float *weights = b->expert_weights + r * c->experts_used;
        ml_logits_topk(b->router_logits + r * c->experts, c->experts, c->experts_used,
                       b->expert_ids + r * c->experts_used, weights);
        ml_kernels_get()->softmax(weights, c->experts_used);
    }
    return ML_OK;
}

/* Sorts the choices by expert: counts, prefix sums, then each choice takes the next slot of its expert. Returns the
 * number of experts that have work. */
static int64_t sort_slots(ml_batch *b) {
    const ml_config *c = &b->model->config;
    const int32_t choices = (int32_t)(b->active_rows * c->experts_used);
    int32_t *begin = b->expert_begin;
    memset(begin, 0, sizeof *begin * (size_t)(c->experts + 1));
    for (int32_t i = 0; i < choices; i++) begin[b->expert_ids[i]]++;
    int32_t total = 0;
    int64_t busy = 0;
    for (int32_t e = 0; e < c->experts; e++) {
        const int32_t count = begin[e];
        begin[e] = total;
        total += count;
        if (count) b->busy_experts[busy++] = e;
    }
    for (int32_t i = 0; i < choices; i++) {
        const int32_t slot = begin[b->expert_ids[i]]++;
        b->row_slot[i] = slot;
        b->slot_row[slot] = i / c->experts_used;
    }
    for (int32_t e = c->experts; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
    return busy;
}

/* A dense block is one expert that every row chose. */
static int64_t sort_dense(ml_batch *b) {
    b->expert_begin[0] = 0;
    b->expert_begin[1] = (int32_t)b->active_rows;
    b->busy_experts[0] = 0;
    return 1;
}

/* Rows of an item: the longer the runs in one matrix, the better memory streams (three panels of MXFP4 instead of one:
 * a fifth faster on Zen 5). */
enum { ITEM_ROWS = 3 * ML_LINEAR_PANEL };

/* What a region does of gate, up and the activation. */
enum { GATE = 1, UP = 2, ACTIVATE = 4 };

typedef struct expert_work {
    ml_batch *batch;
    const ml_layer *layer;
    ml_input input; /* of every slot */
    int64_t items;  /* of one expert */
    int64_t first;  /* item of the region */
    int parts;      /* of gate and up: GATE | UP | ACTIVATE, or some of these */
} expert_work;

/* What one item covers: rows [begin, end) of an expert's matrices, against the slots that chose it. */
typedef struct expert_panel {
    int32_t expert;
    int64_t begin, end, slot, slots;
} expert_panel;

static expert_panel panel_of(const expert_work *work, int64_t item, int64_t rows) {
    const ml_batch *b = work->batch;
    expert_panel p = {.expert = b->busy_experts[item / work->items]};
    p.begin = item % work->items * ITEM_ROWS;
    p.end = p.begin + ITEM_ROWS < rows ? p.begin + ITEM_ROWS : rows;
    p.slot = b->expert_begin[p.expert];
    p.slots = b->expert_begin[p.expert + 1] - p.slot;
    return p;
}

static ml_matrix matrix_of(const ml_matrix *first, int32_t expert) {
    ml_matrix matrix = *first;
    matrix.data += first->rows * first->stride * expert;
    return matrix;
}

static const float *bias_of(const float *first, int32_t expert, int64_t n) {
    return first ? first + expert * n : NULL;
}

/* gate and up of a panel, then the activation, into `gate`; or some of that. */
static void run_gate_up(void *arg, int64_t begin, int64_t end, int thread) {
    const expert_work *work = arg;
    const ml_layer *w = work->layer;
    ml_batch *b = work->batch;
    const int64_t f = b->model->config.ffn_width;
    const ml_kernels *kernels = ml_kernels_get();
    for (int64_t item = work->first + begin; item < work->first + end; item++) {
        const expert_panel p = panel_of(work, item, f);
        const ml_matrix gate = matrix_of(&w->gate, p.expert);
        const ml_matrix up = matrix_of(&w->up, p.expert);
        const ml_input in = ml_input_part(&work->input, gate.cols, p.slot, p.slots);
        float *g = b->gate + p.slot * f, *u = b->up + p.slot * f;
        if (work->parts & GATE) {
            ml_linear_rows(&gate, p.begin, p.end, bias_of(w->gate_bias, p.expert, f), &in, g, f, ml_scratch(thread));
        }
        if (work->parts & UP) {
            ml_linear_rows(&up, p.begin, p.end, bias_of(w->up_bias, p.expert, f), &in, u, f, ml_scratch(thread));
        }
        for (int64_t s = 0; s < p.slots && work->parts & ACTIVATE; s++) {
            float *row = g + s * f + p.begin;
            const float *up_row = u + s * f + p.begin;
            if (b->model->arch->clamped_swiglu) {
                kernels->swiglu_clamped(row, up_row, row, p.end - p.begin);
            } else {
                kernels->swiglu(row, up_row, row, p.end - p.begin);
            }
        }
    }
}

/* down of a panel, into `slots`. */
static void run_down(void *arg, int64_t begin, int64_t end, int thread) {
    const expert_work *work = arg;
    const ml_layer *w = work->layer;
    ml_batch *b = work->batch;
    const int64_t d = b->model->config.width, f = b->model->config.ffn_width;
    for (int64_t item = work->first + begin; item < work->first + end; item++) {
        const expert_panel p = panel_of(work, item, d);
        const ml_matrix down = matrix_of(&w->down, p.expert);
        const ml_input in = ml_input_part(&work->input, f, p.slot, p.slots);
        ml_linear_rows(&down, p.begin, p.end, bias_of(w->down_bias, p.expert, d), &in, b->slots + p.slot * d, d,
                       ml_scratch(thread));
    }
}

/* A task over the items of `busy` experts, in one region. */
static void run_experts(expert_work *work, int64_t busy, ml_task task) {
    const int64_t together = ml_tuned(ML_TUNING_EXPERTS) ? busy * work->items : work->items;
    for (work->first = 0; work->first < busy * work->items; work->first += together) {
        ml_parallel(together, 1, task, work);
    }
}

/* gate, up and the activation in one region, so that a panel of these is still near when it is needed. */
static void run_all_gate_up(expert_work *work, int64_t busy) {
    const int together = ml_tuned(ML_TUNING_FUSED) ? GATE | UP | ACTIVATE : 0;
    for (int part = GATE; part <= ACTIVATE; part *= 2) {
        work->parts = together ? together : part;
        run_experts(work, busy, run_gate_up);
        if (together) return;
    }
}

static void gather_slots(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    ml_batch *b = arg;
    const int64_t d = b->model->config.width;
    for (int64_t s = begin; s < end; s++) {
        memcpy(b->slots + s * d, b->normed + b->slot_row[s] * d, sizeof(float) * (size_t)d);
    }
}

/* Adds each row's experts to its residual stream, best first. */
static void combine_rows(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    ml_batch *b = arg;
    const ml_config *c = &b->model->config;
    const int64_t d = c->width;
    for (int64_t r = begin; r < end; r++) {
        float *residual = b->residual + r * d;
        if (!c->experts) {
            ml_kernels_get()->axpy(1, b->slots + r * d, residual, d);
            continue;
        }
        for (int64_t i = r * c->experts_used; i < (r + 1) * c->experts_used; i++) {
            ml_kernels_get()->axpy(b->expert_weights[i], b->slots + b->row_slot[i] * d, residual, d);
        }
    }
}

static int check_choices(const ml_batch *b, int32_t layer) {
    const ml_config *c = &b->model->config;
    if (b->routed_layer != layer) {
        return ml_error(ML_E_ARGUMENT, "the experts of layer %d need its router first: call ml_forward_router", layer);
    }
    for (int64_t i = 0; i < b->active_rows * c->experts_used; i++) {
        if (b->expert_ids[i] < 0 || b->expert_ids[i] >= c->experts) {
            return ml_error(ML_E_ARGUMENT, "layer %d has experts 0 to %d, not %d", layer, c->experts - 1,
                            b->expert_ids[i]);
        }
    }
    return ML_OK;
}

static void count_experts(ml_batch *b, const ml_layer *w, int64_t busy) {
    for (int64_t i = 0; i < busy; i++) {
        const int32_t *begin = &b->expert_begin[b->busy_experts[i]];
        ml_batch_count(b, &w->gate, begin[1] - begin[0]);
        ml_batch_count(b, &w->up, begin[1] - begin[0]);
        ml_batch_count(b, &w->down, begin[1] - begin[0]);
    }
}

int ml_forward_experts(ml_cache *cache, ml_batch *b, int32_t layer) {
    int status = ml_batch_check(cache, b, layer);
    if (status == ML_OK) status = check_choices(b, layer);
    if (status != ML_OK) return status;
    const ml_config *c = &b->model->config;
    const int64_t d = c->width, f = c->ffn_width;
    const int64_t slots = c->experts ? b->active_rows * c->experts_used : b->active_rows;
    expert_work work = {.batch = b, .layer = &b->model->layers[layer]};
    work.input = (ml_input){.x = b->normed, .ld = d, .columns = slots};
    const int64_t busy = c->experts ? sort_slots(b) : sort_dense(b);
    if (b->active_rows == 1) {
        work.input.ld = 0; /* every expert reads the one row */
    } else if (c->experts) {
        ml_parallel(slots, 8, gather_slots, b);
        work.input.x = b->slots;
    }
    ml_input_prepare(&work.input, d, b->expert_begin, b->integers);
    work.items = (f + ITEM_ROWS - 1) / ITEM_ROWS;
    run_all_gate_up(&work, busy);
    work.input = (ml_input){.x = b->gate, .ld = f, .columns = slots};
    ml_input_prepare(&work.input, f, b->expert_begin, b->integers);
    work.items = (d + ITEM_ROWS - 1) / ITEM_ROWS;
    run_experts(&work, busy, run_down);
    ml_parallel(b->active_rows, 4, combine_rows, b);
    count_experts(b, work.layer, busy);
    b->routed_layer = -1;
    return ML_OK;
}
