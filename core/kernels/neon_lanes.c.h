/* Four floats a vector: the primitives of lanes.c.h for aarch64, and those of warm.c.h and sketch.c.h that its two
 * files share. All of it is in the baseline of ARMv8.0 (f16 conversion and fused multiplication too), so it needs no
 * flags.
 */
#ifndef ML_KERNELS_NEON_LANES_H
#define ML_KERNELS_NEON_LANES_H

#include <arm_neon.h>
#include <stdint.h>

enum { W = 4 };
typedef float32x4_t vf;
typedef float64x2_t vd;

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
static inline vf v_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
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
static inline vd d_fma(vd a, vd b, vd c) {
    return vfmaq_f64(c, a, b);
}
static inline vd d_min(vd a, vd b) {
    return vbslq_f64(vcltq_f64(a, b), a, b);
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
static inline void v_join_sums(const vf v[8], float out[8]) {
    for (int i = 0; i < 8; i++) out[i] = v_sum(v[i]);
}
static inline void v_join_tops(const vf v[8], float out[8]) {
    for (int i = 0; i < 8; i++) out[i] = v_top(v[i]);
}
static inline void v_store_bf16(uint16_t *out, vf v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v), top = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(top, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(top, vdupq_n_u32(0x40));
    vst1_u16(out, vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet)));
}

/* ---- for warm.c.h ---- */

typedef int32x4_t vi;

static inline vi i_zero(void) {
    return vdupq_n_s32(0);
}
static inline vi i_load(const int32_t *p) {
    return vld1q_s32(p);
}
static inline void i_store(int32_t *p, vi v) {
    vst1q_s32(p, v);
}
static inline vi i_subtract(vi v, int32_t x) {
    return vsubq_s32(v, vdupq_n_s32(x));
}
static inline vf to_float(vi v) {
    return vcvtq_f32_s32(v);
}
static inline float first_lane(vf v) {
    return vgetq_lane_f32(v, 0);
}
/* Two products fit an int32, as of integers none is -32768. */
static inline vf word_dots(const int16_t *a, const int16_t *b, int64_t n) {
    vf sum = v_set(0);
    for (int64_t i = 0; i < n; i += 8) {
        const int16x8_t x = vld1q_s16(a + i), y = vld1q_s16(b + i);
        sum = sum + to_float(vmlal_high_s16(vmull_s16(vget_low_s16(x), vget_low_s16(y)), x, y));
    }
    return sum;
}
typedef struct codes4 {
    int8x16_t low, high;
} codes4;
static inline codes4 load4(const uint8_t *p) {
    const uint8x16_t both = vld1q_u8(p);
    return (codes4){vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(both, 4))};
}
/* Four bytes in every lane. */
typedef int8x16_t bytes4;
static inline bytes4 four_bytes(const void *p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
}
/* Four int16 as bytes, the high half of each left out. */
static inline void store_bytes(int8_t *p, int16x4_t v) {
    const int8x8_t bytes = vmovn_s16(vcombine_s16(v, v));
    __builtin_memcpy(p, &bytes, 4);
}

#endif
