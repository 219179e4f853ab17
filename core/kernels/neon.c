/* Kernels for aarch64, of the baseline of ARMv8.0; what needs more (neon_panel.c, neon_warm_dot.c) comes in where the
 * CPU promises it. Compiled and run under qemu only, never timed. */
#if defined(__aarch64__)
#include "base/cpu.h"
#include "dtype/blocks.h"
#include "dtype/dtype.h"
#include "kernels/neon_lanes.c.h"
#include "kernels/set.h"

#include <stddef.h>

static uint64_t read_stream(const void *area, int64_t bytes) {
    const uint64_t *p = area;
    uint64x2_t a = vdupq_n_u64(0), b = a, c = a, d = a;
    for (int64_t i = 0; i < bytes / 8; i += 8) {
        a = vaddq_u64(a, vld1q_u64(p + i));
        b = vaddq_u64(b, vld1q_u64(p + i + 2));
        c = vaddq_u64(c, vld1q_u64(p + i + 4));
        d = vaddq_u64(d, vld1q_u64(p + i + 6));
    }
    return vaddvq_u64(vaddq_u64(vaddq_u64(a, b), vaddq_u64(c, d)));
}

/* An f16 in every lane, widened. */
static inline vf set_f16(const void *p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)));
}

/* w[0..3] = 16 signed bytes times `scale`. */
static inline void signed_bytes(int8x16_t bytes, vf scale, vf *w) {
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    w[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))) * scale;
    w[1] = vcvtq_f32_s32(vmovl_high_s16(low)) * scale;
    w[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))) * scale;
    w[3] = vcvtq_f32_s32(vmovl_high_s16(high)) * scale;
}

static inline uint8x16_t low_nibbles(uint8x16_t bytes) {
    return vandq_u8(bytes, vdupq_n_u8(15));
}
static inline uint8x16_t high_nibbles(uint8x16_t bytes) {
    return vshrq_n_u8(bytes, 4);
}

static void unpack_f32(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 8; i++) w[i] = vreinterpretq_f32_u8(vld1q_u8(block + 16 * i));
}

static void unpack_f16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 8; i++) w[i] = v_load_f16((const void *)(block + 8 * i));
}

static void unpack_bf16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 8; i++) w[i] = v_load_bf16((const void *)(block + 8 * i));
}

/* Four low bits and the fifth, which is bit i of `bits` (of 16) for byte i: q - 16. */
static inline int8x16_t five_bits(uint8x16_t four, uint32_t bits) {
    const uint8x8_t each = vcreate_u8(0x8040201008040201);
    const uint8x16_t spread = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));
    const uint8x16_t set = vtstq_u8(spread, vcombine_u8(each, each));
    return vreinterpretq_s8_u8(vaddq_u8(four, vbicq_u8(vdupq_n_u8((uint8_t)-16), set)));
}

static void unpack_q5_0(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    uint32_t fifth;
    __builtin_memcpy(&fifth, block + offsetof(ml_block_q5_0, qh), sizeof fifth);
    const vf d = set_f16(block);
    const uint8x16_t bytes = vld1q_u8(block + offsetof(ml_block_q5_0, qs));
    signed_bytes(five_bits(low_nibbles(bytes), fifth & 0xffff), d, w);
    signed_bytes(five_bits(high_nibbles(bytes), fifth >> 16), d, w + 4);
}

static void unpack_q8_0(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    const vf d = set_f16(block);
    const int8_t *qs = (const int8_t *)block + offsetof(ml_block_q8_0, qs);
    signed_bytes(vld1q_s8(qs), d, w);
    signed_bytes(vld1q_s8(qs + 16), d, w + 4);
}

/* Twice the values of e2m1 codes, which are integers, times half of the scale: exact. */
static void unpack_mxfp4(const uint8_t *block, int part, const float *scales, vf *w) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    (void)part, (void)scales;
    const uint8x16_t bytes = vld1q_u8(block + offsetof(ml_block_mxfp4, qs));
    const int8x16_t table = vld1q_s8(twice);
    const vf half = v_set(0.5f * ml_e8m0_to_f32(*block));
    signed_bytes(vqtbl1q_s8(table, low_nibbles(bytes)), half, w);
    signed_bytes(vqtbl1q_s8(table, high_nibbles(bytes)), half, w + 4);
}

/* scales[0..7] = d * scale, scales[8..15] = -dmin * min of the eight groups. */
static void prepare_q4_k(const uint8_t *block, float *scales) {
    uint32_t s[3];
    __builtin_memcpy(s, block + offsetof(ml_block_q4_k, scales), sizeof s);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    const uint32_t words[4] = {s[0] & six, (s[2] & four) | (((s[0] >> 6) & two) << 4), s[1] & six,
                               ((s[2] >> 4) & four) | (((s[1] >> 6) & two) << 4)};
    vf w[4];
    signed_bytes(vreinterpretq_s8_u32(vld1q_u32(words)), v_set(1), w);
    const vf d = set_f16(block), minimum = -set_f16(block + offsetof(ml_block_q4_k, dmin));
    v_store(scales, w[0] * d);
    v_store(scales + 4, w[1] * d);
    v_store(scales + 8, w[2] * minimum);
    v_store(scales + 12, w[3] * minimum);
}

/* w[0..3] = scale * q + min for 16 codes. */
static inline void q4_k_codes(uint8x16_t codes, float scale, float min, vf *w) {
    signed_bytes(vreinterpretq_s8_u8(codes), v_set(1), w);
    for (int i = 0; i < 4; i++) w[i] = v_fma(w[i], v_set(scale), v_set(min));
}

static void unpack_q4_k(const uint8_t *block, int part, const float *scales, vf *w) {
    const uint8_t *qs = block + offsetof(ml_block_q4_k, qs) + part * 32;
    for (int i = 0; i < 2; i++) {
        const uint8x16_t bytes = vld1q_u8(qs + 16 * i);
        q4_k_codes(low_nibbles(bytes), scales[2 * part], scales[8 + 2 * part], w + 4 * i);
        q4_k_codes(high_nibbles(bytes), scales[2 * part + 1], scales[9 + 2 * part], w + 8 + 4 * i);
    }
}

static void prepare_q6_k(const uint8_t *block, float *scales) {
    vf w[4];
    signed_bytes(vld1q_s8((const void *)(block + offsetof(ml_block_q6_k, scales))),
                 set_f16(block + offsetof(ml_block_q6_k, d)), w);
    for (int i = 0; i < 4; i++) v_store(scales + 4 * i, w[i]);
}

/* Four low bits, and the high two in bits 4 and 5 of `high`: q - 32. */
static inline int8x16_t six_bits(uint8x16_t four, uint8x16_t high) {
    const uint8x16_t q = vorrq_u8(four, vandq_u8(high, vdupq_n_u8(0x30)));
    return vreinterpretq_s8_u8(vsubq_u8(q, vdupq_n_u8(32)));
}

/* 64 elements: a nibble of 64 bytes of ql, and two bits of 32 bytes of qh at one place for the first 32 elements and
 * two bits higher for the rest. */
static void unpack_q6_k(const uint8_t *block, int part, const float *scales, vf *w) {
    const uint8_t *ql = block + part / 2 * 64, *qh = block + offsetof(ml_block_q6_k, qh) + part / 2 * 32;
    for (int i = 0; i < 4; i++) {
        const uint8x16_t low = vld1q_u8(ql + 16 * i), high = vld1q_u8(qh + i % 2 * 16);
        int8x16_t q;
        if (part % 2) {
            q = six_bits(high_nibbles(low), i < 2 ? high : vshrq_n_u8(high, 2));
        } else {
            q = six_bits(low_nibbles(low), i < 2 ? vshlq_n_u8(high, 4) : vshlq_n_u8(high, 2));
        }
        signed_bytes(q, v_set(scales[4 * part + i]), w + 4 * i);
    }
}

#include "kernels/vector.c.h"

/* Without SDOT, an instruction makes four products of int16 as of f32: many columns then go to OpenBLAS. From how many
 * on is avx2's number, not measured here. */
ROW_KERNELS(q8_0, 32, sizeof(ml_block_q8_0), NULL, unpack_q8_0)
ROW_KERNELS(mxfp4, 32, sizeof(ml_block_mxfp4), NULL, unpack_mxfp4)

void ml_kernels_neon(ml_kernels *table) {
    ml_kernels_scalar(table);
    fill(table, "neon", 8);
    PUT(ML_Q8_0, q8_0);
    PUT(ML_MXFP4, mxfp4);
    ml_kernels_neon_warm(table);
    if (!ml_cpu_get()->dotprod) return;
    ml_kernels_neon_panel(table);
    ml_kernels_neon_warm_dot(table);
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_neon_unused;
#endif
