#include "kernels/dense.h"

#include "base/threads.h"
#include "kernels/kernels.h"

#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

/* OpenBLAS is opened when it is first needed: once loaded, its threads turn for a tenth of a second on the processors
 * that the first prompt needs. */
static struct {
    pthread_once_t once;
    typeof(&cblas_sgemm) sgemm; /* NULL without OpenBLAS */
} blas = {.once = PTHREAD_ONCE_INIT};

static void open_blas(void) {
    sigset_t before;
    ml_signals_block(&before); /* for its threads */
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!library) return;
    typeof(&openblas_set_num_threads) set_threads =
        (typeof(&openblas_set_num_threads))dlsym(library, "openblas_set_num_threads");
    if (set_threads) set_threads(1);
    blas.sgemm = (typeof(&cblas_sgemm))dlsym(library, "cblas_sgemm");
}

/* 1 if the plain loop is to do it. */
static int plain(void) {
    if (strcmp(ml_kernels_get()->isa, "scalar") == 0) return 1;
    pthread_once(&blas.once, open_blas);
    return !blas.sgemm;
}

void ml_dense_product(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t rows_b,
                      int64_t k, float *y, int64_t ldy) {
    if (plain()) {
        for (int64_t m = 0; m < rows_a; m++) {
            ml_kernels_get()->dot_rows[ML_F32](b, ldb * (int64_t)sizeof *b, rows_b, k, a + m * lda, lda, 1, y + m * ldy,
                                               ldy);
        }
        return;
    }
    blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows_a, (blasint)rows_b, (blasint)k, 1.0f, a,
               (blasint)lda, b, (blasint)ldb, 0.0f, y, (blasint)ldy);
}

void ml_dense_matmul(const float *a, int64_t lda, int64_t rows_a, const float *b, int64_t ldb, int64_t columns_b,
                     int64_t k, float *y, int64_t ldy) {
    if (plain()) {
        for (int64_t m = 0; m < rows_a; m++) {
            memset(y + m * ldy, 0, (size_t)columns_b * sizeof *y);
            for (int64_t i = 0; i < k; i++) ml_kernels_get()->axpy(a[m * lda + i], b + i * ldb, y + m * ldy, columns_b);
        }
        return;
    }
    blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows_a, (blasint)columns_b, (blasint)k, 1.0f, a,
               (blasint)lda, b, (blasint)ldb, 0.0f, y, (blasint)ldy);
}
