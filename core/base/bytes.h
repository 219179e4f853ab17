/* Little-endian numbers in bytes of any alignment, as files store them. */
#ifndef ML_BASE_BYTES_H
#define ML_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t ml_get_u64(const uint8_t *p) {
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline uint64_t ml_get_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    return value;
}

/* The first `bytes` <= 8 bytes, as if zeros followed them. */
static inline uint64_t ml_get_start(const uint8_t *p, size_t bytes) {
    if (bytes >= 4) return ml_get_u32(p) | ml_get_u32(p + bytes - 4) << 8 * (bytes - 4);
    if (bytes == 0) return 0;
    return p[0] | (uint64_t)p[bytes / 2] << 8 * (bytes / 2) | (uint64_t)p[bytes - 1] << 8 * (bytes - 1);
}

static inline void ml_put_u64(uint8_t *p, uint64_t value) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(value >> 8 * i);
}

static inline void ml_put_u32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> 8 * i);
}

#endif
