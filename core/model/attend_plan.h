/* Attention of the rows of a batch to the cache, with sinks and windows, on all threads. */
#ifndef ML_MODEL_ATTEND_PLAN_H
#define ML_MODEL_ATTEND_PLAN_H

#include "model/attend.h"

/* batch->attended = what the rows attend to. ML_E_IO or ML_E_MEMORY if pages that are not in memory cannot be had. */
int ml_attention_run(ml_attention *work);

#endif
