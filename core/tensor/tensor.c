#include "tensor/tensor.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"

#include <stdio.h>
#include <stdlib.h>

static void storage_drop(ml_storage *storage) {
    if (--storage->references > 0) return;
    if (storage->release) storage->release(storage->owner);
    free(storage);
}

/* Fills shape and packed strides. The innermost stride of a block dtype is 0: its elements have no address. */
static int lay_out(ml_tensor *tensor, int dtype, int ndim, const int64_t *shape) {
    if (!ml_dtype_name(dtype)) return ml_error(ML_E_ARGUMENT, "%d is no dtype", dtype);
    if (ndim < 1 || ndim > ML_TENSOR_MAX_DIMS) {
        return ml_error(ML_E_ARGUMENT, "a tensor has 1 to %d dimensions, not %d", ML_TENSOR_MAX_DIMS, ndim);
    }
    tensor->dtype = dtype;
    tensor->ndim = ndim;
    for (int i = 0; i < ML_TENSOR_MAX_DIMS; i++) tensor->shape[i] = 1;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) return ml_error(ML_E_ARGUMENT, "dimension %d has %lld elements", i, (long long)shape[i]);
        tensor->shape[i] = shape[i];
    }
    int64_t bytes = ml_row_bytes(dtype, shape[ndim - 1]);
    if (bytes < 0) {
        return ml_error(ML_E_ARGUMENT, "rows of %lld elements do not fill blocks of %lld (%s)",
                        (long long)shape[ndim - 1], (long long)ml_dtype_block(dtype), ml_dtype_name(dtype));
    }
    tensor->stride[ndim - 1] = ml_dtype_block(dtype) == 1 ? ml_dtype_bytes(dtype) : 0;
    for (int i = ndim - 2; i >= 0; i--) {
        tensor->stride[i] = bytes;
        if (__builtin_mul_overflow(bytes, shape[i], &bytes)) {
            return ml_error(ML_E_ARGUMENT, "a tensor of this shape is too large for any memory");
        }
    }
    return ML_OK;
}

/* Bytes of the elements when packed; lay_out() has checked that they can be counted. */
static int64_t packed_bytes(const ml_tensor *tensor) {
    int64_t bytes = ml_row_bytes(tensor->dtype, tensor->shape[tensor->ndim - 1]);
    for (int i = 0; i < tensor->ndim - 1; i++) bytes *= tensor->shape[i];
    return bytes;
}

int ml_tensor_wrap(void *data, int dtype, int ndim, const int64_t *shape, int writable, void *owner,
                   void (*release)(void *), ml_tensor **out) {
    ml_tensor *tensor = ml_calloc(1, sizeof *tensor);
    ml_storage *storage = ml_calloc(1, sizeof *storage);
    int status = tensor && storage ? lay_out(tensor, dtype, ndim, shape) : ML_E_MEMORY;
    if (status != ML_OK) {
        free(tensor);
        free(storage);
        if (release) release(owner);
        return status;
    }
    *storage = (ml_storage){.references = 1, .owner = owner, .release = release};
    tensor->data = data;
    tensor->writable = writable;
    tensor->storage = storage;
    *out = tensor;
    return ML_OK;
}

int ml_tensor_new(int dtype, int ndim, const int64_t *shape, int zeroed, ml_tensor **out) {
    ml_tensor probe;
    int status = lay_out(&probe, dtype, ndim, shape);
    if (status != ML_OK) return status;
    size_t bytes = (size_t)packed_bytes(&probe);
    void *data = ml_alloc_aligned(bytes, 1);
    if (!data) return ML_E_MEMORY;
    ml_memory_huge(data, bytes);
    if (zeroed) memset(data, 0, bytes);
    return ml_tensor_wrap(data, dtype, ndim, shape, 1, data, free, out);
}

int ml_tensor_create(int dtype, int ndim, const int64_t *shape, ml_tensor **out) {
    return ml_tensor_new(dtype, ndim, shape, 1, out);
}

int ml_tensor_from(const void *data, int dtype, int ndim, const int64_t *shape, ml_tensor **out) {
    ml_tensor *tensor;
    int status = ml_tensor_new(dtype, ndim, shape, 0, &tensor);
    if (status != ML_OK) return status;
    memcpy(tensor->data, data, (size_t)packed_bytes(tensor));
    *out = tensor;
    return ML_OK;
}

void ml_tensor_free(ml_tensor *tensor) {
    if (!tensor) return;
    storage_drop(tensor->storage);
    free(tensor);
}

int ml_tensor_dtype(const ml_tensor *tensor) {
    return tensor->dtype;
}

int ml_tensor_ndim(const ml_tensor *tensor) {
    return tensor->ndim;
}

int64_t ml_tensor_shape(const ml_tensor *tensor, int dim) {
    return dim >= 0 && dim < tensor->ndim ? tensor->shape[dim] : 1;
}

int64_t ml_tensor_stride(const ml_tensor *tensor, int dim) {
    return dim >= 0 && dim < tensor->ndim ? tensor->stride[dim] : 0;
}

void *ml_tensor_data(ml_tensor *tensor) {
    return tensor->data;
}

int ml_tensor_writable(const ml_tensor *tensor) {
    return tensor->writable && ml_dtype_block(tensor->dtype) == 1;
}

int ml_tensor_contiguous(const ml_tensor *tensor) {
    int block = ml_dtype_block(tensor->dtype) > 1;
    int64_t packed =
        block ? ml_row_bytes(tensor->dtype, tensor->shape[tensor->ndim - 1]) : ml_dtype_bytes(tensor->dtype);
    for (int i = tensor->ndim - (block ? 2 : 1); i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != packed) return 0;
        packed *= tensor->shape[i];
    }
    return 1;
}

int64_t ml_tensor_elements(const ml_tensor *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; i++) count *= tensor->shape[i];
    return count;
}

int64_t ml_tensor_rows(const ml_tensor *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim - 1; i++) count *= tensor->shape[i];
    return count;
}

uint8_t *ml_tensor_row(const ml_tensor *tensor, int64_t row) {
    uint8_t *place = tensor->data;
    for (int i = tensor->ndim - 2; i >= 0; i--) {
        place += row % tensor->shape[i] * tensor->stride[i];
        row /= tensor->shape[i];
    }
    return place;
}

int ml_tensor_same_shape(const ml_tensor *a, const ml_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

const char *ml_tensor_text(const ml_tensor *tensor, char *buffer) {
    int used = snprintf(buffer, ML_TENSOR_TEXT, "{");
    for (int i = 0; i < tensor->ndim; i++) {
        used += snprintf(buffer + used, (size_t)(ML_TENSOR_TEXT - used), i ? ", %lld" : "%lld",
                         (long long)tensor->shape[i]);
    }
    snprintf(buffer + used, (size_t)(ML_TENSOR_TEXT - used), "} %s", ml_dtype_name(tensor->dtype));
    return buffer;
}
