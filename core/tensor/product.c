/* Products: dense, on stored weights, and attention. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "dtype/dtype.h"
#include "kernels/dense.h"
#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "tensor/convert.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

static float *floats_of(ml_tensor *tensor) {
    return (float *)(void *)tensor->data;
}

/* One product of a batch, cut into runs of rows. */
typedef struct product_task {
    const float *a, *b;
    float *y;
    int64_t m, k, n;
    int64_t next_b;  /* floats from one b to the next; 0 if all share one */
    int transposed;  /* b lies as {n, k} */
    int64_t run;     /* rows of a in one task */
    int64_t runs_of; /* tasks in one product */
} product_task;

static void product_run(void *arg, int64_t begin, int64_t end, int thread) {
    const product_task *t = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int64_t batch = i / t->runs_of, first = i % t->runs_of * t->run;
        int64_t rows = t->m - first < t->run ? t->m - first : t->run;
        const float *a = t->a + (batch * t->m + first) * t->k, *b = t->b + batch * t->next_b;
        float *y = t->y + (batch * t->m + first) * t->n;
        if (t->transposed) {
            ml_dense_product(a, t->k, rows, b, t->k, t->n, t->k, y, t->n);
        } else {
            ml_dense_matmul(a, t->k, rows, b, t->n, t->n, t->k, y, t->n);
        }
    }
}

/* Checks the shapes of a product and tells that of the result. */
static int matmul_shape(const ml_tensor *a, const ml_tensor *b, int64_t shape[3]) {
    char text_a[ML_TENSOR_TEXT], text_b[ML_TENSOR_TEXT];
    int fine = a->ndim >= 2 && a->ndim <= 3 && b->ndim >= 2 && b->ndim <= a->ndim &&
               a->shape[a->ndim - 1] == b->shape[b->ndim - 2] && (b->ndim == 2 || a->shape[0] == b->shape[0]);
    for (int i = 0; fine && i < a->ndim; i++) fine = a->shape[i] <= INT_MAX;
    if (!fine || b->shape[b->ndim - 1] > INT_MAX) {
        return ml_error(ML_E_ARGUMENT,
                        "no matrix product of %s and %s: it takes {m, k} x {k, n}, or {b, m, k} x {b, k, n} or {k, n}",
                        ml_tensor_text(a, text_a), ml_tensor_text(b, text_b));
    }
    for (int i = 0; i < a->ndim; i++) shape[i] = a->shape[i];
    shape[a->ndim - 1] = b->shape[b->ndim - 1];
    return ML_OK;
}

int ml_tensor_matmul(const ml_tensor *a, const ml_tensor *b, ml_tensor **out) {
    int64_t shape[3];
    ml_tensor *result = NULL;
    int status = ml_kernels_ready();
    if (status == ML_OK) status = matmul_shape(a, b, shape);
    if (status == ML_OK) status = ml_tensor_new(ML_F32, a->ndim, shape, 1, &result);
    if (status != ML_OK) return status;
    ml_tensor flipped = *b; /* a transposed view of packed rows is multiplied as it lies */
    flipped.shape[0] = b->shape[1];
    flipped.shape[1] = b->shape[0];
    flipped.stride[0] = b->stride[1];
    flipped.stride[1] = b->stride[0];
    const int transposed = b->ndim == 2 && ml_dtype_block(b->dtype) == 1 && !ml_tensor_contiguous(b) &&
                           flipped.stride[1] == ml_dtype_bytes(b->dtype);
    float *own_a = NULL, *own_b = NULL;
    const float *x = ml_tensor_floats(a, &own_a), *y = x ? ml_tensor_floats(transposed ? &flipped : b, &own_b) : NULL;
    if (y) {
        product_task task = {.a = x, .b = y, .y = floats_of(result), .transposed = transposed, .run = 64};
        task.m = a->shape[a->ndim - 2];
        task.k = a->shape[a->ndim - 1];
        task.n = shape[a->ndim - 1];
        task.next_b = b->ndim == 3 ? task.k * task.n : 0;
        task.runs_of = (task.m + task.run - 1) / task.run;
        if (task.k > 0) ml_parallel((a->ndim == 3 ? a->shape[0] : 1) * task.runs_of, 1, product_run, &task);
        *out = result;
    } else {
        ml_tensor_free(result);
    }
    free(own_a);
    free(own_b);
    return y ? ML_OK : ML_E_MEMORY;
}

/* ---- stored weights --------------------------------------------------------------------------- */

static int linear_shape(const ml_tensor *x, const ml_tensor *w, const ml_tensor *bias) {
    char text_x[ML_TENSOR_TEXT], text_w[ML_TENSOR_TEXT], text_b[ML_TENSOR_TEXT];
    if (x->ndim > 2 || w->ndim != 2 || x->shape[x->ndim - 1] != w->shape[1]) {
        return ml_error(ML_E_ARGUMENT, "linear takes x {n, k} and weights {rows, k}, not %s and %s",
                        ml_tensor_text(x, text_x), ml_tensor_text(w, text_w));
    }
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0])) {
        return ml_error(ML_E_ARGUMENT, "weights %s need a bias of %lld elements, not %s", ml_tensor_text(w, text_w),
                        (long long)w->shape[0], ml_tensor_text(bias, text_b));
    }
    return ML_OK;
}

/* Multiplies where the weights lie, or with a copy as f32 where no kernel reads them. */
static int multiply(const float *x, int64_t n, const ml_tensor *w, const float *bias, float *y) {
    const int64_t k = w->shape[1], step = w->stride[1];
    int direct = ml_kernels_get()->dot_rows[w->dtype] && (step == 0 || step == ml_dtype_bytes(w->dtype));
    float *own = NULL;
    ml_matrix matrix = {.data = w->data, .rows = w->shape[0], .cols = k, .stride = w->stride[0], .dtype = w->dtype};
    if (!direct) {
        matrix.data = (const uint8_t *)ml_tensor_floats(w, &own);
        if (!matrix.data) return ML_E_MEMORY;
        matrix.stride = k * (int64_t)sizeof(float);
        matrix.dtype = ML_F32;
    }
    ml_input in = {.x = x, .ld = k, .columns = n};
    uint8_t *integers = ml_alloc_aligned((size_t)n, (size_t)ml_integer_bytes(k));
    int status = integers ? ml_scratch_reserve(ml_linear_scratch(k)) : ML_E_MEMORY;
    if (status == ML_OK) {
        ml_input_prepare(&in, k, NULL, integers);
        ml_linear(&(ml_product){&matrix, bias, y, matrix.rows}, 1, &in);
    }
    free(integers);
    free(own);
    return status;
}

int ml_tensor_linear(const ml_tensor *x, const ml_tensor *w, const ml_tensor *bias, ml_tensor **out) {
    ml_tensor *result = NULL;
    float *own_x = NULL, *own_b = NULL;
    int status = ml_kernels_ready();
    if (status == ML_OK) status = linear_shape(x, w, bias);
    if (status != ML_OK) return status;
    const int64_t shape[2] = {x->shape[0], w->shape[0]};
    status = ml_tensor_new(ML_F32, x->ndim, x->ndim == 1 ? shape + 1 : shape, 0, &result);
    if (status != ML_OK) return status;
    const float *floats = ml_tensor_floats(x, &own_x), *b = bias && floats ? ml_tensor_floats(bias, &own_b) : NULL;
    status = floats && (b || !bias) ? ML_OK : ML_E_MEMORY;
    if (status == ML_OK) status = multiply(floats, ml_tensor_rows(x), w, b, floats_of(result));
    free(own_x);
    free(own_b);
    if (status == ML_OK) {
        *out = result;
    } else {
        ml_tensor_free(result);
    }
    return status;
}

/* ---- attention -------------------------------------------------------------------------------- */

enum { PAGE = ML_PAGE_TOKENS, MAX_HEAD_DIM = 256 };

static int attend_shape(const ml_tensor *q, const ml_tensor *keys, const ml_tensor *values) {
    char text_q[ML_TENSOR_TEXT], text_k[ML_TENSOR_TEXT], text_v[ML_TENSOR_TEXT];
    int fine = q->ndim == 2 && keys->ndim == 2 && ml_tensor_same_shape(keys, values) && q->shape[1] == keys->shape[1] &&
               keys->shape[0] > 0 && q->shape[1] % 8 == 0 && q->shape[1] >= 8 && q->shape[1] <= MAX_HEAD_DIM;
    if (fine) return ML_OK;
    return ml_error(ML_E_ARGUMENT,
                    "attend takes q {queries, d} and keys and values {tokens, d}, d a multiple of 8 up to %d, not %s, "
                    "%s and %s",
                    MAX_HEAD_DIM, ml_tensor_text(q, text_q), ml_tensor_text(keys, text_k),
                    ml_tensor_text(values, text_v));
}

/* Tokens [t, t + some) of keys and values {tokens, dim} as a page of the kernel; its other tokens stay as they are. */
static void fill_page(const uint8_t *keys, const uint8_t *values, int64_t size, int64_t dim, int64_t t, int64_t some,
                      uint8_t *page) {
    for (int64_t i = 0; i < some * dim; i++) {
        memcpy(page + (i % dim * PAGE + i / dim) * size, keys + (t * dim + i) * size, (size_t)size);
    }
    memcpy(page + dim * PAGE * size, values + t * dim * size, (size_t)(some * dim * size));
}

/* Walks the pages, then divides by the sums. `state` holds top and sum of each query, `area` 4 PAGE dim floats. */
static void attend_pages(const float *q, int64_t queries, int64_t dim, const uint8_t *keys, const uint8_t *values,
                         int dtype, int64_t tokens, float *state, float *area, float *acc) {
    const int64_t size = ml_dtype_bytes(dtype);
    uint8_t *page = (uint8_t *)(area + 2 * PAGE * dim);
    const int32_t from = 0;
    for (int64_t h = 0; h < queries; h++) state[h] = -INFINITY;
    for (int64_t t = 0; t < tokens; t += PAGE) {
        const int32_t some = (int32_t)(tokens - t < PAGE ? tokens - t : PAGE);
        fill_page(keys, values, size, dim, t, some, page);
        ml_attend work = {.rows = 1, .group = queries, .head_dim = dim, .q = q, .from = &from, .to = &some};
        work.keys = work.next_keys = page;
        work.values = work.next_values = page + dim * PAGE * size;
        work.dtype = dtype;
        work.area = area;
        work.top = state;
        work.sum = state + queries;
        work.acc = acc;
        ml_kernels_get()->attend(&work);
    }
    for (int64_t i = 0; i < queries * dim; i++) acc[i] /= state[queries + i / dim];
}

int ml_tensor_attend(const ml_tensor *q, const ml_tensor *keys, const ml_tensor *values, ml_tensor **out) {
    float *own_q = NULL, *own_k = NULL, *own_v = NULL;
    ml_tensor *result = NULL;
    int status = ml_kernels_ready();
    if (status == ML_OK) status = attend_shape(q, keys, values);
    if (status != ML_OK) return status;
    const int64_t queries = q->shape[0], dim = q->shape[1];
    int bf16 = keys->dtype == ML_BF16 && values->dtype == ML_BF16 && ml_tensor_contiguous(keys) &&
               ml_tensor_contiguous(values);
    float *state = ml_calloc((size_t)queries, 2 * sizeof *state);
    float *area = ml_calloc((size_t)dim, 4 * PAGE * sizeof *area);
    status = state && area ? ml_tensor_create(ML_F32, 2, q->shape, &result) : ML_E_MEMORY;
    const float *x = status == ML_OK ? ml_tensor_floats(q, &own_q) : NULL;
    const void *k = x ? bf16 ? keys->data : (const void *)ml_tensor_floats(keys, &own_k) : NULL;
    const void *v = k ? bf16 ? values->data : (const void *)ml_tensor_floats(values, &own_v) : NULL;
    if (v) {
        attend_pages(x, queries, dim, k, v, bf16 ? ML_BF16 : ML_F32, keys->shape[0], state, area, floats_of(result));
        *out = result;
    } else {
        ml_tensor_free(result);
        if (status == ML_OK) status = ML_E_MEMORY;
    }
    free(state);
    free(area);
    free(own_q);
    free(own_k);
    free(own_v);
    return status;
}
