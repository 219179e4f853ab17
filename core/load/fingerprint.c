#include "load/fingerprint.h"

#include "base/hash.h"
#include "load/store.h"

#include <string.h>

enum { SAMPLE = 64 }; /* bytes from the beginning, the middle and the end of each tensor */

static uint64_t fingerprint(const ml_weights *weights, uint64_t hash) {
    const size_t count = weights->names.count;
    hash = ml_hash_add(hash, (uint64_t)count);
    for (size_t i = 0; i < count; i++) {
        const ml_tensor_info *info = &weights->entries[i].info;
        const uint8_t *data = weights->entries[i].data;
        hash = ml_hash(info->name, (int64_t)strlen(info->name), hash);
        hash = ml_hash_add(hash, (uint64_t)info->dtype);
        for (int d = 0; d < info->ndim; d++) hash = ml_hash_add(hash, (uint64_t)info->shape[d]);
        const int64_t most = info->bytes < SAMPLE ? info->bytes : SAMPLE;
        for (int part = 0; part < 3; part++) hash = ml_hash(data + (info->bytes - most) / 2 * part, most, hash);
    }
    return hash;
}

void ml_weights_fingerprint(const ml_weights *weights, uint64_t out[2]) {
    out[0] = fingerprint(weights, 1);
    out[1] = fingerprint(weights, 2);
}
