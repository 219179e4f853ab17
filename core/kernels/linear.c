#include "kernels/linear.h"

#include "base/threads.h"
#include "kernels/dense.h"
#include "kernels/kernels.h"

size_t ml_linear_scratch(int64_t cols) {
    return (size_t)cols * ML_LINEAR_PANEL * sizeof(float);
}

/* The panel [begin, end) of rows for many columns: unpacked once. */
static void panel_rows(const ml_matrix *w, int64_t begin, int64_t end, const float *x, int64_t ldx, int64_t columns,
                       float *y, int64_t ldy, float *scratch) {
    const ml_kernels *kernels = ml_kernels_get();
    for (int64_t r = begin; r < end; r++) {
        kernels->decode_row[w->dtype](w->data + r * w->stride, scratch + (r - begin) * w->cols, w->cols);
    }
    ml_dense_product(x, ldx, columns, scratch, w->cols, end - begin, w->cols, y + begin, ldy);
}

void ml_linear_rows(const ml_matrix *w, int64_t begin, int64_t end, const float *bias, const float *x, int64_t ldx,
                    int64_t columns, float *y, int64_t ldy, float *scratch) {
    const ml_kernels *kernels = ml_kernels_get();
    if (columns > kernels->few_columns) {
        for (int64_t r = begin; r < end; r += ML_LINEAR_PANEL) {
            panel_rows(w, r, r + ML_LINEAR_PANEL < end ? r + ML_LINEAR_PANEL : end, x, ldx, columns, y, ldy, scratch);
        }
    } else {
        for (int64_t c = 0; c < columns; c += ML_DOT_COLUMNS) {
            int64_t some = columns - c < ML_DOT_COLUMNS ? columns - c : ML_DOT_COLUMNS;
            kernels->dot_rows[w->dtype](w->data + begin * w->stride, w->stride, end - begin, w->cols, x + c * ldx, ldx,
                                        some, y + c * ldy + begin, ldy);
        }
    }
    if (!bias) return;
    for (int64_t c = 0; c < columns; c++) {
        for (int64_t r = begin; r < end; r++) y[c * ldy + r] += bias[r];
    }
}

typedef struct linear_task {
    const ml_matrix *w;
    const float *bias, *x;
    float *y;
    int64_t ldx, columns, ldy;
} linear_task;

static void linear_run(void *arg, int64_t begin, int64_t end, int thread) {
    const linear_task *t = arg;
    ml_linear_rows(t->w, begin, end, t->bias, t->x, t->ldx, t->columns, t->y, t->ldy, ml_scratch(thread));
}

void ml_linear(const ml_matrix *w, const float *bias, const float *x, int64_t ldx, int64_t columns, float *y,
               int64_t ldy) {
    linear_task task = {.w = w, .bias = bias, .x = x, .y = y, .ldx = ldx, .columns = columns, .ldy = ldy};
    ml_parallel(w->rows, ML_LINEAR_PANEL, linear_run, &task);
}
