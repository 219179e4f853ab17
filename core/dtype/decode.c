#include "dtype/decode.h"

#include "dtype/blocks.h"
#include "dtype/dtype.h"

/* Every product below is exact in f32 (f16 has 11 significant bits, scales up to 6 and codes up to 8), so a value is
 * rounded at most once, when a minimum is added: any order of operations gives the same bits. */

static const float e2m1[16] = ML_E2M1_VALUES;
static const float iq4[16] = ML_IQ4_VALUES;

static void decode_f32(const void *row, float *out, int64_t k) {
    memcpy(out, row, (size_t)k * sizeof *out);
}

static uint16_t load_16(const void *row, int64_t i) {
    uint16_t bits;
    memcpy(&bits, (const uint8_t *)row + i * 2, sizeof bits);
    return bits;
}

static void decode_f16(const void *row, float *out, int64_t k) {
    for (int64_t i = 0; i < k; i++) out[i] = ml_f16_to_f32(load_16(row, i));
}

static void decode_bf16(const void *row, float *out, int64_t k) {
    for (int64_t i = 0; i < k; i++) out[i] = ml_bf16_to_f32(load_16(row, i));
}

static void decode_q4_0(const void *row, float *out, int64_t k) {
    const ml_block_q4_0 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)((b->qs[j] & 15) - 8);
            out[j + 16] = d * (float)((b->qs[j] >> 4) - 8);
        }
    }
}

static void decode_q4_1(const void *row, float *out, int64_t k) {
    const ml_block_q4_1 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d), m = ml_f16_to_f32(b->m);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)(b->qs[j] & 15) + m;
            out[j + 16] = d * (float)(b->qs[j] >> 4) + m;
        }
    }
}

static void decode_q5_0(const void *row, float *out, int64_t k) {
    const ml_block_q5_0 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) {
            int low = (b->qs[j] & 15) | (int)((b->qh >> j) & 1) << 4;
            int high = (b->qs[j] >> 4) | (int)((b->qh >> (j + 16)) & 1) << 4;
            out[j] = d * (float)(low - 16);
            out[j + 16] = d * (float)(high - 16);
        }
    }
}

static void decode_q5_1(const void *row, float *out, int64_t k) {
    const ml_block_q5_1 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d), m = ml_f16_to_f32(b->m);
        for (int j = 0; j < 16; j++) {
            int low = (b->qs[j] & 15) | (int)((b->qh >> j) & 1) << 4;
            int high = (b->qs[j] >> 4) | (int)((b->qh >> (j + 16)) & 1) << 4;
            out[j] = d * (float)low + m;
            out[j + 16] = d * (float)high + m;
        }
    }
}

static void decode_q8_0(const void *row, float *out, int64_t k) {
    const ml_block_q8_0 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int j = 0; j < 32; j++) out[j] = d * (float)b->qs[j];
    }
}

static void decode_q2_k(const void *row, float *out, int64_t k) {
    const ml_block_q2_k *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d), dmin = ml_f16_to_f32(b->dmin);
        for (int i = 0; i < 256; i++) {
            int n = i / 128, j = i % 128 / 32, l = i % 32;
            int scale = b->scales[i / 16], q = (b->qs[32 * n + l] >> (2 * j)) & 3;
            out[i] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
        }
    }
}

static void decode_q3_k(const void *row, float *out, int64_t k) {
    const ml_block_q3_k *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int i = 0; i < 256; i++) {
            int n = i / 128, j = i % 128 / 32, l = i % 32, s = i / 16;
            int low = (b->scales[s % 8] >> (4 * (s / 8))) & 15, high = (b->scales[8 + s % 4] >> (2 * (s / 4))) & 3;
            int q = ((b->qs[32 * n + l] >> (2 * j)) & 3) | ((b->hmask[l] >> (4 * n + j)) & 1) << 2;
            out[i] = d * (float)((low | high << 4) - 32) * (float)(q - 4);
        }
    }
}

static void decode_q4_k(const void *row, float *out, int64_t k) {
    const ml_block_q4_k *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d), dmin = ml_f16_to_f32(b->dmin);
        for (int i = 0; i < 256; i++) {
            int s = i / 32, scale, min;
            ml_k_scale_min(b->scales, s, &scale, &min);
            int q = (b->qs[s / 2 * 32 + i % 32] >> (4 * (s % 2))) & 15;
            out[i] = d * (float)scale * (float)q - dmin * (float)min;
        }
    }
}

static void decode_q5_k(const void *row, float *out, int64_t k) {
    const ml_block_q5_k *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d), dmin = ml_f16_to_f32(b->dmin);
        for (int i = 0; i < 256; i++) {
            int s = i / 32, scale, min;
            ml_k_scale_min(b->scales, s, &scale, &min);
            int q = ((b->qs[s / 2 * 32 + i % 32] >> (4 * (s % 2))) & 15) | ((b->qh[i % 32] >> s) & 1) << 4;
            out[i] = d * (float)scale * (float)q - dmin * (float)min;
        }
    }
}

static void decode_q6_k(const void *row, float *out, int64_t k) {
    const ml_block_q6_k *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int i = 0; i < 256; i++) {
            int n = i / 128, j = i % 128 / 32, l = i % 32;
            int low = (b->ql[64 * n + 32 * (j % 2) + l] >> (4 * (j / 2))) & 15,
                high = (b->qh[32 * n + l] >> (2 * j)) & 3;
            out[i] = d * (float)b->scales[i / 16] * (float)((low | high << 4) - 32);
        }
    }
}

static void decode_iq4_nl(const void *row, float *out, int64_t k) {
    const ml_block_iq4_nl *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) {
            out[j] = d * iq4[b->qs[j] & 15];
            out[j + 16] = d * iq4[b->qs[j] >> 4];
        }
    }
}

static void decode_iq4_xs(const void *row, float *out, int64_t k) {
    const ml_block_iq4_xs *b = row;
    for (; k > 0; k -= 256, out += 256, b++) {
        float d = ml_f16_to_f32(b->d);
        for (int i = 0; i < 256; i++) {
            int s = i / 32, l = i % 32;
            int scale = ((b->scales_l[s / 2] >> (4 * (s % 2))) & 15) | ((b->scales_h >> (2 * s)) & 3) << 4;
            int q = (b->qs[16 * s + l % 16] >> (4 * (l / 16))) & 15;
            out[i] = d * (float)(scale - 32) * iq4[q];
        }
    }
}

static void decode_mxfp4(const void *row, float *out, int64_t k) {
    const ml_block_mxfp4 *b = row;
    for (; k > 0; k -= 32, out += 32, b++) {
        float scale = ml_e8m0_to_f32(b->e);
        for (int j = 0; j < 16; j++) {
            out[j] = scale * e2m1[b->qs[j] & 15];
            out[j + 16] = scale * e2m1[b->qs[j] >> 4];
        }
    }
}

ml_decode ml_decode_reference(int dtype) {
    static const ml_decode table[ML_DTYPE_LIMIT] = {
        [ML_F32] = decode_f32,   [ML_F16] = decode_f16,       [ML_BF16] = decode_bf16,     [ML_Q4_0] = decode_q4_0,
        [ML_Q4_1] = decode_q4_1, [ML_Q5_0] = decode_q5_0,     [ML_Q5_1] = decode_q5_1,     [ML_Q8_0] = decode_q8_0,
        [ML_Q2_K] = decode_q2_k, [ML_Q3_K] = decode_q3_k,     [ML_Q4_K] = decode_q4_k,     [ML_Q5_K] = decode_q5_k,
        [ML_Q6_K] = decode_q6_k, [ML_IQ4_NL] = decode_iq4_nl, [ML_IQ4_XS] = decode_iq4_xs, [ML_MXFP4] = decode_mxfp4,
    };
    return dtype >= 0 && dtype < ML_DTYPE_LIMIT ? table[dtype] : NULL;
}
