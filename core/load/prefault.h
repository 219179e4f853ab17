/* Mapping ahead what the system holds of a file in memory. */
#ifndef ML_LOAD_PREFAULT_H
#define ML_LOAD_PREFAULT_H

#include "base/mapping.h"

typedef struct ml_prefault ml_prefault;

/* Starts a thread that goes once through `files`, which stay open until ml_prefault_stop(), and maps every huge page's
 * worth that lies in the page cache as a whole; nothing is read from a disk. It gives up on files that the system holds
 * in small pages: to map those ahead takes as long as to meet them one by one. NULL where the system cannot do it
 * (before Linux 6.5); all works without. */
ml_prefault *ml_prefault_start(const ml_mapping *files, size_t count);
/* Ends the thread, wherever it is; NULL is fine. */
void ml_prefault_stop(ml_prefault *prefault);

#endif
