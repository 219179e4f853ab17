#include "kv/bytes/packed.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
    LEVEL = 1,  /* higher ones gain 1 to 2 % on keys and values and cost a multiple */
    WORTH = 16, /* what zstd does not make smaller by 1/16 is stored as it is: to read that is a copy */
    BLOCK_MOST = 128 << 10
};

struct ml_packer {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    size_t largest;
    uint8_t *split; /* {largest} */
};

int ml_packer_create(size_t largest, ml_packer **out) {
    ml_packer *packer = ml_calloc(1, sizeof *packer);
    if (!packer) return ML_E_MEMORY;
    packer->largest = largest;
    packer->split = ml_alloc_aligned(largest, 1);
    packer->compress = ZSTD_createCCtx();
    packer->decompress = ZSTD_createDCtx();
    if (!packer->split || !packer->compress || !packer->decompress) {
        ml_packer_free(packer);
        return ml_error(ML_E_MEMORY, "out of memory: packing %zu bytes", largest);
    }
    *out = packer;
    return ML_OK;
}

void ml_packer_free(ml_packer *packer) {
    if (!packer) return;
    ZSTD_freeCCtx(packer->compress);
    ZSTD_freeDCtx(packer->decompress);
    free(packer->split);
    free(packer);
}

size_t ml_packed_bound(size_t bytes) {
    return ZSTD_compressBound(bytes) + 512; /* that of one piece, and what four have of headers at most */
}

/* Byte b of number i from i * element + b to b * count + i; what is left over follows. */
static void split(const uint8_t *data, size_t bytes, size_t element, uint8_t *out) {
    const size_t count = bytes / element;
    for (size_t b = 0; b < element; b++) {
        for (size_t i = 0; i < count; i++) out[b * count + i] = data[i * element + b];
    }
    for (size_t i = count * element; i < bytes; i++) out[i] = data[i];
}

static void join(const uint8_t *data, size_t bytes, size_t element, uint8_t *out) {
    const size_t count = bytes / element;
    if (element == 2) {
        const uint8_t *high = data + count;
        for (size_t i = 0; i < count; i++) {
            out[2 * i] = data[i];
            out[2 * i + 1] = high[i];
        }
    } else {
        for (size_t b = 0; b < element; b++) {
            for (size_t i = 0; i < count; i++) out[i * element + b] = data[b * count + i];
        }
    }
    for (size_t i = count * element; i < bytes; i++) out[i] = data[i];
}

static uint8_t *put(uint8_t *out, uint32_t number, int bytes) {
    for (int i = 0; i < bytes; i++) *out++ = (uint8_t)(number >> 8 * i);
    return out;
}

/* A zstd frame of blocks that are not compressed (RFC 8878, section 3.1.1). Returns its bytes. */
static size_t raw(const uint8_t *data, size_t bytes, uint8_t *out) {
    uint8_t *to = put(out, 0xFD2FB528u, 4);
    to = put(to, 0xA0, 1); /* one segment, its size in 4 bytes */
    to = put(to, (uint32_t)bytes, 4);
    for (size_t done = 0, count; done < bytes; done += count) {
        count = bytes - done < BLOCK_MOST ? bytes - done : BLOCK_MOST;
        to = put(to, (uint32_t)(done + count == bytes) | (uint32_t)count << 3, 3);
        memcpy(to, data + done, count);
        to += count;
    }
    return (size_t)(to - out);
}

/* A frame of one piece; 0 if zstd failed. */
static size_t compress(ml_packer *packer, const uint8_t *data, size_t bytes, uint8_t *out) {
    const size_t packed = ZSTD_compressCCtx(packer->compress, out, ZSTD_compressBound(bytes), data, bytes, LEVEL);
    if (!ZSTD_isError(packed)) return packed;
    ml_error(ML_E_MEMORY, "zstd: %s", ZSTD_getErrorName(packed));
    return 0;
}

/* The bytes as they are packed: split, if numbers have more than one. NULL if it is not for them. */
static const uint8_t *prepare(ml_packer *packer, const uint8_t *data, size_t bytes, size_t element) {
    if (bytes < element || bytes > packer->largest) {
        ml_error(ML_E_ARGUMENT, "a packer for %zu to %zu bytes got %zu", element, packer->largest, bytes);
        return NULL;
    }
    if (element == 1) return data;
    split(data, bytes, element, packer->split);
    return packer->split;
}

size_t ml_pack(ml_packer *packer, const uint8_t *data, size_t bytes, size_t element, uint8_t *out) {
    data = prepare(packer, data, bytes, element);
    const size_t count = bytes / element;
    size_t packed = 0;
    for (size_t b = 0; data && b < element; b++) {
        const size_t piece = b + 1 < element ? count : bytes - b * count;
        size_t size = compress(packer, data + b * count, piece, out + packed);
        if (size == 0) return 0;
        if (size > piece - piece / WORTH) size = raw(data + b * count, piece, out + packed);
        packed += size;
    }
    return packed;
}

size_t ml_pack_whole(ml_packer *packer, const uint8_t *data, size_t bytes, size_t element, uint8_t *out) {
    data = prepare(packer, data, bytes, element);
    return data ? compress(packer, data, bytes, out) : 0;
}

int ml_unpack(ml_packer *packer, const uint8_t *packed, size_t packed_bytes, size_t element, uint8_t *out,
              size_t bytes) {
    if (bytes > packer->largest) {
        return ml_error(ML_E_ARGUMENT, "a packer for %zu bytes got %zu", packer->largest, bytes);
    }
    uint8_t *to = element > 1 ? packer->split : out;
    const size_t got = ZSTD_decompressDCtx(packer->decompress, to, bytes, packed, packed_bytes);
    if (ZSTD_isError(got)) return ml_error(ML_E_FORMAT, "zstd: %s", ZSTD_getErrorName(got));
    if (got != bytes) return ml_error(ML_E_FORMAT, "%zu bytes in place of %zu", got, bytes);
    if (element > 1) join(to, bytes, element, out);
    return ML_OK;
}
