/* The view that every loader yields: metadata, a vocabulary, and named tensors that point into mapped files. */
#ifndef ML_LOAD_WEIGHTS_H
#define ML_LOAD_WEIGHTS_H

#include "load/vocabulary.h"
#include "moonloom.h"

/* One more reference; pair it with ml_weights_free(). */
void ml_weights_retain(ml_weights *weights);
/* The path given to ml_weights_open(), for error sentences. */
const char *ml_weights_path(const ml_weights *weights);
/* Start of the data of tensor `index`: ml_tensor_info.bytes bytes, checked to lie in the file. */
const uint8_t *ml_weights_data(const ml_weights *weights, int64_t index);
/* Fills `out` with the vocabulary; release it whether this succeeds or not. ML_E_NOT_FOUND, with a sentence, if there
 * is none. */
int ml_weights_vocabulary(const ml_weights *weights, ml_vocabulary *out);

#endif
