#include "load/vocabulary.h"

#include <stdlib.h>

void ml_vocabulary_release(ml_vocabulary *vocabulary) {
    free(vocabulary->types);
    free(vocabulary->scores);
    *vocabulary = (ml_vocabulary){0};
}
