/* Keys "<architecture>.<name>" of a file's metadata, each read with the range that its value must be in. */
#ifndef ML_MODEL_KEYS_H
#define ML_MODEL_KEYS_H

#include "load/weights.h"

typedef struct ml_keys {
    const ml_weights *weights;
    const char *architecture;
    int status; /* of the first failure; later reads do nothing and return 0 */
} ml_keys;

/* An integer in [low, high]; `otherwise` where the key is missing, or an error when that is below `low`. */
int32_t ml_keys_int(ml_keys *keys, const char *name, int64_t low, int64_t high, int64_t otherwise);
/* A finite number above 0; `otherwise` where the key is missing, or an error when that is 0. */
double ml_keys_positive(ml_keys *keys, const char *name, double otherwise);
/* A finite number, 0 or above; `otherwise` where the key is missing. */
double ml_keys_number(ml_keys *keys, const char *name, double otherwise);
/* Which of `names` (up to NULL) the key's text is; `otherwise` where the key is missing; another text, or no text, is
 * refused with all names. */
int ml_keys_choice(ml_keys *keys, const char *name, const char *const *names, int otherwise);
/* 1 if the file has the key; 0 after a failure, too. */
int ml_keys_has(const ml_keys *keys, const char *name);

#endif
