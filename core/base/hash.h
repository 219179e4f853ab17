/* A hash of bytes: checksums of saved files, and the chain by which prefixes are found. */
#ifndef ML_BASE_HASH_H
#define ML_BASE_HASH_H

#include "moonloom.h"

/* Adds `value`, as eight little-endian bytes, to the hash `hash`. */
uint64_t ml_hash_add(uint64_t hash, uint64_t value);

#endif
