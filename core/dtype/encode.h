/* Row encode in plain C: the reference rounding of every dtype that can be written. */
#ifndef ML_DTYPE_ENCODE_H
#define ML_DTYPE_ENCODE_H

#include "moonloom.h"

/* Writes n f32 as stored blocks of a dtype; n fills whole blocks. */
typedef void (*ml_encode)(const float *x, void *row, int64_t n);

/* The encoder of a dtype (F32 F16 BF16 Q8_0 Q4_0 MXFP4), or NULL. */
ml_encode ml_encode_reference(int dtype);

#endif
