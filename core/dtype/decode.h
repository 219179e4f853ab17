/* Row decode in plain C: the reference of every dtype. */
#ifndef ML_DTYPE_DECODE_H
#define ML_DTYPE_DECODE_H

#include "moonloom.h"

/* out[0..k) = the k elements of the stored row at `row` (no alignment needed), as f32. k fills whole blocks. */
typedef void (*ml_decode)(const void *row, float *out, int64_t k);

/* The decoder of a dtype: every floating and block dtype has one; NULL for integers and f64. */
ml_decode ml_decode_reference(int dtype);

#endif
