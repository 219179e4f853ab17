/* Attention to quantised pages with AVX-512 VNNI (vpdpbusd: bytes without a sign times bytes with one, four at a time).
 * A whole number of 16 bits is multiplied as its high and its low byte. */
#if defined(__x86_64__)
#include "kernels/avx512_lanes.h"
#include "kernels/kernels.h"

enum { MOST8 = 8, MOST4 = 8 }; /* queries at a time */

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
static inline int32_t i_sum(vi v) {
    return _mm512_reduce_add_epi32(v);
}
static inline vf to_float(vi v) {
    return _mm512_cvtepi32_ps(v);
}

static inline codes8 load8(const uint8_t *p) {
    return (codes8){_mm512_loadu_si512(p)};
}
static inline codes4 load4(const uint8_t *p) {
    const vi both = _mm512_loadu_si512(p), nibble = _mm512_set1_epi8(15);
    return (codes4){_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)};
}
static inline vi four(const int8_t *p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

static inline sums8 zero8(void) {
    return (sums8){i_zero(), i_zero()};
}
static inline sums4 zero4(void) {
    return i_zero();
}
static inline void add8(sums8 *s, codes8 c, ml_whole_row row) {
    s->high = _mm512_dpbusd_epi32(s->high, c.all, four(row.high));
    s->low = _mm512_dpbusd_epi32(s->low, c.all, four(row.low));
}
static inline void add4(sums4 *s, codes4 c, ml_whole_row row) {
    *s = _mm512_dpbusd_epi32(*s, c.low, four(row.high));
    *s = _mm512_dpbusd_epi32(*s, c.high, four(row.high + 4));
}
static inline vi total8(sums8 s) {
    return _mm512_add_epi32(_mm512_slli_epi32(s.high, 8), s.low);
}
static inline vi total4(sums4 s) {
    return s;
}

static inline vi whole_store(vf v, int bits, ml_whole_row row, vi sums) {
    const vi x = _mm512_cvtps_epi32(v), top = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128((void *)row.high, _mm512_cvtepi32_epi8(top));
    if (bits == 4) return _mm512_add_epi32(sums, top);
    _mm_storeu_si128((void *)row.low, _mm512_cvtepi32_epi8(x)); /* the low byte of x - 256 top */
    return _mm512_add_epi32(sums, x);
}

#include "kernels/warm.h"

/* Heads whose size is no multiple of 16 (small models) stay with the eight-lane kernel. */
static void (*attend_narrow)(const ml_attend *work);

static void attend_any(const ml_attend *work) {
    (work->head_dim % W ? attend_narrow : attend_warm)(work);
}

void ml_kernels_avx512_warm(ml_kernels *table) {
    attend_narrow = table->attend_warm;
    table->attend_warm = attend_any;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx512_warm_unused;
#endif
