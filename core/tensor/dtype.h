/* Element types inside core: exact conversions of single elements, row sizes. */
#ifndef ML_TENSOR_DTYPE_H
#define ML_TENSOR_DTYPE_H

#include "moonloom.h"

#include <string.h>

/* Bytes of a row of `elements` elements, or -1 if they do not fill whole blocks or the product overflows. */
int64_t ml_row_bytes(int dtype, int64_t elements);

static inline float ml_f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t ml_f32_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float ml_bf16_to_f32(uint16_t value) {
    return ml_f32_from_bits((uint32_t)value << 16);
}

/* Rounds to nearest, ties to even; NaN stays NaN. */
static inline uint16_t ml_f32_to_bf16(float value) {
    uint32_t bits = ml_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
