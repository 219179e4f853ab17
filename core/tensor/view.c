/* Views: the same memory, seen otherwise. */
#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "tensor/tensor.h"

#include <stdlib.h>

static ml_tensor *view_of(ml_tensor *tensor) {
    ml_tensor *view = ml_calloc(1, sizeof *view);
    if (!view) return NULL;
    *view = *tensor;
    view->storage->references++;
    return view;
}

static int check_dim(const ml_tensor *tensor, int dim) {
    char text[ML_TENSOR_TEXT];
    if (dim >= 0 && dim < tensor->ndim) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "a tensor %s has no dimension %d (they count from 0)", ml_tensor_text(tensor, text),
                    dim);
}

/* Elements inside a row of a block dtype have no address of their own: only whole blocks can be cut out. */
static int check_blocks(const ml_tensor *tensor, int dim, const char *what) {
    char text[ML_TENSOR_TEXT];
    if (dim != tensor->ndim - 1 || ml_dtype_block(tensor->dtype) == 1) return ML_OK;
    return ml_error(ML_E_UNSUPPORTED, "%s inside the rows of a tensor %s is not possible: convert it to f32 first",
                    what, ml_tensor_text(tensor, text));
}

int ml_tensor_slice(ml_tensor *tensor, int dim, int64_t start, int64_t stop, ml_tensor **out) {
    char text[ML_TENSOR_TEXT];
    int status = check_dim(tensor, dim);
    if (status != ML_OK) return status;
    if (start < 0 || stop < start || stop > tensor->shape[dim]) {
        return ml_error(ML_E_ARGUMENT, "[%lld, %lld) is no range of dimension %d of a tensor %s", (long long)start,
                        (long long)stop, dim, ml_tensor_text(tensor, text));
    }
    int64_t block = ml_dtype_block(tensor->dtype), offset = start * tensor->stride[dim];
    if (dim == tensor->ndim - 1 && block > 1) {
        if (start % block || stop % block) return check_blocks(tensor, dim, "cutting at this place");
        offset = ml_row_bytes(tensor->dtype, start);
    }
    ml_tensor *view = view_of(tensor);
    if (!view) return ML_E_MEMORY;
    view->data += offset;
    view->shape[dim] = stop - start;
    *out = view;
    return ML_OK;
}

int ml_tensor_select(ml_tensor *tensor, int dim, int64_t index, ml_tensor **out) {
    char text[ML_TENSOR_TEXT];
    int status = check_dim(tensor, dim);
    if (status == ML_OK) status = check_blocks(tensor, dim, "choosing one element");
    if (status != ML_OK) return status;
    if (index < 0 || index >= tensor->shape[dim]) {
        return ml_error(ML_E_ARGUMENT, "index %lld (from 0) is outside dimension %d of a tensor %s", (long long)index,
                        dim, ml_tensor_text(tensor, text));
    }
    ml_tensor *view = view_of(tensor);
    if (!view) return ML_E_MEMORY;
    view->data += index * tensor->stride[dim];
    view->shape[dim] = 1;
    if (view->ndim > 1) {
        for (int i = dim; i < view->ndim - 1; i++) {
            view->shape[i] = view->shape[i + 1];
            view->stride[i] = view->stride[i + 1];
        }
        view->ndim--;
        view->shape[view->ndim] = 1;
    }
    *out = view;
    return ML_OK;
}

int ml_tensor_transpose(ml_tensor *tensor, int a, int b, ml_tensor **out) {
    int status = check_dim(tensor, a);
    if (status == ML_OK) status = check_dim(tensor, b);
    if (status == ML_OK && a != b) status = check_blocks(tensor, a > b ? a : b, "transposing");
    if (status != ML_OK) return status;
    ml_tensor *view = view_of(tensor);
    if (!view) return ML_E_MEMORY;
    view->shape[a] = tensor->shape[b];
    view->shape[b] = tensor->shape[a];
    view->stride[a] = tensor->stride[b];
    view->stride[b] = tensor->stride[a];
    *out = view;
    return ML_OK;
}

/* Fills in the entry -1 of `wanted`, if there is one. ML_E_ARGUMENT if the elements do not come out even. */
static int complete_shape(const ml_tensor *tensor, int ndim, const int64_t *shape, int64_t *wanted) {
    char text[ML_TENSOR_TEXT];
    int64_t count = ml_tensor_elements(tensor), known = 1;
    int open = -1, fine = ndim >= 1 && ndim <= ML_TENSOR_MAX_DIMS;
    for (int i = 0; fine && i < ndim; i++) {
        wanted[i] = shape[i];
        if (shape[i] == -1 && open < 0) {
            open = i;
        } else {
            fine = shape[i] >= 0 && !__builtin_mul_overflow(known, shape[i], &known);
        }
    }
    if (fine && open >= 0) {
        fine = known > 0 && count % known == 0;
        if (fine) wanted[open] = count / known;
    } else {
        fine = fine && known == count;
    }
    if (fine) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "the %lld elements of a tensor %s do not fit the new shape", (long long)count,
                    ml_tensor_text(tensor, text));
}

int ml_tensor_reshape(ml_tensor *tensor, int ndim, const int64_t *shape, ml_tensor **out) {
    char text[ML_TENSOR_TEXT];
    int64_t wanted[ML_TENSOR_MAX_DIMS];
    int status = complete_shape(tensor, ndim, shape, wanted);
    if (status != ML_OK) return status;
    if (!ml_tensor_contiguous(tensor)) {
        return ml_error(ML_E_ARGUMENT, "a tensor %s that is not contiguous cannot be reshaped: copy it first",
                        ml_tensor_text(tensor, text));
    }
    ml_storage *storage = tensor->storage;
    ml_tensor *view;
    status = ml_tensor_wrap(tensor->data, tensor->dtype, ndim, wanted, tensor->writable, NULL, NULL, &view);
    if (status != ML_OK) return status;
    free(view->storage); /* the view shares the parent's */
    view->storage = storage;
    storage->references++;
    *out = view;
    return ML_OK;
}
