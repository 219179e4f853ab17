/* Attention to pages that are not all in memory: spans of them pass through, unpacked while the span before is read.
 *
 * A span is some pieces of chunks. The states of the rows wait in batch->totals from span to span: those of all chunks
 * before, and those of the chunk that the span may end within. All is summed in the same order as ever. */
#ifndef ML_MODEL_ATTEND_STREAM_H
#define ML_MODEL_ATTEND_STREAM_H

#include "model/attend.h"

/* 1 if a tile of the batch sees a page that is not in memory. */
int ml_attend_misses(const ml_attention *work);
/* batch->attended of all tiles. ML_E_IO or ML_E_MEMORY if pages cannot be had. */
int ml_attend_streamed(ml_attention *work);

#endif
