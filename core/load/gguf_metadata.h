/* The metadata of a GGUF file. */
#ifndef ML_LOAD_GGUF_METADATA_H
#define ML_LOAD_GGUF_METADATA_H

#include "load/gguf_reader.h"
#include "load/values.h"

enum { ML_GGUF_MIN_PAIR = 14 }; /* bytes of the smallest pair: length, one letter, type, one byte */

/* Reads `count` pairs into `metadata`, which is empty: keys are copied, values stay where they are. */
int ml_gguf_take_metadata(ml_gguf_reader *r, uint64_t count, ml_metadata *metadata);

#endif
