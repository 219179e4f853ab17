#ifndef ML_MODEL_CONFIG_H
#define ML_MODEL_CONFIG_H

#include "model/arch.h"

/* Finds the file's architecture, reads the sizes from the metadata and checks that they fit together. */
int ml_config_read(const ml_weights *weights, const ml_arch **arch, ml_config *config);

#endif
