/* The stored blocks of the quantised dtypes, as they lie in a GGUF file (ggml-org/ggml, docs/gguf.md and
 * ggml-common.h for the layouts; OCP Microscaling Formats 1.0 for MXFP4). All little endian, no padding. d, m and
 * dmin are f16 bits. In blocks of 32, byte j of qs holds element j in its low and element j + 16 in its high nibble. */
#ifndef ML_DTYPE_BLOCKS_H
#define ML_DTYPE_BLOCKS_H

#include <stdint.h>

#define ML_PACKED __attribute__((packed))

/* value = d * (q - 8), q of 4 bits. */
typedef struct ML_PACKED ml_block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
} ml_block_q4_0;

/* value = d * q + m, q of 4 bits. */
typedef struct ML_PACKED ml_block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} ml_block_q4_1;

/* value = d * (q - 16), q of 5 bits; bit j of qh is the fifth bit of element j. */
typedef struct ML_PACKED ml_block_q5_0 {
    uint16_t d;
    uint32_t qh;
    uint8_t qs[16];
} ml_block_q5_0;

/* value = d * q + m, q of 5 bits. */
typedef struct ML_PACKED ml_block_q5_1 {
    uint16_t d, m;
    uint32_t qh;
    uint8_t qs[16];
} ml_block_q5_1;

/* value = d * q. */
typedef struct ML_PACKED ml_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
} ml_block_q8_0;

/* 256 elements in 16 groups of 16: value = d * (scale & 15) * q - dmin * (scale >> 4), q of 2 bits. Element
 * 128 n + 32 j + l (j < 4, l < 32) lies in bits 2j of qs[32 n + l]. */
typedef struct ML_PACKED ml_block_q2_k {
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d, dmin;
} ml_block_q2_k;

/* 256 elements in 16 groups of 16: value = d * (scale - 32) * (q - 4), q of 3 bits: two in qs as in Q2_K, the third in
 * bit 4n + j of hmask[l]. Scales of 6 bits: the low four of scale s in nibble s / 8 of scales[s % 8], the high two in
 * bits 2 (s / 4) of scales[8 + s % 4]. */
typedef struct ML_PACKED ml_block_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint16_t d;
} ml_block_q3_k;

/* 256 elements in 8 groups of 32: value = d * scale * q - dmin * min, q of 4 bits. Groups 2j and 2j + 1 are the low and
 * the high nibbles of qs[32 j ..]. Scales and mins of 6 bits: those of group s < 4 are the low six bits of scales[s]
 * and scales[s + 4]; of s >= 4 the nibbles of scales[s + 4] (low: scale), with the high two bits on top of scales[s -
 * 4] (scale) and scales[s] (min). */
typedef struct ML_PACKED ml_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} ml_block_q4_k;

/* Q4_K with a fifth bit: bit s of qh[l] belongs to element l of group s. */
typedef struct ML_PACKED ml_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} ml_block_q5_k;

/* 256 elements in 16 groups of 16: value = d * scale * (q - 32), q of 6 bits. In half n, element 32 j + l (j < 4) has
 * its low four bits in nibble j / 2 of ql[64 n + 32 (j % 2) + l], and its high two in bits 2j of qh[32 n + l]. */
typedef struct ML_PACKED ml_block_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} ml_block_q6_k;

/* value = d * table[q], q of 4 bits. */
typedef struct ML_PACKED ml_block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
} ml_block_iq4_nl;

/* 256 elements in 8 groups of 32, laid out as IQ4_NL: value = d * (scale - 32) * table[q]. Scales of 6 bits: the low
 * four of group s in nibble s % 2 of scales_l[s / 2], the high two in bits 2s of scales_h. */
typedef struct ML_PACKED ml_block_iq4_xs {
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
} ml_block_iq4_xs;

/* value = 2^(e - 127) * e2m1[q]; e = 255 is NaN. */
typedef struct ML_PACKED ml_block_mxfp4 {
    uint8_t e;
    uint8_t qs[16];
} ml_block_mxfp4;

/* The sixteen values of a 4-bit code. */
#define ML_IQ4_VALUES                                                                                                  \
    { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 }
#define ML_E2M1_VALUES                                                                                                 \
    { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6 }

/* Scale and min of group s (0..7) of Q4_K and Q5_K. */
static inline void ml_k_scale_min(const uint8_t scales[12], int s, int *scale, int *min) {
    if (s < 4) {
        *scale = scales[s] & 63;
        *min = scales[s + 4] & 63;
    } else {
        *scale = (scales[s + 4] & 15) | ((scales[s - 4] >> 6) << 4);
        *min = (scales[s + 4] >> 4) | ((scales[s] >> 6) << 4);
    }
}

#endif
