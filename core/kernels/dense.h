/* The dense f32 product, on the calling thread. */
#ifndef ML_KERNELS_DENSE_H
#define ML_KERNELS_DENSE_H

#include <stdint.h>

/* y[m*ldy + n] = sum over k of a[m*lda + k] * b[n*ldb + k], for m in [0, rows_a), n in [0, rows_b): a times b
 * transposed. OpenBLAS on one thread (the pool is the parallelism); a plain loop under MOONLOOM_ISA=scalar, and where
 * OpenBLAS is not installed. Safe from several threads at a time. */
void ml_dense_product(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t rows_b,
                      int64_t k, float *y, int64_t ldy);

/* y[m*ldy + n] = sum over k of a[m*lda + k] * b[k*ldb + n]: a times b as it stands, by the same means. */
void ml_dense_matmul(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t columns_b,
                     int64_t k, float *y, int64_t ldy);

#endif
