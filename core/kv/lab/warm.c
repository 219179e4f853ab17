/* Quantised pages as operations on tensors: to look at, to measure errors with, and to test. */
#include "base/error.h"
#include "base/memory.h"
#include "kv/format.h"
#include "tensor/convert.h"
#include "tensor/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = ML_PAGE_TOKENS };

static float *floats_of(ml_tensor *tensor) {
    return (float *)(void *)tensor->data;
}

static int valid_bits(int bits) {
    return bits == 16 || bits == 8 || bits == 4;
}

/* Keys and values of one KV head that are worked on a page at a time. */
typedef struct warm_head {
    int64_t head_dim;
    ml_format *plain, *format;
    uint8_t *from, *page; /* of `plain`, of `format` */
} warm_head;

static void head_close(warm_head *head) {
    free(head->plain);
    free(head->format);
    free(head->from);
    free(head->page);
}

static int head_open(const ml_tensor *x, int key_bits, int value_bits, int rotated, warm_head *head) {
    char text[ML_TENSOR_TEXT];
    const int64_t dim = x->shape[1];
    *head = (warm_head){.head_dim = dim};
    if (x->ndim != 2 || x->shape[0] < 1 || dim < 8 || dim % 8 || dim > ML_MAX_HEAD_DIM) {
        return ml_error(ML_E_ARGUMENT, "keys and values are {tokens, d}, d a multiple of 8 up to %d, not %s",
                        ML_MAX_HEAD_DIM, ml_tensor_text(x, text));
    }
    if (!valid_bits(key_bits) || !valid_bits(value_bits)) {
        return ml_error(ML_E_ARGUMENT, "keys and values have 16, 8 or 4 bits, not %d and %d", key_bits, value_bits);
    }
    const uint8_t keys = (uint8_t)key_bits, values = (uint8_t)value_bits;
    head->plain = ml_calloc(1, ml_format_size(1));
    head->format = ml_calloc(1, ml_format_size(1));
    if (!head->plain || !head->format) return ML_E_MEMORY;
    ml_format_lay_out(head->plain, ML_F32, 1, (int32_t)dim, 0, NULL, NULL);
    ml_format_lay_out(head->format, ML_F32, 1, (int32_t)dim, rotated, &keys, &values);
    head->from = ml_alloc_aligned(1, (size_t)head->plain->bytes);
    head->page = ml_alloc_aligned(1, (size_t)head->format->bytes);
    return head->from && head->page ? ML_OK : ML_E_MEMORY;
}

/* Makes head->page of tokens [t, ...) of keys and values {tokens, head_dim}; the last is repeated to fill it. */
static int head_fill(const warm_head *head, const float *keys, const float *values, int64_t tokens, int64_t t) {
    const int64_t dim = head->head_dim;
    float *to_keys = (float *)(void *)head->from, *to_values = to_keys + dim * PAGE;
    for (int64_t p = 0; p < PAGE; p++) {
        const int64_t token = t + p < tokens ? t + p : tokens - 1;
        for (int64_t i = 0; i < dim; i++) {
            to_keys[i * PAGE + p] = keys[token * dim + i];
            to_values[p * dim + i] = values[token * dim + i];
        }
    }
    if (ml_page_convert(head->plain, head->from, head->format, head->page, NULL, 0)) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "infinite or NaN numbers cannot be quantised");
}

int ml_warm_round(const ml_tensor *x, int values, int bits, int rotated, ml_tensor **out) {
    warm_head head;
    float *own = NULL;
    ml_tensor *result = NULL;
    int status = head_open(x, bits, bits, rotated, &head);
    if (status == ML_OK) status = ml_tensor_create(ML_F32, 2, x->shape, &result);
    const float *from = status == ML_OK ? ml_tensor_floats(x, &own) : NULL;
    if (status == ML_OK && !from) status = ML_E_MEMORY;
    const int64_t tokens = x->shape[0], dim = head.head_dim;
    for (int64_t t = 0; status == ML_OK && t < tokens; t += PAGE) {
        status = head_fill(&head, from, from, tokens, t);
        if (status != ML_OK) break;
        ml_page_convert(head.format, head.page, head.plain, head.from, NULL, 0);
        const float *keys = (const float *)(const void *)head.from, *rows = keys + dim * PAGE;
        for (int64_t p = 0; p < PAGE && t + p < tokens; p++) {
            float *to = floats_of(result) + (t + p) * dim;
            for (int64_t i = 0; i < dim; i++) to[i] = values ? rows[p * dim + i] : keys[i * PAGE + p];
        }
    }
    if (status == ML_OK) {
        *out = result;
    } else {
        ml_tensor_free(result);
    }
    free(own);
    head_close(&head);
    return status;
}

int ml_warm_rotate(const ml_tensor *x, ml_tensor **out) {
    ml_tensor *result;
    const int64_t dim = x->shape[x->ndim - 1];
    int status = ml_tensor_convert(x, ML_F32, &result);
    if (status != ML_OK) return status;
    for (int64_t row = 0; row < ml_tensor_rows(result); row++) ml_rotate(floats_of(result) + row * dim, dim);
    *out = result;
    return ML_OK;
}

/* The queries as the kernel takes them: turned if keys are, in integers. */
static void quantize_queries(const float *q, int64_t queries, int64_t dim, int rotated, uint8_t *integers) {
    for (int64_t h = 0; h < queries; h++) {
        float turned[ML_MAX_HEAD_DIM];
        memcpy(turned, q + h * dim, (size_t)dim * sizeof *turned);
        if (rotated) ml_rotate(turned, dim);
        ml_query_quantize(turned, dim, integers + h * ml_query_bytes(dim));
    }
}

static int attend_pages(const warm_head *head, ml_attend *work, const float *keys, const float *values,
                        int64_t tokens) {
    const ml_kernels *kernels = ml_kernels_get();
    int status = ML_OK;
    const int32_t from = 0;
    for (int64_t t = 0; status == ML_OK && t < tokens; t += PAGE) {
        const int32_t to = (int32_t)(tokens - t < PAGE ? tokens - t : PAGE);
        status = head_fill(head, keys, values, tokens, t);
        if (status != ML_OK) break;
        work->from = &from;
        work->to = &to;
        ml_page_show(head->format, head->page, 0, work);
        work->next_keys = work->keys;
        work->next_values = work->values;
        (head->format->plain ? kernels->attend : kernels->attend_warm)(work);
    }
    return status;
}

int ml_warm_attend(const ml_tensor *q, const ml_tensor *keys, const ml_tensor *values, int key_bits, int value_bits,
                   int rotated, ml_tensor **out) {
    warm_head head;
    float *own_q = NULL, *own_k = NULL, *own_v = NULL;
    ml_tensor *result = NULL;
    int status = ml_kernels_ready();
    if (status != ML_OK) return status;
    if (q->ndim != 2 || keys->ndim != 2 || !ml_tensor_same_shape(keys, values) || q->shape[1] != keys->shape[1]) {
        return ml_error(ML_E_ARGUMENT, "attention takes q {queries, d} and keys and values {tokens, d}");
    }
    status = head_open(keys, key_bits, value_bits, rotated, &head);
    const int64_t queries = q->shape[0], dim = q->shape[1];
    uint8_t *integers = ml_calloc((size_t)queries, (size_t)ml_query_bytes(dim));
    float *state = ml_calloc((size_t)queries, 2 * sizeof *state);
    float *area = ml_calloc((size_t)dim, 2 * PAGE * sizeof *area);
    if (status == ML_OK && !(integers && state && area)) status = ML_E_MEMORY;
    if (status == ML_OK) status = ml_tensor_create(ML_F32, 2, q->shape, &result);
    const float *x = status == ML_OK ? ml_tensor_floats(q, &own_q) : NULL;
    const float *k = x ? ml_tensor_floats(keys, &own_k) : NULL, *v = k ? ml_tensor_floats(values, &own_v) : NULL;
    if (status == ML_OK && !v) status = ML_E_MEMORY;
    if (status == ML_OK) {
        float *acc = floats_of(result);
        ml_attend work = {.rows = 1, .group = queries, .head_dim = dim, .q = x, .integers = integers, .area = area};
        work.top = state;
        work.sum = state + queries;
        work.acc = acc;
        for (int64_t h = 0; h < queries; h++) state[h] = -INFINITY;
        quantize_queries(x, queries, dim, rotated, integers);
        status = attend_pages(&head, &work, k, v, keys->shape[0]);
        for (int64_t i = 0; status == ML_OK && i < queries * dim; i++) acc[i] /= state[queries + i / dim];
    }
    if (status == ML_OK) {
        *out = result;
    } else {
        ml_tensor_free(result);
    }
    free(integers);
    free(state);
    free(area);
    free(own_q);
    free(own_k);
    free(own_v);
    head_close(&head);
    return status;
}
