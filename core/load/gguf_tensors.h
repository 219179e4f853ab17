/* The tensor infos of a GGUF file. */
#ifndef ML_LOAD_GGUF_TENSORS_H
#define ML_LOAD_GGUF_TENSORS_H

#include "load/gguf_reader.h"
#include "load/store.h"

enum { ML_GGUF_MIN_TENSOR = 25 }; /* bytes of the smallest info: length, one letter, dims, type, offset */

/* Reads `count` tensor infos and adds the tensors to `weights`; their offsets, multiples of `alignment`, are still
 * counted from the start of the data. */
int ml_gguf_take_tensors(ml_gguf_reader *r, uint64_t count, uint64_t alignment, ml_weights *weights);

#endif
