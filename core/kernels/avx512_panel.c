/* Whole-number products with AVX-512 VNNI: tiles with vpdpwssd, few columns with vpdpbusd. */
#if defined(__x86_64__)

#include "base/cpu.h"

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
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
/* In assembly, because GCC 12 copies the sums of a loop of _mm512_dpwssd_epi32() to other registers and back. */
static inline vi i_dot(vi a, vi w, vi x) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(a) : "v"(w), "v"(x));
    return a;
}
static inline vf f_add_scaled(vf f, vi a, vf s) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), s, f);
}

static inline float top32(const float *x) {
    const __m512 a = _mm512_abs_ps(_mm512_loadu_ps(x)), b = _mm512_abs_ps(_mm512_loadu_ps(x + 16));
    const __mmask16 bad = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    return bad ? NAN : _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}
/* Tiles hold elements 4 i .. 4 i + 3 as the pairs (0, 2) and (1, 3): the order in which unpack() gets them. Does it,
 * and undoes it. */
static inline __m512i swap_middle(__m512i v) {
    return _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(v, 0xd8), 0xd8);
}
static inline void to_int16(const float *x, float inverse, int16_t *q) {
    const __m512 s = _mm512_set1_ps(inverse);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), s));
    const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), s));
    const __m512i low = _mm512_castsi256_si512(_mm512_cvtsepi32_epi16(a));
    _mm512_storeu_si512(q, swap_middle(_mm512_inserti64x4(low, _mm512_cvtsepi32_epi16(b), 1)));
}

#include "kernels/panel.c.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

#include "kernels/avx512_blocks.c.h"

/* ---- many columns ---- */

static ALWAYS_INLINE void unpack_tile(const format f, const uint8_t *w, int64_t stride, int64_t rows, int64_t blocks,
                                      int16_t *tile, float *tile_scales) {
    const uint8_t *ahead = w + rows * stride;
    block_copy copy;
    for (int64_t b = 0; b < blocks; b++, tile += PAIRS * TILE * 2, tile_scales += TILE, ahead += TILE * f.bytes) {
        for (int64_t o = 0; o < TILE * f.bytes; o += 64) __builtin_prefetch(ahead + o, 0, 2);
        for (int64_t half = 0; half < TILE; half += W) {
            const int64_t first = half < rows ? half : rows - 1;
            const uint8_t *at = w + first * stride + b * f.bytes;
            int64_t step = stride;
            full_rows(rows - first, f.bytes, &copy, &at, &step);
            f.pairs(at, step, tile + half * 2);
            _mm512_store_ps(tile_scales + half, f.scales(at, step));
        }
    }
}

static void unpack(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t blocks, int16_t *tile,
                   float *tile_scales) {
    if (dtype == ML_MXFP4) {
        unpack_tile(mxfp4, w, stride, rows, blocks, tile, tile_scales);
    } else {
        unpack_tile(q8_0, w, stride, rows, blocks, tile, tile_scales);
    }
}

/* ---- few columns: stored blocks, 16 rows against up to SOME columns, 32 against up to FEW ----
 *
 * vpdpbusd multiplies unsigned by signed bytes, so a product with int16 takes two: x = 256 h + l, both signed, and
 * sum(w x) = 256 sum((w + raise) h) + sum((w + raise) l) - raise sum(x). The last comes with the column. */

enum { SOME = 4, FEW = 64 }; /* with more than FEW, unpacking a tile is as good (measured on Zen 5) */

/* The bytes of a column, at a cache line behind its scales: for every four blocks the high bytes of their first halves,
 * those of the second, then the low ones likewise, 64 of each. Behind them the sums times -raise: those for MXFP4, then
 * those for Q8_0. */
static inline int64_t bytes_at(int64_t k) {
    return (k * 2 + k / BLOCK * 4 + 63) / 64 * 64;
}
static inline int64_t sums_at(int64_t k, int which) {
    return bytes_at(k) + (k + 4 * BLOCK - 1) / (4 * BLOCK) * (8 * BLOCK) + which * (k / BLOCK * 4);
}
static inline int64_t block_bytes_at(int64_t block) {
    return block / 4 * (8 * BLOCK) + block % 4 * 16;
}

static void quantize_and_split(const float *x, int64_t k, void *column) {
    quantize(x, k, column);
    const int16_t *q = column_values(column);
    uint8_t *const bytes = (uint8_t *)column + bytes_at(k);
    int32_t *const sums = (int32_t *)(void *)((uint8_t *)column + sums_at(k, 0));
    for (int64_t b = 0; b < k / BLOCK; b++) {
        const __m512i v = swap_middle(_mm512_loadu_si512(q + b * BLOCK));
        const __m512i tops = _mm512_srai_epi16(_mm512_adds_epi16(v, _mm512_set1_epi16(128)), 8);
        const __m256i high = _mm512_cvtepi16_epi8(tops), low = _mm512_cvtepi16_epi8(v);
        __m128i *to = (__m128i *)(void *)(bytes + block_bytes_at(b));
        _mm_store_si128(to, _mm256_castsi256_si128(high));
        _mm_store_si128(to + 4, _mm256_extracti128_si256(high, 1));
        _mm_store_si128(to + 8, _mm256_castsi256_si128(low));
        _mm_store_si128(to + 12, _mm256_extracti128_si256(low, 1));
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_madd_epi16(v, _mm512_set1_epi16(1)));
        sums[b] = -RAISE_MXFP4 * sum;
        sums[k / BLOCK + b] = -RAISE_Q8_0 * sum;
    }
}

static inline __m512i bytes16(const uint8_t *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* One 32-bit lane a row: the sum of the lane's four in q. */
static ALWAYS_INLINE __m512i sum_lanes(quads q) {
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(q.v[0], q.v[1]), _mm512_unpackhi_epi32(q.v[0], q.v[1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(q.v[2], q.v[3]), _mm512_unpackhi_epi32(q.v[2], q.v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Elements in two halves, as raised bytes, against those of a column: what sum_lanes() shall add up. Step by step for
 * all four, since the steps wait for one another. */
static ALWAYS_INLINE quads dot_quads(const quads *first, const quads *second, __m512i h0, __m512i h1, __m512i l0,
                                     __m512i l1) {
    quads h, l;
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        h.v[g] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first->v[g], h0);
        l.v[g] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first->v[g], l0);
    }
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        h.v[g] = _mm512_dpbusd_epi32(h.v[g], second->v[g], h1);
        l.v[g] = _mm512_dpbusd_epi32(l.v[g], second->v[g], l1);
    }
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) h.v[g] = _mm512_add_epi32(_mm512_slli_epi32(h.v[g], 8), l.v[g]);
    return h;
}

/* Adds the products of unsigned bytes and four signed ones. In assembly for the broadcast from memory, which GCC 12
 * makes an instruction of its own. */
static ALWAYS_INLINE __m512i dot_four(__m512i a, __m512i w, const uint8_t *x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w), "m"(*(const int32_t *)(const void *)x));
    return a;
}

/* 256 times the sums of the high bytes and those of the low ones. */
static ALWAYS_INLINE __m512i add_bytes(__m512i high, __m512i high2, __m512i low, __m512i low2) {
    return _mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(high, high2), 8), _mm512_add_epi32(low, low2));
}

/* 16 rows, one 32-bit lane each, against a block of a column; its sum is `sum`. */
static ALWAYS_INLINE __m512i dot_lanes(const quads *first, const quads *second, const uint8_t *x, int32_t sum) {
    __m512i h = _mm512_setzero_si512(), l = _mm512_set1_epi32(sum), h2 = h, l2 = h;
#pragma GCC unroll 4
    for (int d = 0; d < QUADS; d++) {
        h = dot_four(h, first->v[d], x + 4 * d);
        h2 = dot_four(h2, second->v[d], x + 64 + 4 * d);
        l = dot_four(l, first->v[d], x + 128 + 4 * d);
        l2 = dot_four(l2, second->v[d], x + 192 + 4 * d);
    }
    return add_bytes(h, h2, l, l2);
}

static ALWAYS_INLINE int32_t block_sum(const uint8_t *column, int64_t k, int which, int64_t b) {
    int32_t sum;
    memcpy(&sum, column + sums_at(k, which) + b * 4, sizeof sum);
    return sum;
}

/* Adds integers of block b of 16 rows and a column to `sum`. */
static ALWAYS_INLINE __m512 add_block(__m512 sum, __m512i integers, __m512 scales, const uint8_t *column, int64_t k,
                                      int64_t b) {
    float x_scale;
    memcpy(&x_scale, column + k * 2 + b * 4, sizeof x_scale);
    return f_add_scaled(sum, integers, _mm512_mul_ps(scales, _mm512_set1_ps(x_scale)));
}

/* Adds block b of 16 rows, one 32-bit lane each, and `count` columns to the sums. */
static ALWAYS_INLINE void dot_lanes_columns(const quads *first, const quads *second, __m512 scales, int which,
                                            const uint8_t *columns, int64_t count, int64_t k, int64_t b, __m512 sum[]) {
    const int64_t step = ml_integer_bytes(k);
#pragma GCC unroll 4
    for (int64_t c = 0; c < count; c++) {
        const uint8_t *column = columns + c * step, *x = column + bytes_at(k) + block_bytes_at(b);
        const __m512i integers = dot_lanes(first, second, x, block_sum(column, k, which, b));
        sum[c] = add_block(sum[c], integers, scales, column, k, b);
    }
}

/* Blocks [begin, end) of up to 16 rows; adds to sum[c] theirs with column c. What follows the rows in memory is fetched
 * ahead. For several columns it pays to bring each row into a lane of its own before, not the sums after. */
static ALWAYS_INLINE void dot_blocks(const format f, int64_t count, const uint8_t *w, int64_t stride, int64_t rows,
                                     int64_t k, int64_t begin, int64_t end, const uint8_t *columns, __m512 sum[]) {
    const uint8_t *ahead = w + rows * stride + begin * W * f.bytes;
    block_copy copy;
    for (int64_t b = begin; b < end; b++, ahead += W * f.bytes) {
        const uint8_t *at = w + b * f.bytes;
        int64_t ld = stride;
        quads first, second;
        full_rows(rows, f.bytes, &copy, &at, &ld);
        for (int64_t o = 0; o < W * f.bytes; o += 64) __builtin_prefetch(ahead + o, 0, 3);
        f.raised(at, ld, &first, &second);
        const __m512 scales = f.scales(at, ld);
        if (count == 1) {
            const uint8_t *x = columns + bytes_at(k) + block_bytes_at(b);
            const quads dots =
                dot_quads(&first, &second, bytes16(x), bytes16(x + 64), bytes16(x + 128), bytes16(x + 192));
            const __m512i minus = _mm512_set1_epi32(block_sum(columns, k, f.sums, b));
            sum[0] = add_block(sum[0], _mm512_add_epi32(sum_lanes(dots), minus), scales, columns, k, b);
        } else {
            first = quads_transpose(first);
            second = quads_transpose(second);
            dot_lanes_columns(&first, &second, scales, f.sums, columns, count, k, b, sum);
        }
    }
}

/* ---- eight rows of Q8_0 against one column ----
 *
 * So few because what is fetched ahead, as much as is being read, shall still be in the L1 cache when its turn comes:
 * 16 rows of 2,880 elements are 49 KB, more than it holds (on Zen 5 they streamed a seventh slower). */

enum { EIGHT = 8 };

/* Elements 16 .. 31 behind 0 .. 15, twice. */
static ALWAYS_INLINE __m512i both_halves(const uint8_t *x) {
    const __m128i first = _mm_load_si128((const void *)x), second = _mm_load_si128((const void *)(x + 64));
    return _mm512_broadcast_i64x4(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
}

/* A block of eight rows against that of a column, one row a lane. */
static ALWAYS_INLINE __m256i eight_dots(const uint8_t *w, int64_t stride, const uint8_t *x) {
    const __m512i h = both_halves(x), l = both_halves(x + 128), zero = _mm512_setzero_si512();
    quads dots;
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        const __m512i rows = raised_rows(w + g * stride, w + (4 + g) * stride);
        const __m512i high = _mm512_slli_epi32(_mm512_dpbusd_epi32(zero, rows, h), 8);
        dots.v[g] = _mm512_add_epi32(high, _mm512_dpbusd_epi32(zero, rows, l));
    }
    const __m512i lanes = sum_lanes(dots); /* the two of each half belong together */
    return _mm512_castsi512_si256(
        _mm512_add_epi32(_mm512_shuffle_i32x4(lanes, lanes, 0x88), _mm512_shuffle_i32x4(lanes, lanes, 0xdd)));
}

static ALWAYS_INLINE __m256 eight_scales(const uint8_t *w, int64_t stride) {
    uint16_t d[EIGHT];
#pragma GCC unroll 8
    for (int r = 0; r < EIGHT; r++) memcpy(&d[r], w + r * stride, sizeof d[r]);
    return _mm256_cvtph_ps(_mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5],
                                          (short)d[6], (short)d[7]));
}

static __m256 dot_eight(const uint8_t *w, int64_t stride, int64_t k, const uint8_t *column) {
    enum { BYTES = sizeof(ml_block_q8_0) };
    const uint8_t *ahead = w + EIGHT * stride;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t b = 0; b < k / BLOCK; b++, w += BYTES, ahead += EIGHT * BYTES) {
        for (int64_t o = 0; o < EIGHT * BYTES; o += 64) __builtin_prefetch(ahead + o, 0, 3);
        const __m256i dots = eight_dots(w, stride, column + bytes_at(k) + block_bytes_at(b));
        const __m256i integers = _mm256_add_epi32(dots, _mm256_set1_epi32(block_sum(column, k, q8_0.sums, b)));
        float x_scale;
        memcpy(&x_scale, column + k * 2 + b * 4, sizeof x_scale);
        const __m256 scale = _mm256_mul_ps(eight_scales(w, stride), _mm256_set1_ps(x_scale));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(integers), scale, sum);
    }
    return sum;
}

#include "kernels/avx512_fours.c.h"

static int vbmi; /* promised by cpuid */

static ALWAYS_INLINE void dot_columns(const format f, const uint8_t *w, int64_t stride, int64_t rows, int64_t k,
                                      const uint8_t *columns, int64_t count, float *y, int64_t ldy) {
    for (int64_t r = 0; r < rows; r += W, w += W * stride) {
        const int64_t some = rows - r < W ? rows - r : W;
        const int64_t fours = f.bytes == mxfp4.bytes && vbmi && some == W ? k / BLOCK / 4 * 4 : 0;
        __m512 sum[SOME];
        for (int64_t c = 0; c < count; c++) sum[c] = _mm512_setzero_ps();
        if (fours) dot_fours_some(count, w, stride, k, fours, columns, sum);
        dot_blocks(f, count, w, stride, some, k, fours, k / BLOCK, columns, sum);
        for (int64_t c = 0; c < count; c++) {
            _mm512_mask_storeu_ps(y + c * ldy + r, (__mmask16)((1u << some) - 1), sum[c]);
        }
    }
}

static void dot_mxfp4(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    dot_columns(mxfp4, w, stride, rows, k, column, 1, y, 0);
}
static void dot_q8_0(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    for (; rows >= EIGHT; rows -= EIGHT, w += EIGHT * stride, y += EIGHT) {
        _mm256_storeu_ps(y, dot_eight(w, stride, k, column));
    }
    if (rows > 0) dot_columns(q8_0, w, stride, rows, k, column, 1, y, 0);
}

#include "kernels/avx512_columns.c.h"

/* 32 rows at a time; of fewer, SOME columns. */
static ALWAYS_INLINE void multiply_few(const format f, const uint8_t *w, int64_t stride, int64_t rows, int64_t k,
                                       const uint8_t *columns, int64_t count, float *y, int64_t ldy) {
    const int64_t step = ml_integer_bytes(k);
    for (; count > SOME && rows >= TILE; rows -= TILE, w += TILE * stride, y += TILE) {
        if (f.bytes == mxfp4.bytes && vbmi) {
            multiply_fours(w, stride, k, columns, count, y, ldy);
        } else {
            multiply_blocks(f, w, stride, k, columns, count, y, ldy);
        }
    }
    for (int64_t c = 0; c < count; c += SOME) {
        const int64_t some = count - c < SOME ? count - c : SOME;
        dot_columns(f, w, stride, rows, k, columns + c * step, some, y + c * ldy, ldy);
    }
}

static void multiply_any(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                         int64_t count, float *y, int64_t ldy, void *scratch) {
    if (count > FEW) {
        integer_multiply(dtype, w, stride, rows, k, columns, count, y, ldy, scratch);
    } else if (dtype == ML_MXFP4) {
        multiply_few(mxfp4, w, stride, rows, k, columns, count, y, ldy);
    } else {
        multiply_few(q8_0, w, stride, rows, k, columns, count, y, ldy);
    }
}

void ml_kernels_avx512_panel(ml_kernels *table) {
    fill(table);
    vbmi = ml_cpu_get()->vbmi;
    table->integer_quantize = quantize_and_split;
    table->integer_dot[ML_MXFP4] = dot_mxfp4;
    table->integer_dot[ML_Q8_0] = dot_q8_0;
    table->integer_multiply = multiply_any;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx512_panel_unused;
#endif
