/* Errors: a status code and one sentence per thread (see ml_last_error). */
#ifndef ML_BASE_ERROR_H
#define ML_BASE_ERROR_H

#include "moonloom.h"

/* Remembers the sentence and returns `status`, so that a caller writes `return ml_error(ML_E_IO, ...)`. */
int ml_error(int status, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

#endif
