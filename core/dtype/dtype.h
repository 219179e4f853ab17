/* Element types inside core: exact conversions of single elements, row sizes. */
#ifndef ML_DTYPE_DTYPE_H
#define ML_DTYPE_DTYPE_H

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

/* f16 to f32, exact. NaN keeps its payload and becomes quiet, as the hardware's conversion does. */
static inline float ml_f16_to_f32(uint16_t value) {
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = (value >> 10) & 31u, mantissa = value & 0x3ffu;
    if (exponent == 31) return ml_f32_from_bits(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0));
    if (exponent) return ml_f32_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
    float tiny = (float)mantissa * 0x1p-24f; /* zero and subnormals */
    return sign ? -tiny : tiny;
}

/* Rounds to nearest, ties to even; too large becomes infinite; NaN stays NaN. */
static inline uint16_t ml_f32_to_f16(float value) {
    uint32_t bits = ml_f32_to_bits(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((size >> 13) & 0x1ffu));
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more */
    if (size < 0x38800000u) {                                   /* under 2^-14: adding 0.5 rounds at 2^-24 */
        float shifted = ml_f32_from_bits(size) + 0.5f;
        return (uint16_t)(sign | (ml_f32_to_bits(shifted) - 0x3f000000u));
    }
    size += 0xfffu + ((size >> 13) & 1u);
    return (uint16_t)(sign | ((size - 0x38000000u) >> 13));
}

/* The scale 2^(code - 127) of OCP Microscaling formats (e8m0); 0 gives the subnormal 2^-127, 255 is NaN. */
static inline float ml_e8m0_to_f32(uint8_t code) {
    uint32_t bits = (uint32_t)code << 23;
    if (code == 0) bits = 0x00400000u;
    if (code == 255) bits = 0x7fc00000u;
    return ml_f32_from_bits(bits);
}

#endif
