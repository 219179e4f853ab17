/* Elements between dtypes. */
#ifndef ML_TENSOR_CONVERT_H
#define ML_TENSOR_CONVERT_H

#include "tensor/tensor.h"

/* Elements that ml_read_elements() takes at once at most; every block size divides it. */
enum { ML_CHUNK = 256 };

/* out[0..n) = elements [from, from + n) of a row that starts at `row`; `stride` is the bytes between elements (not used
 * by block dtypes, where `from` and n fill whole blocks). n <= ML_CHUNK. */
void ml_read_elements(int dtype, const uint8_t *row, int64_t stride, int64_t from, int64_t n, double *out);
/* A row of f32 from a row of any dtype; n elements. */
void ml_read_row(const ml_tensor *tensor, int64_t row, float *out);
/* Sets element 0, 1, ... of a plain dtype, `stride` bytes apart, rounded as ml_tensor_set() says. */
void ml_write_elements(int dtype, uint8_t *place, int64_t stride, int64_t n, const double *values);

/* The elements as packed f32: those of the tensor itself where they are so, else a copy that `owned` receives (free()
 * it; NULL if there is none). NULL on failure, with ml_last_error() set. */
const float *ml_tensor_floats(const ml_tensor *tensor, float **owned);

#endif
