#ifndef ML_MODEL_ARCHITECTURES_H
#define ML_MODEL_ARCHITECTURES_H

#include "model/arch.h"

/* The architecture of that name (`bytes` long), or NULL. */
const ml_arch *ml_arch_find(const char *name, size_t bytes);
/* The names of all, separated by commas; cut off at `size` bytes. */
void ml_arch_names(char *out, size_t size);

#endif
