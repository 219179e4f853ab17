/* Attention to quantised pages with SDOT (ARMv8.2 dotprod), which multiplies signed bytes, four at a time into an
 * int32. An integer of 16 bits is multiplied as its high and its low byte; codes of 8 bits become signed as they
 * are loaded. (USDOT of i8mm would save that one XOR for 16 codes of all queries, which is not worth a third file.)
 * Compiled and run under qemu only, never timed. */
#if defined(__aarch64__)
#include "kernels/neon_lanes.c.h"
#include "kernels/set.h"

enum { MOST8 = 4, WIDE8 = 4, MIDDLE8 = 0, MOST4 = 8, WIDE4 = 8 };

typedef struct codes8 {
    int8x16_t all; /* less 128 */
} codes8;
typedef struct sums8 {
    vi high, low;
} sums8;
typedef vi sums4;

static inline codes8 load8(const uint8_t *p) {
    return (codes8){vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(128)))};
}

/* sum + codes times four bytes. */
static inline vi dot_bytes(vi sum, int8x16_t codes, bytes4 x) {
    return vdotq_s32(sum, codes, x);
}

static inline sums8 zero8(void) {
    return (sums8){i_zero(), i_zero()};
}
static inline sums4 zero4(void) {
    return i_zero();
}
/* sum + codes times the four integers at p. */
static inline vi dot_four(vi sum, int8x16_t codes, const int8_t *p) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return vdotq_lane_s32(sum, codes, vcreate_s8(bytes), 0);
}
static inline sums8 add8(sums8 s, codes8 c, ml_integer_row row) {
    return (sums8){dot_four(s.high, c.all, row.high), dot_four(s.low, c.all, row.low)};
}
static inline sums4 add4(sums4 s, codes4 c, ml_integer_row row) {
    const int8x8_t x = vld1_s8(row.high);
    return vdotq_lane_s32(vdotq_lane_s32(s, c.low, x, 0), c.high, x, 1);
}
static inline vi total8(sums8 s) {
    return vaddq_s32(vshlq_n_s32(s.high, 8), s.low);
}
static inline vi total4(sums4 s) {
    return s;
}

static inline vf integer_store(vf v, int bits, ml_integer_row row) {
    const vi x = vcvtnq_s32_f32(v);
    store_bytes(row.high, bits == 4 ? vmovn_s32(x) : vrshrn_n_s32(x, 8));
    if (bits == 8) store_bytes(row.low, vmovn_s32(x)); /* the low byte of x - 256 high */
    return to_float(x);
}

#include "kernels/warm.c.h"

#include "kernels/sketch.c.h"

void ml_kernels_neon_warm_dot(ml_kernels *table) {
    table->attend_warm = attend_warm;
    table->sketch = sketch;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_neon_warm_dot_unused;
#endif
