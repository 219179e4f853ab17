/* The tensor object inside core. */
#ifndef ML_TENSOR_TENSOR_H
#define ML_TENSOR_TENSOR_H

#include "moonloom.h"

enum { ML_TENSOR_MAX_DIMS = 4 };

struct ml_tensor {
    int dtype;
    int ndim;
    int64_t shape[ML_TENSOR_MAX_DIMS];  /* outermost first */
    int64_t stride[ML_TENSOR_MAX_DIMS]; /* bytes from one index to the next; the innermost is packed for block types */
    uint8_t *data;                      /* first element */
    int writable;                       /* 0 for views into a mapped file */
    void *owner;                        /* kept alive while the tensor lives; NULL if nothing is */
    void (*release)(void *owner);       /* called with `owner` by ml_tensor_free() */
};

/* A tensor that shows foreign memory, packed row-major. `release(owner)` is called when it is freed (and at once
 * on failure). */
int ml_tensor_wrap(void *data, int dtype, int ndim, const int64_t *shape, int writable, void *owner,
                   void (*release)(void *), ml_tensor **out);

#endif
