/* What becomes of a row or of a whole tensor: sums, extremes, the largest. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdlib.h>

/* Running totals over elements, in double. */
typedef struct totals {
    ml_stats stats;
    double sum, squares;               /* over all */
    double finite_sum, finite_squares; /* over the finite ones */
} totals;

static void add_elements(totals *t, const double *values, int64_t n) {
    ml_stats *s = &t->stats;
    s->count += n;
    for (int64_t i = 0; i < n; i++) {
        double v = values[i];
        t->sum += v;
        t->squares += v * v;
        if (isnan(v)) {
            s->nans++;
            continue;
        }
        if (!(s->min <= v)) s->min = v; /* they begin as NaN */
        if (!(s->max >= v)) s->max = v;
        if (isinf(v)) {
            s->infinities++;
            continue;
        }
        t->finite_sum += v;
        t->finite_squares += v * v;
    }
}

static void add_row(totals *t, const ml_tensor *x, int64_t row) {
    const int64_t n = x->shape[x->ndim - 1];
    double values[ML_CHUNK];
    for (int64_t i = 0; i < n; i += ML_CHUNK) {
        int64_t some = n - i < ML_CHUNK ? n - i : ML_CHUNK;
        ml_read_elements(x->dtype, ml_tensor_row(x, row), x->stride[x->ndim - 1], i, some, values);
        add_elements(t, values, some);
    }
}

static totals empty_totals(void) {
    return (totals){.stats = {.min = NAN, .max = NAN}};
}

/* b's elements come after a's. */
static void merge(totals *a, const totals *b) {
    ml_stats *s = &a->stats;
    s->count += b->stats.count;
    s->nans += b->stats.nans;
    s->infinities += b->stats.infinities;
    if (!(s->min <= b->stats.min) && !isnan(b->stats.min)) s->min = b->stats.min;
    if (!(s->max >= b->stats.max) && !isnan(b->stats.max)) s->max = b->stats.max;
    a->finite_sum += b->finite_sum;
    a->finite_squares += b->finite_squares;
}

/* Rows of one task, and the totals of each task: merged in order, so that they do not depend on the threads. */
enum { RUN = 64 };
typedef struct stats_task {
    const ml_tensor *x;
    totals *runs;
} stats_task;

static void stats_run(void *arg, int64_t begin, int64_t end, int thread) {
    const stats_task *task = arg;
    (void)thread;
    totals t = empty_totals();
    for (int64_t r = begin; r < end; r++) add_row(&t, task->x, r);
    task->runs[begin / RUN] = t;
}

int ml_tensor_stats(const ml_tensor *x, ml_stats *out) {
    const int64_t rows = ml_tensor_rows(x), runs = (rows + RUN - 1) / RUN;
    stats_task task = {.x = x, .runs = ml_calloc((size_t)runs, sizeof(totals))};
    if (!task.runs) return ML_E_MEMORY;
    ml_parallel(rows, RUN, stats_run, &task);
    totals t = empty_totals();
    for (int64_t i = 0; i < runs; i++) merge(&t, &task.runs[i]);
    free(task.runs);
    int64_t finite = t.stats.count - t.stats.nans - t.stats.infinities;
    if (finite > 0) {
        t.stats.mean = t.finite_sum / (double)finite;
        double variance = t.finite_squares / (double)finite - t.stats.mean * t.stats.mean;
        t.stats.deviation = variance > 0 ? sqrt(variance) : 0;
        t.stats.norm = sqrt(t.finite_squares);
    }
    *out = t.stats;
    return ML_OK;
}

/* A new tensor with one element for each row of x, or `last` of them. */
static int result_rows(const ml_tensor *x, int dtype, int64_t last, ml_tensor **out) {
    int64_t shape[ML_TENSOR_MAX_DIMS];
    int ndim = x->ndim;
    for (int i = 0; i < ndim; i++) shape[i] = x->shape[i];
    shape[ndim - 1] = last;
    if (last == 1 && ndim > 1) ndim--;
    return ml_tensor_new(dtype, ndim, shape, 0, out);
}

int ml_tensor_reduce(const ml_tensor *x, int operation, ml_tensor **out) {
    char text[ML_TENSOR_TEXT];
    if (operation < ML_SUM || operation > ML_NORM) return ml_error(ML_E_ARGUMENT, "%d is no reduction", operation);
    if (x->shape[x->ndim - 1] == 0 && operation != ML_SUM && operation != ML_NORM) {
        return ml_error(ML_E_ARGUMENT, "a tensor %s has empty rows: no mean, min or max", ml_tensor_text(x, text));
    }
    ml_tensor *result;
    int status = result_rows(x, ML_F32, 1, &result);
    if (status != ML_OK) return status;
    float *values = (float *)(void *)result->data;
    for (int64_t r = 0; r < ml_tensor_rows(x); r++) {
        totals t = empty_totals();
        add_row(&t, x, r);
        const double results[] = {t.sum, t.sum / (double)t.stats.count, t.stats.min, t.stats.max, sqrt(t.squares)};
        values[r] = (float)results[operation];
    }
    *out = result;
    return ML_OK;
}

/* The k largest of each row: values (NULL if not wanted) and ids, both {rows, k}. */
static int rank_rows(const ml_tensor *x, int64_t k, float *values, int32_t *ids) {
    const int64_t n = x->shape[x->ndim - 1];
    float *row = ml_alloc_aligned((size_t)n, sizeof *row);
    float *best = ml_alloc_aligned((size_t)k, sizeof *best);
    int status = row && best ? ML_OK : ML_E_MEMORY;
    for (int64_t r = 0; status == ML_OK && r < ml_tensor_rows(x); r++) {
        ml_read_row(x, r, row);
        status = ml_logits_topk(row, n, k, ids + r * k, values ? values + r * k : best);
    }
    free(row);
    free(best);
    return status;
}

static int check_rank(const ml_tensor *x, int64_t k) {
    char text[ML_TENSOR_TEXT];
    if (k >= 1 && k <= x->shape[x->ndim - 1]) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "there are no %lld largest in the rows of a tensor %s", (long long)k,
                    ml_tensor_text(x, text));
}

int ml_tensor_argmax(const ml_tensor *x, ml_tensor **out) {
    ml_tensor *ids = NULL;
    int status = check_rank(x, 1);
    if (status == ML_OK) status = result_rows(x, ML_I32, 1, &ids);
    if (status == ML_OK) status = rank_rows(x, 1, NULL, (int32_t *)(void *)ids->data);
    if (status == ML_OK) {
        *out = ids;
    } else {
        ml_tensor_free(ids);
    }
    return status;
}

int ml_tensor_topk(const ml_tensor *x, int64_t k, ml_tensor **values, ml_tensor **ids) {
    int64_t shape[ML_TENSOR_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++) shape[i] = x->shape[i];
    shape[x->ndim - 1] = k;
    ml_tensor *best = NULL, *which = NULL;
    int status = check_rank(x, k);
    if (status == ML_OK) status = ml_tensor_new(ML_F32, x->ndim, shape, 0, &best);
    if (status == ML_OK) status = ml_tensor_new(ML_I32, x->ndim, shape, 0, &which);
    if (status == ML_OK) status = rank_rows(x, k, (float *)(void *)best->data, (int32_t *)(void *)which->data);
    if (status == ML_OK) {
        *values = best;
        *ids = which;
    } else {
        ml_tensor_free(best);
        ml_tensor_free(which);
    }
    return status;
}
