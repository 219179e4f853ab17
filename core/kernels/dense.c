#include "kernels/dense.h"

#include "kernels/kernels.h"

#include <cblas.h>
#include <pthread.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void single_thread(void) {
    openblas_set_num_threads(1);
}

static int scalar(void) {
    return strcmp(ml_kernels_get()->isa, "scalar") == 0;
}

void ml_dense_product(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t rows_b,
                      int64_t k, float *y, int64_t ldy) {
    if (scalar()) {
        for (int64_t m = 0; m < rows_a; m++) {
            ml_kernels_get()->dot_rows[ML_F32](b, ldb * (int64_t)sizeof *b, rows_b, k, a + m * lda, lda, 1, y + m * ldy,
                                               ldy);
        }
        return;
    }
    pthread_once(&once, single_thread);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows_a, (blasint)rows_b, (blasint)k, 1.0f, a,
                (blasint)lda, b, (blasint)ldb, 0.0f, y, (blasint)ldy);
}

void ml_dense_matmul(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t columns_b,
                     int64_t k, float *y, int64_t ldy) {
    if (scalar()) {
        for (int64_t m = 0; m < rows_a; m++) {
            memset(y + m * ldy, 0, (size_t)columns_b * sizeof *y);
            for (int64_t i = 0; i < k; i++) ml_kernels_get()->axpy(a[m * lda + i], b + i * ldb, y + m * ldy, columns_b);
        }
        return;
    }
    pthread_once(&once, single_thread);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows_a, (blasint)columns_b, (blasint)k, 1.0f, a,
                (blasint)lda, b, (blasint)ldb, 0.0f, y, (blasint)ldy);
}
