/* Little-endian numbers in bytes of any alignment, as files store them. */
#ifndef ML_BASE_BYTES_H
#define ML_BASE_BYTES_H

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

static inline void ml_put_u64(uint8_t *p, uint64_t value) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(value >> 8 * i);
}

static inline void ml_put_u32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> 8 * i);
}

#endif
