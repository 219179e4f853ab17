/* What one thread needs to pack and unpack pages: a packer, and room for what is packed. */
#ifndef ML_KV_BYTES_PORTER_H
#define ML_KV_BYTES_PORTER_H

#include "kv/bytes/packed.h"

typedef struct ml_porter {
    ml_packer *packer;
    uint8_t *buffer; /* of a packed page */
} ml_porter;

/* A porter for pages of up to `bytes`. Give it back zeroed or not at all. */
int ml_porter_open(size_t bytes, ml_porter *porter);
void ml_porter_close(ml_porter *porter);

#endif
