/* Quantising a row: the reference roundings. */
#include "dtype/encode.h"
#include "dtype/blocks.h"
#include "dtype/dtype.h"

#include <math.h>

static void encode_f32(const float *x, void *row, int64_t n) {
    memcpy(row, x, (size_t)n * sizeof *x);
}

static void encode_f16(const float *x, void *row, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits = ml_f32_to_f16(x[i]);
        memcpy((uint8_t *)row + 2 * i, &bits, 2);
    }
}

static void encode_bf16(const float *x, void *row, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits = ml_f32_to_bf16(x[i]);
        memcpy((uint8_t *)row + 2 * i, &bits, 2);
    }
}

/* The element of a block that is largest in size (the first of equals), or NaN if one is not finite: then the scale
 * becomes NaN, and with it the whole block. */
static float largest(const float *x) {
    float best = 0;
    for (int i = 0; i < 32; i++) {
        if (!isfinite(x[i])) return NAN;
        if (fabsf(x[i]) > fabsf(best)) best = x[i];
    }
    return best;
}

/* Nearest whole number (halves away from zero), within [low, high]; 0 for NaN. */
static int nearest(float x, int low, int high) {
    if (!(x > (float)low)) return x <= (float)low ? low : 0;
    return x >= (float)high ? high : (int)roundf(x);
}

static void encode_q8_0(const float *x, void *row, int64_t n) {
    ml_block_q8_0 *b = row;
    for (; n > 0; n -= 32, x += 32, b++) {
        float d = fabsf(largest(x)) / 127, inverse = d > 0 ? 1 / d : 0;
        b->d = ml_f32_to_f16(d);
        for (int j = 0; j < 32; j++) b->qs[j] = (int8_t)nearest(x[j] * inverse, -127, 127);
    }
}

/* The largest element becomes exactly code 0 (-8), whatever its sign: so the scale may be negative. */
static void encode_q4_0(const float *x, void *row, int64_t n) {
    ml_block_q4_0 *b = row;
    for (; n > 0; n -= 32, x += 32, b++) {
        float d = largest(x) / -8, inverse = d != 0 ? 1 / d : 0;
        b->d = ml_f32_to_f16(d);
        for (int j = 0; j < 16; j++) {
            int low = nearest(floorf(x[j] * inverse + 8.5f), 0, 15);
            int high = nearest(floorf(x[j + 16] * inverse + 8.5f), 0, 15);
            b->qs[j] = (uint8_t)(low | high << 4);
        }
    }
}

/* The e2m1 code nearest to x; halfway, the even code; 6 and more saturate. */
static int e2m1_code(float x) {
    static const float upto[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5}; /* halfway between the values */
    float size = fabsf(x);
    int code = 0;
    while (code < 7 && (size > upto[code] || (size == upto[code] && code % 2 == 1))) code++;
    return code | (signbit(x) ? 8 : 0);
}

static void encode_mxfp4(const float *x, void *row, int64_t n) {
    ml_block_mxfp4 *b = row;
    for (; n > 0; n -= 32, x += 32, b++) {
        float top = largest(x);
        int exponent = 0; /* 0.5 <= |top| / 2^exponent < 1, so floor(log2(|top|)) is one less */
        if (isfinite(top)) frexpf(top, &exponent);
        int code = exponent - 1 - 2 + 127;
        b->e = (uint8_t)(isnan(top) ? 255 : top == 0 || code < 0 ? 0 : code);
        for (int j = 0; j < 16; j++) {
            float low = ldexpf(x[j], 127 - b->e), high = ldexpf(x[j + 16], 127 - b->e);
            b->qs[j] = (uint8_t)(e2m1_code(low) | e2m1_code(high) << 4);
        }
    }
}

ml_encode ml_encode_reference(int dtype) {
    switch (dtype) {
    case ML_F32:
        return encode_f32;
    case ML_F16:
        return encode_f16;
    case ML_BF16:
        return encode_bf16;
    case ML_Q8_0:
        return encode_q8_0;
    case ML_Q4_0:
        return encode_q4_0;
    case ML_MXFP4:
        return encode_mxfp4;
    default:
        return NULL;
    }
}
