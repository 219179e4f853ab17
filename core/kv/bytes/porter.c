#include "kv/bytes/porter.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>

int ml_porter_open(size_t bytes, ml_porter *porter) {
    *porter = (ml_porter){.buffer = ml_alloc_aligned(ml_packed_bound(bytes), 1)};
    int status = porter->buffer ? ml_packer_create(bytes, &porter->packer) : ML_E_MEMORY;
    if (status != ML_OK) ml_porter_close(porter);
    return status;
}

void ml_porter_close(ml_porter *porter) {
    ml_packer_free(porter->packer);
    free(porter->buffer);
    *porter = (ml_porter){0};
}
