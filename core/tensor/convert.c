#include "tensor/convert.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "dtype/dtype.h"
#include "dtype/encode.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>

/* ---- single elements -------------------------------------------------------------------------- */

typedef union plain_element {
    float f32;
    double f64;
    uint16_t bits;
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
} plain_element;

static double read_plain(int dtype, const uint8_t *p) {
    plain_element u;
    memcpy(&u, p, (size_t)ml_dtype_bytes(dtype));
    switch (dtype) {
    case ML_F32:
        return (double)u.f32;
    case ML_F16:
        return (double)ml_f16_to_f32(u.bits);
    case ML_BF16:
        return (double)ml_bf16_to_f32(u.bits);
    case ML_F64:
        return u.f64;
    case ML_I8:
        return u.i8;
    case ML_I16:
        return u.i16;
    case ML_I32:
        return u.i32;
    default:
        return (double)u.i64;
    }
}

void ml_read_elements(int dtype, const uint8_t *row, int64_t stride, int64_t from, int64_t n, double *out) {
    void (*decode)(const void *, float *, int64_t) = ml_kernels_get()->decode_row[dtype];
    if (decode && (ml_dtype_block(dtype) > 1 || stride == ml_dtype_bytes(dtype))) {
        float values[ML_CHUNK];
        decode(row + ml_row_bytes(dtype, from), values, n);
        for (int64_t i = 0; i < n; i++) out[i] = (double)values[i];
        return;
    }
    for (int64_t i = 0; i < n; i++) out[i] = read_plain(dtype, row + (from + i) * stride);
}

/* Towards zero, clamped to `bits` bits; NaN gives 0. */
static int64_t whole(double value, int bits) {
    const double limit = ldexp(1, bits - 1);
    if (isnan(value)) return 0;
    if (value <= -limit) return -(int64_t)(limit / 2) * 2;
    if (value >= limit) return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
    return (int64_t)value;
}

static void write_plain(int dtype, uint8_t *p, double value) {
    plain_element u;
    switch (dtype) {
    case ML_F32:
        u.f32 = (float)value;
        break;
    case ML_F16:
        u.bits = ml_f32_to_f16((float)value);
        break;
    case ML_BF16:
        u.bits = ml_f32_to_bf16((float)value);
        break;
    case ML_F64:
        u.f64 = value;
        break;
    case ML_I8:
        u.i8 = (int8_t)whole(value, 8);
        break;
    case ML_I16:
        u.i16 = (int16_t)whole(value, 16);
        break;
    case ML_I32:
        u.i32 = (int32_t)whole(value, 32);
        break;
    default:
        u.i64 = whole(value, 64);
        break;
    }
    memcpy(p, &u, (size_t)ml_dtype_bytes(dtype));
}

void ml_write_elements(int dtype, uint8_t *place, int64_t stride, int64_t n, const double *values) {
    for (int64_t i = 0; i < n; i++) write_plain(dtype, place + i * stride, values[i]);
}

/* Where an element lies: the start of it, or of its block, whose elements before it are `skip`. */
static int locate(const ml_tensor *t, const int64_t *index, const uint8_t **row, int64_t *last) {
    char text[ML_TENSOR_TEXT];
    const uint8_t *place = t->data;
    for (int i = 0; i < t->ndim; i++) {
        if (index[i] < 0 || index[i] >= t->shape[i]) {
            return ml_error(ML_E_ARGUMENT, "index %lld (from 0) is outside dimension %d of a tensor %s",
                            (long long)index[i], i, ml_tensor_text(t, text));
        }
        if (i < t->ndim - 1) place += index[i] * t->stride[i];
    }
    *row = place;
    *last = index[t->ndim - 1];
    return ML_OK;
}

int ml_tensor_get(const ml_tensor *tensor, const int64_t *index, double *out) {
    const uint8_t *row = NULL;
    int64_t last = 0, block = ml_dtype_block(tensor->dtype);
    double values[ML_CHUNK];
    int status = locate(tensor, index, &row, &last);
    if (status != ML_OK) return status;
    ml_read_elements(tensor->dtype, row, tensor->stride[tensor->ndim - 1], last / block * block, block, values);
    /* One plain NaN for all: LuaJIT takes some of the others for its own tags. */
    *out = isnan(values[last % block]) ? (double)NAN : values[last % block];
    return ML_OK;
}

static int check_writable(const ml_tensor *tensor) {
    char text[ML_TENSOR_TEXT];
    if (ml_tensor_writable(tensor)) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "this tensor %s cannot be written: %s", ml_tensor_text(tensor, text),
                    ml_dtype_block(tensor->dtype) > 1 ? "its dtype is made of blocks" : "it shows a mapped file");
}

int ml_tensor_set(ml_tensor *tensor, const int64_t *index, double value) {
    const uint8_t *row = NULL;
    int64_t last = 0;
    int status = check_writable(tensor);
    if (status == ML_OK) status = locate(tensor, index, &row, &last);
    if (status != ML_OK) return status;
    write_plain(tensor->dtype, (uint8_t *)row + last * tensor->stride[tensor->ndim - 1], value);
    return ML_OK;
}

/* ---- rows ------------------------------------------------------------------------------------- */

/* A kernel decodes the row at once: floats and blocks that lie packed. */
static int kernel_decodes(const ml_tensor *t) {
    return ml_kernels_get()->decode_row[t->dtype] &&
           (ml_dtype_block(t->dtype) > 1 || t->stride[t->ndim - 1] == ml_dtype_bytes(t->dtype));
}

void ml_read_row(const ml_tensor *t, int64_t row, float *out) {
    const uint8_t *place = ml_tensor_row(t, row);
    const int64_t n = t->shape[t->ndim - 1];
    if (kernel_decodes(t)) {
        ml_kernels_get()->decode_row[t->dtype](place, out, n);
        return;
    }
    double values[ML_CHUNK];
    for (int64_t i = 0; i < n; i += ML_CHUNK) {
        int64_t some = n - i < ML_CHUNK ? n - i : ML_CHUNK;
        ml_read_elements(t->dtype, place, t->stride[t->ndim - 1], i, some, values);
        for (int64_t j = 0; j < some; j++) out[i + j] = (float)values[j];
    }
}

/* The row at `place`, laid out as `from`, to a row of `to`, chunk by chunk. */
static void copy_row(const ml_tensor *from, const uint8_t *place, ml_tensor *to, uint8_t *target, int64_t n) {
    const int64_t step = from->stride[from->ndim - 1], step_to = to->stride[to->ndim - 1];
    const ml_encode encode = ml_encode_reference(to->dtype);
    const int blocks = ml_dtype_block(to->dtype) > 1;
    double values[ML_CHUNK];
    float floats[ML_CHUNK];
    for (int64_t i = 0; i < n; i += ML_CHUNK) {
        int64_t some = n - i < ML_CHUNK ? n - i : ML_CHUNK;
        ml_read_elements(from->dtype, place, step, i, some, values);
        if (blocks) {
            for (int64_t j = 0; j < some; j++) floats[j] = (float)values[j];
            encode(floats, target + ml_row_bytes(to->dtype, i), some);
        } else {
            ml_write_elements(to->dtype, target + i * step_to, step_to, some, values);
        }
    }
}

typedef struct copy_task {
    const ml_tensor *from;
    ml_tensor *to;
    int64_t from_rows; /* 1: the same row again and again */
    int single;        /* the same element again and again */
} copy_task;

static void copy_rows(void *arg, int64_t begin, int64_t end, int thread) {
    const copy_task *t = arg;
    const ml_tensor *from = t->from;
    ml_tensor *to = t->to;
    (void)thread;
    const int64_t n = to->shape[to->ndim - 1];
    const int f32 = to->dtype == ML_F32 && to->stride[to->ndim - 1] == 4;
    const int bf16 = to->dtype == ML_BF16 && to->stride[to->ndim - 1] == 2;
    const int same = from->dtype == to->dtype && ml_tensor_contiguous(from) && ml_tensor_contiguous(to);
    for (int64_t r = begin; r < end; r++) {
        const uint8_t *place = ml_tensor_row(from, t->from_rows == 1 ? 0 : r);
        uint8_t *target = ml_tensor_row(to, r);
        if (t->single) {
            double value;
            ml_read_elements(from->dtype, place, 0, 0, 1, &value);
            for (int64_t i = 0; i < n; i++) write_plain(to->dtype, target + i * to->stride[to->ndim - 1], value);
        } else if (same) {
            memmove(target, place, (size_t)ml_row_bytes(to->dtype, n));
        } else if (f32 && kernel_decodes(from)) {
            ml_kernels_get()->decode_row[from->dtype](place, (float *)(void *)target, n);
        } else if (bf16 && from->dtype == ML_F32 && kernel_decodes(from)) {
            ml_kernels_get()->to_bf16((const float *)(const void *)place, (uint16_t *)(void *)target, n);
        } else {
            copy_row(from, place, to, target, n);
        }
    }
}

static void copy_all(const ml_tensor *from, ml_tensor *to, int single) {
    copy_task task = {.from = from, .to = to, .from_rows = ml_tensor_rows(from), .single = single};
    ml_parallel(ml_tensor_rows(to), 16, copy_rows, &task);
}

int ml_tensor_convert(const ml_tensor *tensor, int dtype, ml_tensor **out) {
    ml_tensor *copy;
    if (ml_dtype_block(dtype) > 1 && dtype != tensor->dtype && !ml_encode_reference(dtype)) {
        return ml_error(ML_E_UNSUPPORTED, "there is no quantising to %s: choose q8_0, q4_0 or mxfp4",
                        ml_dtype_name(dtype));
    }
    int status = ml_kernels_ready();
    if (status == ML_OK) status = ml_tensor_new(dtype, tensor->ndim, tensor->shape, 0, &copy);
    if (status != ML_OK) return status;
    if (dtype == tensor->dtype && ml_dtype_block(dtype) > 1) { /* blocks stay as they are */
        for (int64_t r = 0; r < ml_tensor_rows(tensor); r++) {
            memcpy(ml_tensor_row(copy, r), ml_tensor_row(tensor, r),
                   (size_t)ml_row_bytes(dtype, tensor->shape[tensor->ndim - 1]));
        }
    } else {
        copy_all(tensor, copy, 0);
    }
    *out = copy;
    return ML_OK;
}

int ml_tensor_copy(const ml_tensor *from, ml_tensor *to) {
    char a[ML_TENSOR_TEXT], b[ML_TENSOR_TEXT];
    int status = check_writable(to);
    if (status == ML_OK) status = ml_kernels_ready();
    if (status != ML_OK) return status;
    int64_t count = ml_tensor_elements(from);
    int single = count == 1 && ml_dtype_block(from->dtype) == 1;
    int row = count == to->shape[to->ndim - 1] && ml_tensor_rows(from) == 1;
    if (!single && !row && !ml_tensor_same_shape(from, to)) {
        return ml_error(ML_E_ARGUMENT, "a tensor %s cannot be copied into one of %s", ml_tensor_text(from, a),
                        ml_tensor_text(to, b));
    }
    copy_all(from, to, single);
    return ML_OK;
}

const float *ml_tensor_floats(const ml_tensor *tensor, float **owned) {
    *owned = NULL;
    if (tensor->dtype == ML_F32 && ml_tensor_contiguous(tensor) && (uintptr_t)tensor->data % sizeof(float) == 0) {
        return (const float *)(const void *)tensor->data;
    }
    ml_tensor *copy;
    size_t count = (size_t)ml_tensor_elements(tensor);
    float *floats = ml_alloc_aligned(count, sizeof *floats);
    if (!floats) return NULL;
    if (ml_tensor_wrap(floats, ML_F32, tensor->ndim, tensor->shape, 1, NULL, NULL, &copy) != ML_OK) {
        free(floats);
        return NULL;
    }
    copy_all(tensor, copy, 0);
    ml_tensor_free(copy);
    return *owned = floats;
}
