/* Which set of kernels is in use: chosen once, by what the CPU has (see ml_isa_set). */
#ifndef ML_KERNELS_KERNELS_H
#define ML_KERNELS_KERNELS_H

#include "kernels/set.h"

/* The table in use: without the matrix unit where that is switched off (ml_tuning_set). Never NULL. */
const ml_kernels *ml_kernels_get(void);
/* 1 under precision "exact" (ml_precision_set). */
int ml_kernels_exact(void);
/* The same pointer as long as instruction set, precision and ml_tuning_set give the same numbers: the name of the set,
 * or "amx-exact"; and with "-f32" where products in integers are switched off. */
const char *ml_kernels_numbers(void);
/* ML_E_UNSUPPORTED, with the sentence, if MOONLOOM_ISA asks for what this CPU or build has not: the first call that
 * can fail and will compute (ml_model_create, tensor products) asks here, so that nothing runs on another set than the
 * user named. */
int ml_kernels_ready(void);

#endif
