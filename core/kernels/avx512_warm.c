/* Attention to quantised pages with AVX-512 VNNI (vpdpbusd: bytes without a sign times bytes with one, four at a time).
 * An integer of 16 bits is multiplied as its high and its low byte. */
#if defined(__x86_64__)
#include "kernels/avx512_bytes.c.h"
#include "kernels/avx512_lanes.c.h"
#include "kernels/set.h"

enum { MOST8 = 8, WIDE8 = 4, MIDDLE8 = 128, MOST4 = 8, WIDE4 = 8 };

typedef __m512i vi;
typedef struct codes8 {
    vi all;
} codes8;
typedef struct codes4 {
    vi low, high;
} codes4;
typedef struct sums8 {
    vi high, low;
} sums8;
typedef vi sums4;
typedef vi bytes4;

static inline vi i_zero(void) {
    return _mm512_setzero_si512();
}
static inline vi i_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
static inline void i_store(int32_t *p, vi v) {
    _mm512_storeu_si512(p, v);
}
static inline vi i_subtract(vi v, int32_t x) {
    return _mm512_sub_epi32(v, _mm512_set1_epi32(x));
}
static inline vf to_float(vi v) {
    return _mm512_cvtepi32_ps(v);
}

static inline float first_lane(vf v) {
    return _mm512_cvtss_f32(v);
}
static inline vf word_dots(const int16_t *a, const int16_t *b, int64_t n) {
    vf sum = v_set(0);
    for (int64_t i = 0; i < n; i += 32) {
        const __mmask32 lanes = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;
        const vi x = _mm512_maskz_loadu_epi16(lanes, a + i), y = _mm512_maskz_loadu_epi16(lanes, b + i);
        sum = sum + to_float(_mm512_madd_epi16(x, y));
    }
    return sum;
}

static inline codes8 load8(const uint8_t *p) {
    return (codes8){_mm512_loadu_si512(p)};
}
static inline codes4 load4(const uint8_t *p) {
    const vi both = _mm512_loadu_si512(p), nibble = _mm512_set1_epi8(15);
    return (codes4){_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)};
}
/* sum + codes times the four integers at p. Not the intrinsic: of many sums in a loop, gcc 12 moves every one to
 * another register each time, until some end up in memory. */
static inline vi dot_four(vi sum, vi codes, const int8_t *p) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int8_t(*)[4])p));
    return sum;
}

static inline sums8 zero8(void) {
    return (sums8){i_zero(), i_zero()};
}
static inline sums4 zero4(void) {
    return i_zero();
}
static inline sums8 add8(sums8 s, codes8 c, ml_integer_row row) {
    return (sums8){dot_four(s.high, c.all, row.high), dot_four(s.low, c.all, row.low)};
}
static inline sums4 add4(sums4 s, codes4 c, ml_integer_row row) {
    return dot_four(dot_four(s, c.low, row.high), c.high, row.high + 4);
}
static inline vi total8(sums8 s) {
    return _mm512_add_epi32(_mm512_slli_epi32(s.high, 8), s.low);
}
static inline vi total4(sums4 s) {
    return s;
}

static inline vf integer_store(vf v, int bits, ml_integer_row row) {
    const vi x = _mm512_cvtps_epi32(v), top = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128((void *)row.high, _mm512_cvtepi32_epi8(bits == 4 ? x : top));
    if (bits == 8) _mm_storeu_si128((void *)row.low, _mm512_cvtepi32_epi8(x)); /* the low byte of x - 256 top */
    return to_float(x);
}

#include "kernels/warm.c.h"

#include "kernels/sketch.c.h"

#include "kernels/avx512_warm4.c.h"

/* Heads whose size is no multiple of 16 (small models) stay with the eight-lane kernel. */
static void (*attend_narrow)(const ml_attend *work);

static void attend_any(const ml_attend *work) {
    if (work->head_dim % W) {
        attend_narrow(work);
    } else if (work->key_bits == 4 && work->value_bits == 4) {
        attend_warm4(work);
    } else {
        attend_warm(work);
    }
}

void ml_kernels_avx512_warm(ml_kernels *table) {
    attend_narrow = table->attend_warm;
    table->attend_warm = attend_any;
    table->sketch = sketch;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx512_warm_unused;
#endif
