/* Whole-number panels with AVX2 (vpmaddwd). */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { W = 8 };
#define COLUMNS 4 /* 8 sums in int32 stay in the 16 registers; those in f32 wait in the stack between blocks */

typedef __m256i vi;
typedef __m256 vf;

static inline vi i_zero(void) {
    return _mm256_setzero_si256();
}
static inline vf f_zero(void) {
    return _mm256_setzero_ps();
}
static inline vi i_load(const int16_t *p) {
    return _mm256_load_si256((const __m256i *)(const void *)p);
}
static inline vf f_load(const float *p) {
    return _mm256_load_ps(p);
}
static inline vf f_loadu(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void f_storeu(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
static inline vf f_set(float v) {
    return _mm256_set1_ps(v);
}
static inline vi i_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
}
static inline vi i_dot(vi a, vi w, vi x) {
    return _mm256_add_epi32(a, _mm256_madd_epi16(w, x));
}
static inline vf f_add_scaled(vf f, vi a, vf s) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), s, f);
}

static inline float top32(const float *x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 top = _mm256_setzero_ps(), bad = _mm256_setzero_ps();
    for (int i = 0; i < 32; i += 8) {
        const __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        top = _mm256_max_ps(top, v);
    }
    if (_mm256_movemask_ps(bad)) return NAN;
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
static inline void to_int16(const float *x, float inverse, int16_t *q) {
    const __m256 s = _mm256_set1_ps(inverse);
    for (int i = 0; i < 32; i += 16) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), s));
        const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), s));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(q + i), packed);
    }
}

/* 32 int16 in registers. */
typedef struct block32 {
    __m256i half[2];
} block32;

static inline block32 b_from_bytes(__m256i bytes) {
    return (block32){{_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)),
                      _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1))}};
}
static inline block32 b_widen(const int8_t *bytes) {
    return b_from_bytes(_mm256_loadu_si256((const __m256i *)(const void *)bytes));
}
static inline block32 b_codes(const uint8_t *bytes, const int8_t values[16]) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)bytes));
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)values));
    const __m256i nibbles = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    return b_from_bytes(_mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15))));
}

/* The products of a block, added up to 8 lanes. */
static inline __m256i block_lanes(block32 w, const int16_t *x) {
    const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)x);
    const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(x + 16));
    return _mm256_add_epi32(_mm256_madd_epi16(w.half[0], low), _mm256_madd_epi16(w.half[1], high));
}

static inline int32_t b_dot(block32 w, const int16_t *x) {
    const __m256i v = block_lanes(w, x);
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

/* Twice an 8 x 8 transpose of 32-bit lanes: pairs of rows, of pairs, then of halves. */
static inline void b_arrange(const block32 row[W], int16_t *to, int64_t ld) {
    for (int h = 0; h < 2; h++, to += 8 * ld) {
        __m256i a[8], b[8];
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm256_unpacklo_epi32(row[i].half[h], row[i + 1].half[h]);
            b[i + 1] = _mm256_unpackhi_epi32(row[i].half[h], row[i + 1].half[h]);
        }
        for (int i = 0; i < 8; i += 4) { /* a[i + j]: columns j and j + 4 of rows i .. i + 3 */
            a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        for (int j = 0; j < 4; j++) {
            _mm256_store_si256((__m256i *)(void *)(to + j * ld), _mm256_permute2x128_si256(a[j], a[4 + j], 0x20));
            _mm256_store_si256((__m256i *)(void *)(to + (j + 4) * ld), _mm256_permute2x128_si256(a[j], a[4 + j], 0x31));
        }
    }
}

#include "kernels/panel.c.h"

/* ---- stored blocks ---- */

typedef block32 (*block_values)(const uint8_t *block);
typedef float (*block_scale)(const uint8_t *block);

static inline block32 values_mxfp4(const uint8_t *block) {
    return b_codes(((const ml_block_mxfp4 *)block)->qs, e2m1_twice);
}
static inline block32 values_q8_0(const uint8_t *block) {
    return b_widen(((const ml_block_q8_0 *)block)->qs);
}
static inline float scale_q8_0(const uint8_t *block) {
    return _cvtsh_ss(((const ml_block_q8_0 *)block)->d);
}

/* One row against one column, block after block: what the faster ways must equal. */
static inline __attribute__((always_inline)) float dot_row(block_values values, block_scale scale, int64_t bytes,
                                                           const uint8_t *row, int64_t k, const void *column) {
    const int16_t *x = column_values(column);
    const float *scales = column_scales(column, k);
    float sum = 0;
    for (int64_t b = 0; b < k / BLOCK; b++) {
        const uint8_t *block = row + b * bytes;
        sum = __builtin_fmaf((float)b_dot(values(block), x + b * BLOCK), scale(block) * scales[b], sum);
    }
    return sum;
}

static inline __attribute__((always_inline)) void unpack_tile(block_values values, block_scale scale, int64_t bytes,
                                                              const uint8_t *w, int64_t stride, int64_t rows,
                                                              int64_t blocks, int16_t *tile, float *tile_scales) {
    for (int64_t b = 0; b < blocks; b++, tile += PAIRS * TILE * 2, tile_scales += TILE) {
        for (int64_t o = 0; o < TILE * bytes; o += 64)
            __builtin_prefetch(w + rows * stride + b * TILE * bytes + o, 0, 2);
        for (int64_t half = 0; half < TILE; half += W) {
            block32 row[W];
            for (int64_t r = 0; r < W; r++) {
                const uint8_t *block = w + (half + r < rows ? half + r : rows - 1) * stride + b * bytes;
                row[r] = values(block);
                tile_scales[half + r] = scale(block);
            }
            b_arrange(row, tile + half * 2, TILE * 2);
        }
    }
}

static void unpack(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t blocks, int16_t *tile,
                   float *tile_scales) {
    if (dtype == ML_MXFP4) {
        unpack_tile(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), w, stride, rows, blocks, tile, tile_scales);
    } else {
        unpack_tile(values_q8_0, scale_q8_0, sizeof(ml_block_q8_0), w, stride, rows, blocks, tile, tile_scales);
    }
}

/* ---- one column: stored blocks, 8 rows at a time ----
 *
 * The lanes of 8 rows are added up into one vector, so that each row's f32 sum takes the same steps as in a tile. */

/* Lane r: the sum of the lanes of d[r]. Pairs of rows share a vector, then four, then all eight. */
static inline __m256i sum_lanes(const __m256i d[W]) {
    __m256i t[4], u[2];
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(d[2 * i], d[2 * i + 1]),
                                _mm256_unpackhi_epi32(d[2 * i], d[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        u[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm256_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(u[0], u[1], 0x20), _mm256_permute2x128_si256(u[0], u[1], 0x31));
}

/* 8 rows. What follows them in memory is fetched ahead. */
static inline __attribute__((always_inline)) void dot_group(block_values values, block_scale scale, int64_t bytes,
                                                            const uint8_t *w, int64_t stride, int64_t k,
                                                            const void *column, float *y) {
    const float *scales = column_scales(column, k);
    const int16_t *x = column_values(column);
    const uint8_t *ahead = w + W * stride;
    _Alignas(32) float row_scales[W];
    __m256 sum = _mm256_setzero_ps();
    for (int64_t b = 0; b < k / BLOCK; b++, w += bytes, ahead += W * bytes) {
        __m256i dot[W];
        for (int64_t o = 0; o < W * bytes; o += 64) __builtin_prefetch(ahead + o, 0, 2);
#pragma GCC unroll 8
        for (int64_t r = 0; r < W; r++) {
            row_scales[r] = scale(w + r * stride);
            dot[r] = block_lanes(values(w + r * stride), x + b * BLOCK);
        }
        sum = f_add_scaled(sum, sum_lanes(dot), _mm256_mul_ps(_mm256_load_ps(row_scales), _mm256_set1_ps(scales[b])));
    }
    _mm256_storeu_ps(y, sum);
}

static void dot_mxfp4(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    int64_t r = 0;
    for (; r + W <= rows; r += W) {
        dot_group(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), w + r * stride, stride, k, column, y + r);
    }
    for (; r < rows; r++) y[r] = dot_row(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), w + r * stride, k, column);
}

static void dot_q8_0(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    int64_t r = 0;
    for (; r + W <= rows; r += W) {
        dot_group(values_q8_0, scale_q8_0, sizeof(ml_block_q8_0), w + r * stride, stride, k, column, y + r);
    }
    for (; r < rows; r++) y[r] = dot_row(values_q8_0, scale_q8_0, sizeof(ml_block_q8_0), w + r * stride, k, column);
}

void ml_kernels_avx2_panel(ml_kernels *table) {
    fill(table);
    table->integer_dot[ML_MXFP4] = dot_mxfp4;
    table->integer_dot[ML_Q8_0] = dot_q8_0;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx2_panel_unused;
#endif
