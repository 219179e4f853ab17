#include "load/gguf_tensors.h"

#include "base/error.h"

#include <stdio.h>

/* Types of ggml that moonloom does not compute with: their sizes are known, so a file that holds some can be listed. */
static const struct {
    int dtype, block, bytes;
    const char *name;
} foreign[] = {
    {9, 32, 36, "q8_1"},      {15, 256, 292, "q8_k"}, {16, 256, 66, "iq2_xxs"}, {17, 256, 74, "iq2_xs"},
    {18, 256, 98, "iq3_xxs"}, {19, 256, 50, "iq1_s"}, {21, 256, 110, "iq3_s"},  {22, 256, 82, "iq2_s"},
    {29, 256, 56, "iq1_m"},   {34, 256, 54, "tq1_0"}, {35, 256, 66, "tq2_0"},
};

/* Name, and bytes of `elements` elements in whole blocks, of any dtype whose size is known. */
static int measure(const ml_gguf_reader *r, ml_tensor_info *info, int64_t elements) {
    int64_t block = ml_dtype_block(info->dtype), bytes = ml_dtype_bytes(info->dtype);
    info->type = ml_dtype_name(info->dtype);
    for (size_t i = 0; !block && i < sizeof foreign / sizeof *foreign; i++) {
        if (foreign[i].dtype != info->dtype) continue;
        block = foreign[i].block;
        bytes = foreign[i].bytes;
        info->type = foreign[i].name;
    }
    if (!block) {
        return ml_error(ML_E_UNSUPPORTED, "%s: %s has type %d, which moonloom does not know", r->path, r->what,
                        info->dtype);
    }
    int64_t row = info->shape[info->ndim - 1];
    if (row % block != 0) {
        return ml_error(ML_E_FORMAT,
                        "%s is damaged: %s has rows of %lld elements, which are no whole blocks of %lld (%s)", r->path,
                        r->what, (long long)row, (long long)block, info->type);
    }
    if (__builtin_mul_overflow(elements / block, bytes, &info->bytes)) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s is over 2^63 bytes", r->path, r->what);
    }
    return ML_OK;
}

/* Dimensions, innermost first in the file; `elements` receives their product. */
static int take_shape(ml_gguf_reader *r, ml_tensor_info *info, int64_t *elements) {
    uint32_t ndim = 0;
    int status = ml_gguf_take_u32(r, &ndim);
    if (status) return status;
    if (ndim > 4) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s has %u dimensions; 4 is the most there can be", r->path,
                        r->what, ndim);
    }
    info->ndim = ndim ? (int)ndim : 1; /* a scalar is a row of one element */
    *elements = 1;
    for (int d = (int)ndim - 1; d >= 0; d--) {
        uint64_t extent = 0;
        status = ml_gguf_take_u64(r, &extent);
        if (status) return status;
        if (extent == 0 || extent > INT64_MAX || __builtin_mul_overflow(*elements, (int64_t)extent, elements)) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s has a dimension of %llu", r->path, r->what,
                            (unsigned long long)extent);
        }
        info->shape[d] = (int64_t)extent;
    }
    return ML_OK;
}

/* One tensor info; info->offset is still counted from the start of the data section. */
static int take_tensor(ml_gguf_reader *r, uint64_t alignment, ml_tensor_info *info) {
    int64_t elements = 0;
    uint32_t dtype = 0;
    uint64_t offset = 0;
    int status = take_shape(r, info, &elements);
    if (!status) status = ml_gguf_take_u32(r, &dtype);
    if (!status) status = ml_gguf_take_u64(r, &offset);
    if (status) return status;
    if (dtype > INT32_MAX || offset > INT64_MAX || offset % alignment != 0) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s has type %u and offset %llu, which is no multiple of %llu",
                        r->path, r->what, dtype, (unsigned long long)offset, (unsigned long long)alignment);
    }
    info->dtype = (int)dtype;
    info->offset = (int64_t)offset;
    return measure(r, info, elements);
}

int ml_gguf_take_tensors(ml_gguf_reader *r, uint64_t count, uint64_t alignment, ml_weights *weights) {
    for (uint64_t i = 0; i < count; i++) {
        const char *name = NULL;
        size_t bytes = 0;
        ml_entry *entry = NULL;
        snprintf(r->what, sizeof r->what, "tensor %llu", (unsigned long long)i);
        int status = ml_gguf_take_name(r, &name, &bytes);
        if (status) return status;
        snprintf(r->what, sizeof r->what, "tensor %.*s", bytes < 200 ? (int)bytes : 200, name);
        status = ml_store_add(weights, name, bytes, &entry);
        if (status == ML_E_FORMAT) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s is there twice", r->path, r->what);
        }
        if (!status) status = take_tensor(r, alignment, &entry->info);
        if (status) return status;
    }
    return ML_OK;
}
