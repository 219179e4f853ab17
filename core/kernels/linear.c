#include "kernels/linear.h"

#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/dense.h"
#include "kernels/kernels.h"

size_t ml_linear_scratch(int64_t cols) {
    const size_t dense = (size_t)cols * ML_LINEAR_PANEL * sizeof(float);
    const size_t most =
        (int)ML_INTEGER_SCRATCH > (int)ML_TILE_SCRATCH ? (size_t)ML_INTEGER_SCRATCH : (size_t)ML_TILE_SCRATCH;
    return dense > most ? dense : most;
}

/* ---- input ---- */

typedef struct prepare_task {
    const ml_input *in;
    int64_t k;
    const int32_t *parts;
} prepare_task;

/* So many columns at once go to the matrix unit. */
static int tiled(int64_t columns) {
    return columns >= ML_TILE_COLUMNS && ml_kernels_get()->tile_multiply;
}

/* Others in integers, where the dtype has them. */
static int in_integers(int64_t columns) {
    return !tiled(columns) && ml_tuned(ML_TUNING_INTEGER);
}

static void prepare_run(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const prepare_task *t = arg;
    const ml_kernels *kernels = ml_kernels_get();
    const int32_t *part = t->parts;
    for (int64_t c = begin; c < end; c++) {
        const float *x = t->in->x + c * t->in->ld;
        uint8_t *column = t->in->integers + c * ml_integer_bytes(t->k);
        while (part && part[1] <= c) part++;
        const int64_t together = part ? part[1] - part[0] : t->in->columns;
        if (tiled(together)) {
            kernels->tile_prepare(x, t->k, ml_kernels_exact(), column);
        } else if (in_integers(together)) {
            kernels->integer_quantize(x, t->k, column);
        }
    }
}

void ml_input_prepare(ml_input *in, int64_t k, const int32_t *parts, uint8_t *integers) {
    in->integers = NULL;
    const ml_kernels *kernels = ml_kernels_get();
    if (k % ML_INTEGER_BLOCK != 0 || !kernels->integer_quantize) return;
    if (!kernels->tile_multiply && !ml_tuned(ML_TUNING_INTEGER)) return;
    in->integers = integers;
    prepare_task task = {in, k, parts};
    ml_parallel(in->ld ? in->columns : 1, 2, prepare_run, &task);
}

ml_input ml_input_part(const ml_input *in, int64_t k, int64_t first, int64_t columns) {
    uint8_t *integers = in->integers ? in->integers + (in->ld ? first * ml_integer_bytes(k) : 0) : NULL;
    return (ml_input){in->x + first * in->ld, in->ld, columns, integers};
}

/* ---- product ---- */

/* Rows of weights unpacked once to f32 for many columns. */
static void dense_rows(const ml_matrix *w, int64_t begin, int64_t end, const ml_input *in, float *y, int64_t ldy,
                       float *scratch) {
    const ml_kernels *kernels = ml_kernels_get();
    for (int64_t r = begin; r < end; r++) {
        kernels->decode_row[w->dtype](w->data + r * w->stride, scratch + (r - begin) * w->cols, w->cols);
    }
    ml_dense_product(in->x, in->ld, in->columns, scratch, w->cols, end - begin, w->cols, y + begin, ldy);
}

/* Rows in their stored blocks, for few columns. */
static void dot_columns(const ml_matrix *w, int64_t begin, int64_t end, const ml_input *in, float *y, int64_t ldy) {
    const int64_t most = ml_tuned(ML_TUNING_COLUMNS) ? ML_DOT_COLUMNS : 1;
    for (int64_t c = 0; c < in->columns; c += most) {
        const int64_t some = in->columns - c < most ? in->columns - c : most;
        ml_kernels_get()->dot_rows[w->dtype](w->data + begin * w->stride, w->stride, end - begin, w->cols,
                                             in->x + c * in->ld, in->ld, some, y + c * ldy + begin, ldy);
    }
}

/* Products in integers, of one column or many: the numbers of a column do not depend on how many there are. */
static void integer_columns(const ml_matrix *w, int64_t begin, int64_t end, const ml_input *in, float *y, int64_t ldy,
                            void *scratch) {
    const ml_kernels *kernels = ml_kernels_get();
    const uint8_t *rows = w->data + begin * w->stride;
    if (in->columns > 1 && ml_tuned(ML_TUNING_COLUMNS)) {
        kernels->integer_multiply(w->dtype, rows, w->stride, end - begin, w->cols, in->integers, in->columns, y + begin,
                                  ldy, scratch);
        return;
    }
    for (int64_t c = 0; c < in->columns; c++) {
        kernels->integer_dot[w->dtype](rows, w->stride, end - begin, w->cols,
                                       in->integers + c * ml_integer_bytes(w->cols), y + c * ldy + begin);
    }
}

/* Whether the columns of `in` are multiplied with w on the matrix unit. */
static int on_matrix_unit(const ml_matrix *w, const ml_input *in) {
    return in->integers && w->dtype != ML_F32 && tiled(in->columns);
}

static void tile_columns(const ml_matrix *w, int64_t begin, int64_t end, const ml_input *in, float *y, int64_t ldy,
                         void *scratch) {
    ml_kernels_get()->tile_multiply(w->dtype, w->data + begin * w->stride, w->stride, end - begin, w->cols,
                                    in->integers, in->columns, ml_kernels_exact(), y + begin, ldy, scratch);
}

int ml_linear_way(const ml_matrix *w, const ml_input *in) {
    const ml_kernels *kernels = ml_kernels_get();
    if (on_matrix_unit(w, in)) return ML_LINEAR_TILES;
    if (in->integers && in_integers(in->columns) && kernels->integer_dot[w->dtype]) return ML_LINEAR_INTEGER;
    const int dots = in->columns <= kernels->few_columns || !ml_tuned(ML_TUNING_COLUMNS);
    return dots || ml_dtype_block(w->dtype) == 1 ? ML_LINEAR_DOTS : ML_LINEAR_DENSE;
}

void ml_linear_rows(const ml_matrix *w, int64_t begin, int64_t end, const float *bias, const ml_input *in, float *y,
                    int64_t ldy, float *scratch) {
    const ml_kernels *kernels = ml_kernels_get();
    for (int64_t r = begin; bias && r < end; r += 16) __builtin_prefetch(bias + r); /* far from all else */
    const int way = ml_linear_way(w, in);
    const int64_t step = way == ML_LINEAR_TILES ? ML_TILE_ROWS : ML_LINEAR_PANEL;
    for (int64_t r = begin; r < end; r += step) {
        const int64_t last = r + step < end ? r + step : end;
        switch (way) {
        case ML_LINEAR_TILES:
            tile_columns(w, r, last, in, y, ldy, scratch);
            break;
        case ML_LINEAR_INTEGER:
            integer_columns(w, r, last, in, y, ldy, scratch);
            break;
        case ML_LINEAR_DOTS:
            dot_columns(w, r, last, in, y, ldy);
            break;
        default:
            dense_rows(w, r, last, in, y, ldy, scratch);
        }
    }
    for (int64_t c = 0; bias && c < in->columns; c++) kernels->axpy(1, bias + begin, y + c * ldy + begin, end - begin);
}

/* Products of the same input that share a region; the runs of each are so many rows. */
typedef struct linear_task {
    const ml_product *products;
    int64_t grain[ML_LINEAR_MOST];
    const ml_input *in;
} linear_task;

static void linear_run(void *arg, int64_t begin, int64_t end, int thread) {
    const linear_task *t = arg;
    for (int64_t run = begin; run < end; run++) {
        int64_t i = 0, first = run * t->grain[0];
        for (; first >= t->products[i].w->rows; i++) {
            const int64_t runs = (t->products[i].w->rows + t->grain[i] - 1) / t->grain[i];
            first = (first / t->grain[i] - runs) * t->grain[i + 1];
        }
        const ml_product *p = &t->products[i];
        const int64_t last = first + t->grain[i] < p->w->rows ? first + t->grain[i] : p->w->rows;
        ml_linear_rows(p->w, first, last, p->bias, t->in, p->y, p->ldy, ml_scratch(thread));
    }
}

/* Rows of a run: a panel. On the matrix unit as many panels as leave every thread some runs; of a small plain matrix
 * (a router) fewer rows, so that all threads have some. */
static int64_t grain_of(const ml_matrix *w, const ml_input *in) {
    int64_t grain = ML_LINEAR_PANEL;
    if (on_matrix_unit(w, in)) {
        while (grain < ML_TILE_ROWS && w->rows / (2 * grain) >= 4 * ml_threads_count()) grain *= 2;
    } else if (ml_dtype_block(w->dtype) == 1) {
        while (grain > 4 && w->rows < grain * ml_threads_count()) grain /= 2;
    }
    return grain;
}

void ml_linear(const ml_product *products, int64_t count, const ml_input *in) {
    if (count > 1 && !ml_tuned(ML_TUNING_FUSED)) {
        for (int64_t i = 0; i < count; i++) ml_linear(products + i, 1, in);
        return;
    }
    linear_task task = {.products = products, .in = in};
    int64_t runs = 0;
    for (int64_t i = 0; i < count; i++) {
        task.grain[i] = grain_of(products[i].w, in);
        runs += (products[i].w->rows + task.grain[i] - 1) / task.grain[i];
    }
    ml_parallel(runs, 1, linear_run, &task);
}
