/* The vocabulary in the metadata of a GGUF file: its keys tokenizer.ggml.*. */
#ifndef ML_LOAD_GGUF_VOCABULARY_H
#define ML_LOAD_GGUF_VOCABULARY_H

#include "load/store.h"
#include "load/vocabulary.h"

/* ml_loader.vocabulary. Strings stay in the file; types and scores are copied. */
int ml_gguf_vocabulary(const ml_weights *weights, ml_vocabulary *out);

#endif
