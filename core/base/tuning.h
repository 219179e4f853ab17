/* Optimisations that can be switched off, to measure what each is worth: see ml_tuning_set. */
#ifndef ML_BASE_TUNING_H
#define ML_BASE_TUNING_H

#include <stdatomic.h>

/* In the order of the table in tuning.c, which says what each of them is. */
enum {
    ML_TUNING_INTEGER = 0,
    ML_TUNING_COLUMNS,
    ML_TUNING_MATRIX,
    ML_TUNING_FUSED,
    ML_TUNING_EXPERTS,
    ML_TUNING_FLASH,
    ML_TUNING_GROUPED,
    ML_TUNING_SHARE,
    ML_TUNING_PREFETCH,
    ML_TUNING_STEAL,
    ML_TUNING_SPIN,
    ML_TUNING_HUGE,
    ML_TUNING_SKETCH,
    ML_TUNING_LIMIT
};

extern atomic_uint ml_tuning_off; /* a bit for each that is switched off */

/* 1 if it is on. Ask for each call, region or panel of rows, not in inner loops. */
static inline int ml_tuned(int which) {
    return !(atomic_load_explicit(&ml_tuning_off, memory_order_relaxed) >> which & 1);
}

#endif
