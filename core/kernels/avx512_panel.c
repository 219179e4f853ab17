/* Whole-number panels with AVX-512 VNNI (vpdpwssd). */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { W = 16 };
#define COLUMNS 6 /* 12 sums in int32 and 12 in f32 fill the 32 registers */

typedef __m512i vi;
typedef __m512 vf;

static inline vi i_zero(void) {
    return _mm512_setzero_si512();
}
static inline vf f_zero(void) {
    return _mm512_setzero_ps();
}
static inline vi i_load(const int16_t *p) {
    return _mm512_load_si512(p);
}
static inline vf f_load(const float *p) {
    return _mm512_load_ps(p);
}
static inline vf f_loadu(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void f_storeu(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
static inline vf f_set(float v) {
    return _mm512_set1_ps(v);
}
static inline vi i_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}
static inline vi i_dot(vi a, vi w, vi x) {
    return _mm512_dpwssd_epi32(a, w, x);
}
static inline vf f_add_scaled(vf f, vi a, vf s) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), s, f);
}

static inline float top32(const float *x) {
    const __m512 a = _mm512_abs_ps(_mm512_loadu_ps(x)), b = _mm512_abs_ps(_mm512_loadu_ps(x + 16));
    const __mmask16 bad = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    return bad ? NAN : _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}
static inline void to_int16(const float *x, float inverse, int16_t *q) {
    const __m512 s = _mm512_set1_ps(inverse);
    for (int i = 0; i < 32; i += 16) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), s));
        _mm256_storeu_si256((__m256i *)(void *)(q + i), _mm512_cvtsepi32_epi16(whole));
    }
}

/* 32 int16 in registers. */
typedef __m512i block32;

static inline block32 b_widen(const int8_t *bytes) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)bytes));
}
static inline block32 b_codes(const uint8_t *bytes, const int8_t values[16]) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)bytes));
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)values));
    const __m256i nibbles = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm512_cvtepi8_epi16(_mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15))));
}

static inline int32_t b_dot(block32 w, const int16_t *x) {
    return _mm512_reduce_add_epi32(_mm512_madd_epi16(w, _mm512_loadu_si512(x)));
}

/* 16 x 16 transpose of 32-bit lanes: pairs of rows, of pairs, of quads, then of halves. */
static inline void b_arrange(const block32 row[W], int16_t *to, int64_t ld) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* a[i + j]: columns j, j + 4, j + 8, j + 12 of rows i .. i + 3 */
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        const __m512i even2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        const __m512i odd2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
        _mm512_store_si512(to + (j + 0) * ld, _mm512_shuffle_i32x4(even, even2, 0x88));
        _mm512_store_si512(to + (j + 4) * ld, _mm512_shuffle_i32x4(odd, odd2, 0x88));
        _mm512_store_si512(to + (j + 8) * ld, _mm512_shuffle_i32x4(even, even2, 0xdd));
        _mm512_store_si512(to + (j + 12) * ld, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
    }
}

#include "kernels/panel.h"

/* ---- one column: stored MXFP4 blocks, 16 rows at a time ----
 *
 * vpdpbusd multiplies unsigned by signed bytes, so a product with int16 takes two: x = 256 h + l with h signed and l
 * unsigned, and sum(w x) = 256 sum((w + 12) h) - 256 * 12 sum(h) + sum(w l), where w is -12 .. 12. A vector holds a
 * block of two rows; sum(h) comes with the column. The lanes of 16 rows are added up into one vector, so that each
 * row's f32 sum takes the same steps as in a tile. */

enum { RAISE = 12 };

/* 32 high bytes and 32 low bytes a block, behind the scales of a column; behind them the sums. */
static inline uint8_t *column_bytes(const void *column, int64_t k) {
    return (uint8_t *)column + k * 2 + k / BLOCK * 4;
}
static inline int32_t *column_sums(const void *column, int64_t k) {
    return (int32_t *)(void *)(column_bytes(column, k) + k * 2);
}

static void quantize_and_split(const float *x, int64_t k, void *column) {
    quantize(x, k, column);
    const int16_t *q = column_values(column);
    uint8_t *bytes = column_bytes(column, k);
    int32_t *sums = column_sums(column, k);
    for (int64_t b = 0; b < k / BLOCK; b++, bytes += 2 * BLOCK) {
        const __m512i v = _mm512_loadu_si512(q + b * BLOCK), high = _mm512_srai_epi16(v, 8);
        _mm256_storeu_si256((__m256i *)(void *)bytes, _mm512_cvtepi16_epi8(high));
        _mm256_storeu_si256((__m256i *)(void *)(bytes + BLOCK), _mm512_cvtepi16_epi8(v));
        sums[b] = _mm512_reduce_add_epi32(_mm512_madd_epi16(high, _mm512_set1_epi16(1)));
    }
}

/* The bytes of a block of two rows, w and w + RAISE. */
typedef struct two_rows {
    __m512i plain, raised;
} two_rows;

static inline two_rows two_blocks(const uint8_t *a, const uint8_t *b) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)e2m1_twice));
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(a + 1)));
    const __m512i codes = _mm512_mask_broadcast_i32x4(_mm512_castsi256_si512(low), 0xff00,
                                                      _mm_loadu_si128((const __m128i *)(const void *)(b + 1)));
    const __m512i shifts = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i nibbles = _mm512_and_si512(_mm512_srlv_epi32(codes, shifts), _mm512_set1_epi8(15));
    const __m512i plain = _mm512_shuffle_epi8(table, nibbles);
    return (two_rows){plain, _mm512_add_epi8(plain, _mm512_set1_epi8(RAISE))};
}
/* Lane r: the sum of row r, where d[i] holds rows i + 4 (i / 4) and 4 more. Neighbours share a vector, then fours. */
static inline __m512i sum_lanes(const __m512i d[8]) {
    __m512i t[4], u[2];
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(d[2 * i], d[2 * i + 1]),
                                _mm512_unpackhi_epi32(d[2 * i], d[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        u[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm512_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    }
    return _mm512_add_epi32(_mm512_shuffle_i32x4(u[0], u[1], 0x88), _mm512_shuffle_i32x4(u[0], u[1], 0xdd));
}

/* The scales of a block of 16 rows. */
static inline void look_up(const uint8_t *const four[4], int64_t stride, float scales[W]) {
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) scales[4 * g + j] = scale_mxfp4(four[g] + j * stride);
    }
}

/* 16 rows. What follows them in memory is fetched ahead. Row 4 g + j is addressed as four[g] + j * stride, which keeps
 * all of it in registers. */
static void dot_group(const uint8_t *w, int64_t stride, int64_t k, const void *column, float *y) {
    enum { BYTES = sizeof(ml_block_mxfp4) };
    const float *scales = column_scales(column, k);
    const uint8_t *x = column_bytes(column, k);
    const int32_t *sums = column_sums(column, k);
    const uint8_t *four[4] = {w, w + 4 * stride, w + 8 * stride, w + 12 * stride}, *ahead = w + W * stride;
    _Alignas(64) float row_scales[2][W]; /* a vector cannot be loaded from what was just stored in pieces */
    __m512 sum = _mm512_setzero_ps();
    look_up(four, stride, row_scales[0]);
    for (int64_t b = 0; b < k / BLOCK; b++, x += 2 * BLOCK, ahead += W * BYTES) {
        __m512i dot[8];
        const __m512i h = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)x));
        const __m512i l = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)(x + BLOCK)));
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const int g = i / 4 * 2, j = i % 4;
            const two_rows v = two_blocks(four[g] + j * stride, four[g + 1] + j * stride);
            const __m512i tops = _mm512_dpbusd_epi32(_mm512_setzero_si512(), v.raised, h);
            dot[i] = _mm512_dpbusd_epi32(_mm512_slli_epi32(tops, 8), l, v.plain);
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) four[g] += BYTES;
        if (b + 1 < k / BLOCK) look_up(four, stride, row_scales[(b + 1) % 2]);
        for (int64_t o = 0; o < W * BYTES; o += 64) __builtin_prefetch(ahead + o, 0, 3);
        const __m512i whole = _mm512_sub_epi32(sum_lanes(dot), _mm512_set1_epi32(256 * RAISE * sums[b]));
        const __m512 s = _mm512_mul_ps(_mm512_load_ps(row_scales[b % 2]), _mm512_set1_ps(scales[b]));
        sum = f_add_scaled(sum, whole, s);
    }
    _mm512_storeu_ps(y, sum);
}

static void dot_mxfp4(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    int64_t r = 0;
    for (; r + W <= rows; r += W) dot_group(w + r * stride, stride, k, column, y + r);
    for (; r < rows; r++) y[r] = dot_row(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), w + r * stride, k, column);
}

/* Q8_0 stays with the AVX2 kernel: bound by memory, it streams 8 rows better than this one 16 (measured on Zen 5). */
void ml_kernels_avx512_panel(ml_kernels *table) {
    fill(table);
    table->whole_quantize = quantize_and_split;
    table->whole_dot[ML_MXFP4] = dot_mxfp4;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx512_panel_unused;
#endif
