/* What tells one set of weights from another without reading all of them. */
#ifndef ML_LOAD_FINGERPRINT_H
#define ML_LOAD_FINGERPRINT_H

#include "moonloom.h"

/* Two hashes over names, types and shapes of all tensors and a sample of their bytes. They do not depend on where the
 * file lies. */
void ml_weights_fingerprint(const ml_weights *weights, uint64_t out[2]);

#endif
