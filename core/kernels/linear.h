/* Matrix times activations, on stored weights. */
#ifndef ML_KERNELS_LINEAR_H
#define ML_KERNELS_LINEAR_H

#include "moonloom.h"

#include <stddef.h>

/* One weight matrix as it lies in the file: `rows` rows (outputs) of `cols` elements (inputs). */
typedef struct ml_matrix {
    const uint8_t *data;
    int64_t rows, cols;
    int64_t stride; /* bytes from one row to the next */
    int dtype;
} ml_matrix;

/* Rows of weights that one task handles: also the panel that is decoded at once for many columns. */
enum { ML_LINEAR_PANEL = 32 };

/* Bytes of scratch per thread that a matrix of `cols` inputs needs. */
size_t ml_linear_scratch(int64_t cols);

/* y[c*ldy + r] = dot(row r of w, x + c*ldx) + bias[r], for r in [begin, end) and c in [0, columns); bias may be NULL.
 * Runs on the calling thread; `scratch` as ml_linear_scratch() says. Few columns use the dot kernels on stored blocks;
 * many decode a panel of rows once and multiply it with OpenBLAS (a plain loop under MOONLOOM_ISA=scalar). */
void ml_linear_rows(const ml_matrix *w, int64_t begin, int64_t end, const float *bias, const float *x, int64_t ldx,
                    int64_t columns, float *y, int64_t ldy, float *scratch);

/* All rows, on the thread pool. Scratch must have been reserved. */
void ml_linear(const ml_matrix *w, const float *bias, const float *x, int64_t ldx, int64_t columns, float *y,
               int64_t ldy);

#endif
