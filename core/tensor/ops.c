/* Element-wise operations and those along a row. Everything here computes in f32 and makes new tensors. */
#include "base/error.h"
#include "base/random.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdlib.h>

/* A new f32 tensor of the shape of `like`. */
static int result_like(const ml_tensor *like, ml_tensor **out) {
    int status = ml_kernels_ready();
    return status == ML_OK ? ml_tensor_new(ML_F32, like->ndim, like->shape, 0, out) : status;
}

static float *floats_of(ml_tensor *tensor) {
    return (float *)(void *)tensor->data;
}

/* ---- two operands ----------------------------------------------------------------------------- */

/* How one operand is walked beside the other. */
typedef struct walk {
    const float *data;
    int64_t row, step; /* floats from one row, and from one element, to the next */
} walk;

/* 1 if `small` can be spread over `large`: one element, or one row. */
static int spreads(const ml_tensor *small, const ml_tensor *large) {
    int64_t count = ml_tensor_elements(small);
    return count == 1 || (ml_tensor_rows(small) == 1 && count == large->shape[large->ndim - 1]);
}

static walk walk_over(const ml_tensor *t, const float *data, const ml_tensor *whole) {
    if (ml_tensor_same_shape(t, whole)) return (walk){data, whole->shape[whole->ndim - 1], 1};
    return (walk){data, 0, ml_tensor_elements(t) == 1 ? 0 : 1};
}

static void combine(int operation, const float *a, int64_t step_a, const float *b, int64_t step_b, float *out,
                    int64_t n) {
    switch (operation) {
    case ML_ADD:
        for (int64_t i = 0; i < n; i++) out[i] = a[i * step_a] + b[i * step_b];
        break;
    case ML_SUBTRACT:
        for (int64_t i = 0; i < n; i++) out[i] = a[i * step_a] - b[i * step_b];
        break;
    case ML_MULTIPLY:
        for (int64_t i = 0; i < n; i++) out[i] = a[i * step_a] * b[i * step_b];
        break;
    default:
        for (int64_t i = 0; i < n; i++) out[i] = a[i * step_a] / b[i * step_b];
        break;
    }
}

int ml_tensor_binary(const ml_tensor *a, const ml_tensor *b, int operation, ml_tensor **out) {
    char text_a[ML_TENSOR_TEXT], text_b[ML_TENSOR_TEXT];
    if (operation < ML_ADD || operation > ML_DIVIDE) {
        return ml_error(ML_E_ARGUMENT, "%d is no element-wise operation", operation);
    }
    int same = ml_tensor_same_shape(a, b);
    if (!same && !spreads(b, a) && !spreads(a, b)) {
        return ml_error(ML_E_ARGUMENT, "the shapes of %s and %s do not go together: equal ones, one row or one element",
                        ml_tensor_text(a, text_a), ml_tensor_text(b, text_b));
    }
    const ml_tensor *whole = same || spreads(b, a) ? a : b;
    float *own_a = NULL, *own_b = NULL;
    ml_tensor *result;
    int status = result_like(whole, &result);
    if (status != ML_OK) return status;
    const float *x = ml_tensor_floats(a, &own_a), *y = x ? ml_tensor_floats(b, &own_b) : NULL;
    if (y) {
        const walk wa = walk_over(a, x, whole), wb = walk_over(b, y, whole);
        const int64_t n = whole->shape[whole->ndim - 1];
        for (int64_t r = 0; r < ml_tensor_rows(whole); r++) {
            combine(operation, wa.data + r * wa.row, wa.step, wb.data + r * wb.row, wb.step, floats_of(result) + r * n,
                    n);
        }
        *out = result;
    } else {
        ml_tensor_free(result);
    }
    free(own_a);
    free(own_b);
    return y ? ML_OK : ML_E_MEMORY;
}

int ml_tensor_add_scaled(ml_tensor *to, const ml_tensor *x, double factor) {
    char text_a[ML_TENSOR_TEXT], text_b[ML_TENSOR_TEXT];
    const int64_t n = to->shape[to->ndim - 1];
    int row = ml_tensor_rows(x) == 1 && ml_tensor_elements(x) == n;
    if (!row && !ml_tensor_same_shape(to, x)) {
        return ml_error(ML_E_ARGUMENT, "a tensor %s cannot be added to one of %s: equal shapes, or one row",
                        ml_tensor_text(x, text_a), ml_tensor_text(to, text_b));
    }
    if (to->dtype != ML_F32 || !to->writable || to->stride[to->ndim - 1] != (int64_t)sizeof(float)) {
        return ml_error(ML_E_ARGUMENT, "adding in place needs a writable f32 tensor with packed rows, not %s",
                        ml_tensor_text(to, text_a));
    }
    int status = ml_kernels_ready();
    if (status != ML_OK) return status;
    float *own;
    const float *floats = ml_tensor_floats(x, &own);
    if (!floats) return ML_E_MEMORY;
    for (int64_t r = 0; r < ml_tensor_rows(to); r++) {
        ml_kernels_get()->axpy((float)factor, floats + (row ? 0 : r * n), (float *)(void *)ml_tensor_row(to, r), n);
    }
    free(own);
    return ML_OK;
}

/* ---- row by row ------------------------------------------------------------------------------- */

typedef struct row_work {
    const float *weight;
    double factor, offset; /* of scale; epsilon of rms_norm */
} row_work;

/* Applies `apply` to each row of a copy of x. */
static int each_row(const ml_tensor *x, void (*apply)(const row_work *work, float *row, int64_t n),
                    const row_work *work, ml_tensor **out) {
    ml_tensor *result;
    int status = result_like(x, &result);
    if (status != ML_OK) return status;
    const int64_t n = x->shape[x->ndim - 1];
    for (int64_t r = 0; r < ml_tensor_rows(x); r++) {
        float *row = floats_of(result) + r * n;
        ml_read_row(x, r, row);
        apply(work, row, n);
    }
    *out = result;
    return ML_OK;
}

static void scale_row(const row_work *work, float *row, int64_t n) {
    const float factor = (float)work->factor, offset = (float)work->offset;
    for (int64_t i = 0; i < n; i++) row[i] = factor * row[i] + offset;
}

static void softmax_row(const row_work *work, float *row, int64_t n) {
    (void)work;
    ml_kernels_get()->softmax(row, n);
}

static void log_softmax_row(const row_work *work, float *row, int64_t n) {
    double sum = 0;
    (void)work;
    if (n == 0) return;
    ml_logits_logsumexp(row, n, &sum);
    for (int64_t i = 0; i < n; i++) row[i] = (float)((double)row[i] - sum);
}

static void rms_norm_row(const row_work *work, float *row, int64_t n) {
    ml_kernels_get()->rms_norm(row, work->weight, work->factor, row, n);
}

int ml_tensor_scale(const ml_tensor *a, double factor, double offset, ml_tensor **out) {
    return each_row(a, scale_row, &(row_work){.factor = factor, .offset = offset}, out);
}

int ml_tensor_softmax(const ml_tensor *x, ml_tensor **out) {
    return each_row(x, softmax_row, &(row_work){0}, out);
}

int ml_tensor_log_softmax(const ml_tensor *x, ml_tensor **out) {
    return each_row(x, log_softmax_row, &(row_work){0}, out);
}

int ml_tensor_rms_norm(const ml_tensor *x, const ml_tensor *weight, double epsilon, ml_tensor **out) {
    char text_x[ML_TENSOR_TEXT], text_w[ML_TENSOR_TEXT];
    const int64_t n = x->shape[x->ndim - 1];
    if (!(epsilon >= 0)) return ml_error(ML_E_ARGUMENT, "rms_norm needs an epsilon of 0 or more, not %g", epsilon);
    if (weight && (ml_tensor_rows(weight) != 1 || ml_tensor_elements(weight) != n)) {
        return ml_error(ML_E_ARGUMENT, "rms_norm of %s needs a weight of one row, not %s", ml_tensor_text(x, text_x),
                        ml_tensor_text(weight, text_w));
    }
    ml_tensor *ones = NULL;
    float *own = NULL;
    int status = weight ? ML_OK : ml_tensor_new(ML_F32, 1, &n, 0, &ones);
    if (status != ML_OK) return status;
    for (int64_t i = 0; ones && i < n; i++) floats_of(ones)[i] = 1;
    const float *factors = ml_tensor_floats(weight ? weight : ones, &own);
    status = factors ? each_row(x, rms_norm_row, &(row_work){.weight = factors, .factor = epsilon}, out) : ML_E_MEMORY;
    free(own);
    ml_tensor_free(ones);
    return status;
}

int ml_tensor_swiglu(const ml_tensor *gate, const ml_tensor *up, int clamped, ml_tensor **out) {
    char text_a[ML_TENSOR_TEXT], text_b[ML_TENSOR_TEXT];
    if (!ml_tensor_same_shape(gate, up)) {
        return ml_error(ML_E_ARGUMENT, "swiglu needs gate and up of one shape, not %s and %s",
                        ml_tensor_text(gate, text_a), ml_tensor_text(up, text_b));
    }
    float *own = NULL;
    ml_tensor *result;
    int status = result_like(gate, &result);
    if (status != ML_OK) return status;
    const float *u = ml_tensor_floats(up, &own);
    const int64_t n = gate->shape[gate->ndim - 1];
    const ml_kernels *kernels = ml_kernels_get();
    for (int64_t r = 0; u && r < ml_tensor_rows(gate); r++) {
        float *row = floats_of(result) + r * n;
        ml_read_row(gate, r, row);
        (clamped ? kernels->swiglu_clamped : kernels->swiglu)(row, u + r * n, row, n);
    }
    free(own);
    if (!u) {
        ml_tensor_free(result);
        return ML_E_MEMORY;
    }
    *out = result;
    return ML_OK;
}

/* ---- random numbers --------------------------------------------------------------------------- */

/* Of a counter: element i is the same whatever is around it. Uniform in [0, 1). */
static double random_unit(uint64_t seed, uint64_t counter) {
    return (double)(ml_random_at(seed, counter) >> 11) * 0x1p-53;
}

/* Box and Muller (1958): two uniform numbers make a normal one. */
static double random_normal(uint64_t seed, uint64_t counter) {
    double size = sqrt(-2 * log(1 - random_unit(seed, 2 * counter)));
    return size * cos(2 * M_PI * random_unit(seed, 2 * counter + 1));
}

static int fill_random(ml_tensor *tensor, double (*number)(uint64_t, uint64_t), double factor, double offset,
                       uint64_t seed) {
    char text[ML_TENSOR_TEXT];
    if (!ml_tensor_writable(tensor)) {
        return ml_error(ML_E_ARGUMENT, "a tensor %s cannot be filled with numbers", ml_tensor_text(tensor, text));
    }
    const int64_t n = tensor->shape[tensor->ndim - 1], step = tensor->stride[tensor->ndim - 1];
    uint64_t counter = 0;
    for (int64_t r = 0; r < ml_tensor_rows(tensor); r++) {
        for (int64_t i = 0; i < n; i++) {
            double value = offset + factor * number(seed, counter++);
            ml_write_elements(tensor->dtype, ml_tensor_row(tensor, r) + i * step, step, 1, &value);
        }
    }
    return ML_OK;
}

int ml_tensor_fill_uniform(ml_tensor *tensor, double low, double high, uint64_t seed) {
    return fill_random(tensor, random_unit, high - low, low, seed);
}

int ml_tensor_fill_normal(ml_tensor *tensor, double mean, double deviation, uint64_t seed) {
    return fill_random(tensor, random_normal, deviation, mean, seed);
}
