/* The tensor object inside core. */
#ifndef ML_TENSOR_TENSOR_H
#define ML_TENSOR_TENSOR_H

#include "moonloom.h"

enum { ML_TENSOR_MAX_DIMS = 4 };

/* What keeps the memory of a tensor and of its views alive. */
typedef struct ml_storage {
    int64_t references;
    void *owner;
    void (*release)(void *owner); /* called with `owner` when the last tensor goes; NULL if nothing is to be done */
} ml_storage;

struct ml_tensor {
    int dtype;
    int ndim;
    int64_t shape[ML_TENSOR_MAX_DIMS];  /* outermost first */
    int64_t stride[ML_TENSOR_MAX_DIMS]; /* bytes from one index to the next; the innermost is packed for block types */
    uint8_t *data;                      /* first element */
    int writable;                       /* 0 for views into a mapped file */
    struct ml_storage *storage;         /* keeps the memory alive; shared with the views of this tensor */
};

/* A tensor that shows foreign memory, packed row-major. `release(owner)` is called when it and all its views are freed
 * (and at once on failure); NULL if there is nothing to release. */
int ml_tensor_wrap(void *data, int dtype, int ndim, const int64_t *shape, int writable, void *owner,
                   void (*release)(void *), ml_tensor **out);

/* A tensor of its own memory, zeroed or (zeroed = 0) as it comes. */
int ml_tensor_new(int dtype, int ndim, const int64_t *shape, int zeroed, ml_tensor **out);
/* Number of elements, and of rows: all dimensions but the last. */
int64_t ml_tensor_elements(const ml_tensor *tensor);
int64_t ml_tensor_rows(const ml_tensor *tensor);
/* First element of row `row`. */
uint8_t *ml_tensor_row(const ml_tensor *tensor, int64_t row);
/* 1 if the shapes are equal. */
int ml_tensor_same_shape(const ml_tensor *a, const ml_tensor *b);
/* "{2, 3} f32", for error sentences, in a buffer of ML_TENSOR_TEXT bytes; returns it. */
enum { ML_TENSOR_TEXT = 128 };
const char *ml_tensor_text(const ml_tensor *tensor, char *buffer);

#endif
