/* Attention to quantised pages with the multiplications of ARMv8.0, whose sums are twice as wide as their factors:
 * codes of 8 bits are widened and multiplied with int16 into int32 (smlal), codes of 4 bits as bytes into int16 (smull,
 * smlal: sums of four products of at most 15 * 127). Compiled and run under qemu only, never timed. */
#if defined(__aarch64__)
#include "kernels/neon_lanes.c.h"
#include "kernels/set.h"

enum { MOST8 = 8, WIDE8 = 8, MIDDLE8 = 128, MOST4 = 4, WIDE4 = 4 };

typedef struct codes8 {
    int16x8_t first, second; /* codes 0 of four groups, codes 1; codes 2, codes 3 */
} codes8;
typedef vi sums8;
typedef vi sums4;

static inline codes8 load8(const uint8_t *p) {
    static const uint8_t turned[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const uint8x16_t all = vqtbl1q_u8(vld1q_u8(p), vld1q_u8(turned));
    return (codes8){vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(all))), vreinterpretq_s16_u16(vmovl_high_u8(all))};
}

/* sum + codes times four bytes. */
static inline vi dot_bytes(vi sum, int8x16_t codes, bytes4 x) {
    return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)), vmull_high_s8(codes, x)));
}

static inline sums8 zero8(void) {
    return i_zero();
}
static inline sums4 zero4(void) {
    return i_zero();
}
static inline sums8 add8(sums8 s, codes8 c, ml_integer_row row) {
    const int16x4_t x = vld1_s16(row.integers);
    s = vmlal_lane_s16(s, vget_low_s16(c.first), x, 0);
    s = vmlal_high_lane_s16(s, c.first, x, 1);
    s = vmlal_lane_s16(s, vget_low_s16(c.second), x, 2);
    return vmlal_high_lane_s16(s, c.second, x, 3);
}
static inline sums4 add4(sums4 s, codes4 c, ml_integer_row row) {
    const int32x2_t eight = vreinterpret_s32_s8(vld1_s8(row.high));
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_lane_s32(eight, 0));
    const int8x16_t y = vreinterpretq_s8_s32(vdupq_lane_s32(eight, 1));
    const int16x8_t a = vmull_s8(vget_low_s8(c.low), vget_low_s8(x)), b = vmull_high_s8(c.low, x);
    return vpadalq_s16(s, vpaddq_s16(vmlal_s8(a, vget_low_s8(c.high), vget_low_s8(y)), vmlal_high_s8(b, c.high, y)));
}
static inline vi total8(sums8 s) {
    return s;
}
static inline vi total4(sums4 s) {
    return s;
}

static inline vf integer_store(vf v, int bits, ml_integer_row row) {
    const vi x = vcvtnq_s32_f32(v);
    if (bits == 4) {
        store_bytes(row.high, vmovn_s32(x));
    } else {
        vst1_s16(row.integers, vmovn_s32(x));
    }
    return to_float(x);
}

#include "kernels/warm.c.h"

#include "kernels/sketch.c.h"

void ml_kernels_neon_warm(ml_kernels *table) {
    table->attend_warm = attend_warm;
    table->sketch = sketch;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_neon_warm_unused;
#endif
