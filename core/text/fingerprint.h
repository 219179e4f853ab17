/* What tells one vocabulary from another. */
#ifndef ML_TEXT_FINGERPRINT_H
#define ML_TEXT_FINGERPRINT_H

#include "moonloom.h"

/* Two hashes over all tokens and their types. */
void ml_tokenizer_fingerprint(const ml_tokenizer *tokenizer, uint64_t out[2]);

#endif
