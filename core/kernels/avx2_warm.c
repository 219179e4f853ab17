/* Attention to quantised pages with AVX2: codes of 8 bits are widened and multiplied with int16, codes of 4 bits are
 * multiplied as bytes (vpmaddubsw: sums of four products of at most 15 * 127 fit its int16). */
#if defined(__x86_64__)
#include "kernels/avx2_lanes.c.h"
#include "kernels/set.h"

enum { MOST8 = 4, WIDE8 = 4, MIDDLE8 = 128, MOST4 = 4, WIDE4 = 4 };

typedef __m256i vi;
typedef struct codes8 {
    vi first, second; /* of four codes the first two, the last two; int16 */
} codes8;
typedef struct codes4 {
    vi low, high;
} codes4;
typedef vi sums8;
typedef vi sums4;
typedef vi bytes4;

static inline vi i_zero(void) {
    return _mm256_setzero_si256();
}
static inline vi i_load(const int32_t *p) {
    return _mm256_loadu_si256((const void *)p);
}
static inline void i_store(int32_t *p, vi v) {
    _mm256_storeu_si256((void *)p, v);
}
static inline vi i_subtract(vi v, int32_t x) {
    return _mm256_sub_epi32(v, _mm256_set1_epi32(x));
}
static inline vf to_float(vi v) {
    return _mm256_cvtepi32_ps(v);
}

static inline float first_lane(vf v) {
    return _mm256_cvtss_f32(v);
}
static inline vf word_dots(const int16_t *a, const int16_t *b, int64_t n) {
    vf sum = v_set(0);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        sum = sum + to_float(_mm256_madd_epi16(_mm256_loadu_si256((const void *)(a + i)),
                                               _mm256_loadu_si256((const void *)(b + i))));
    }
    if (i < n) {
        const __m128i x = _mm_loadu_si128((const void *)(a + i)), y = _mm_loadu_si128((const void *)(b + i));
        sum = sum + to_float(_mm256_zextsi128_si256(_mm_madd_epi16(x, y)));
    }
    return sum;
}

static inline codes8 load8(const uint8_t *p) {
    const vi all = _mm256_loadu_si256((const void *)p);
    const vi first =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    const vi second =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
    return (codes8){_mm256_shuffle_epi8(all, first), _mm256_shuffle_epi8(all, second)};
}
static inline codes4 load4(const uint8_t *p) {
    const vi both = _mm256_loadu_si256((const void *)p), nibble = _mm256_set1_epi8(15);
    return (codes4){_mm256_and_si256(both, nibble), _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)};
}
static inline vi four_bytes(const void *p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* sum + codes times four bytes. */
static inline vi dot_bytes(vi sum, vi codes, vi x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}

static inline sums8 zero8(void) {
    return i_zero();
}
static inline sums4 zero4(void) {
    return i_zero();
}
static inline sums8 add8(sums8 s, codes8 c, ml_integer_row row) {
    s = _mm256_add_epi32(s, _mm256_madd_epi16(c.first, four_bytes(row.integers)));
    return _mm256_add_epi32(s, _mm256_madd_epi16(c.second, four_bytes(row.integers + 2)));
}
static inline sums4 add4(sums4 s, codes4 c, ml_integer_row row) {
    const vi pairs = _mm256_add_epi16(_mm256_maddubs_epi16(c.low, four_bytes(row.high)),
                                      _mm256_maddubs_epi16(c.high, four_bytes(row.high + 4)));
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline vi total8(sums8 s) {
    return s;
}
static inline vi total4(sums4 s) {
    return s;
}

static inline vf integer_store(vf v, int bits, ml_integer_row row) {
    const vi x = _mm256_cvtps_epi32(v);
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    if (bits == 4) {
        _mm_storel_epi64((void *)row.high, _mm_packs_epi16(narrow, narrow));
    } else {
        _mm_storeu_si128((void *)row.integers, narrow);
    }
    return to_float(x);
}

#include "kernels/warm.c.h"

#include "kernels/sketch.c.h"

void ml_kernels_avx2_warm(ml_kernels *table) {
    table->attend_warm = attend_warm;
    table->sketch = sketch;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx2_warm_unused;
#endif
