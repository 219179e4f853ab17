/* Kernels for aarch64: four floats a vector. All of it is in the baseline of ARMv8.0 (f16 conversion and fused
 * multiplication too), so the file needs no flags of its own. */
#if defined(__aarch64__)
#include "base/cpu.h"
#include "kernels/kernels.h"
#include "tensor/blocks.h"
#include "tensor/dtype.h"

#include <arm_neon.h>
#include <stddef.h>

enum { W = 4 };
typedef float32x4_t vf;

static inline vf v_load(const float *p) {
    return vld1q_f32(p);
}
static inline void v_store(float *p, vf v) {
    vst1q_f32(p, v);
}
static inline vf v_load_part(const float *p, int64_t n) {
    const vf zero = vdupq_n_f32(0);
    switch (n) {
    case 1:
        return vld1q_lane_f32(p, zero, 0);
    case 2:
        return vcombine_f32(vld1_f32(p), vget_low_f32(zero));
    case 3:
        return vld1q_lane_f32(p + 2, vcombine_f32(vld1_f32(p), vget_low_f32(zero)), 2);
    default:
        return v_load(p);
    }
}
static inline void v_store_part(float *p, vf v, int64_t n) {
    switch (n) {
    case 1:
        vst1q_lane_f32(p, v, 0);
        break;
    case 2:
        vst1_f32(p, vget_low_f32(v));
        break;
    case 3:
        vst1_f32(p, vget_low_f32(v));
        vst1q_lane_f32(p + 2, v, 2);
        break;
    default:
        v_store(p, v);
    }
}
static inline vf v_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
static inline vf v_set(float x) {
    return vdupq_n_f32(x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
/* Not vmaxq and vminq, which give NaN wherever there is one. */
static inline vf v_max(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline vf v_min(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
static inline vf v_round(vf x) {
    return vrndnq_f32(x);
}
/* 2^n has no float for n = 128 and below -126, so x is multiplied twice, by powers of about half of n. */
static inline vf v_power(vf x, vf n) {
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half);
    const int32x4_t bias = vdupq_n_s32(127);
    const vf a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    const vf b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return x * a * b;
}
static inline float v_sum(vf v) {
    return vaddvq_f32(v);
}
static inline float v_top(vf v) {
    return vmaxvq_f32(v);
}
static inline void v_store_bf16(uint16_t *out, vf v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v), top = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(top, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(top, vdupq_n_u32(0x40));
    vst1_u16(out, vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet)));
}

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
    for (int i = 0; i < 8; i++) w[i] = v_load((const void *)(block + 16 * i));
}

static void unpack_f16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 8; i++) w[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const void *)(block + 8 * i))));
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

/* Twice the values of e2m1 codes, which are whole numbers, times half of the scale: exact. */
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

#include "kernels/vector.h"

/* Without SDOT, int16 products run no faster than these in f32: many columns then go to OpenBLAS. */
ROW_KERNELS(q8_0, 32, sizeof(ml_block_q8_0), NULL, unpack_q8_0)
ROW_KERNELS(mxfp4, 32, sizeof(ml_block_mxfp4), NULL, unpack_mxfp4)

void ml_kernels_neon(ml_kernels *table) {
    ml_kernels_scalar(table);
    fill(table, "neon", 8);
    PUT(ML_Q8_0, q8_0);
    PUT(ML_MXFP4, mxfp4);
    if (ml_cpu_get()->dotprod) ml_kernels_neon_panel(table);
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_neon_unused;
#endif
