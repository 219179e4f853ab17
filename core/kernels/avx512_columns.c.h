/* Part of avx512_panel.c: up to FEW columns against 32 rows at a time, which are two sets of 16: four bytes of a
 * column, once in a register, are multiplied with both. With up to SOME columns 16 rows are better: memory then is
 * waited for, and what 32 rows read and fetch ahead is more than the L1 cache holds. */
#ifndef ML_KERNELS_AVX512_COLUMNS_H
#define ML_KERNELS_AVX512_COLUMNS_H

#include "kernels/avx512_bytes.c.h"

enum { SETS = 2 };

/* Adds block b of the sets (elements 0 .. 15 and 16 .. 31 as raised bytes, one 32-bit lane a row) and `count` columns
 * to their sums. No loop over the sets: GCC 12 would keep them in memory. */
static ALWAYS_INLINE void add_columns(const quads first[SETS], const quads second[SETS], const __m512 scales[SETS],
                                      int which, const uint8_t *columns, int64_t count, int64_t k, int64_t b,
                                      __m512 sum[][SETS]) {
    const __m512i zero = _mm512_setzero_si512();
    const int64_t step = ml_integer_bytes(k);
#pragma GCC unroll 1
    for (int64_t c = 0; c < count; c++) {
        const uint8_t *column = columns + c * step, *x = column + bytes_at(k) + block_bytes_at(b);
        const __m512i minus = _mm512_set1_epi32(block_sum(column, k, which, b));
        __m512i high_a = zero, high_b = zero, high2_a = zero, high2_b = zero;
        __m512i low_a = minus, low_b = minus, low2_a = zero, low2_b = zero;
#pragma GCC unroll 4
        for (int d = 0; d < QUADS; d++) {
            const __m512i high = four_bytes(x + 4 * d), high2 = four_bytes(x + 64 + 4 * d);
            const __m512i low = four_bytes(x + 128 + 4 * d), low2 = four_bytes(x + 192 + 4 * d);
            high_a = dot_bytes(high_a, first[0].v[d], high);
            high_b = dot_bytes(high_b, first[1].v[d], high);
            high2_a = dot_bytes(high2_a, second[0].v[d], high2);
            high2_b = dot_bytes(high2_b, second[1].v[d], high2);
            low_a = dot_bytes(low_a, first[0].v[d], low);
            low_b = dot_bytes(low_b, first[1].v[d], low);
            low2_a = dot_bytes(low2_a, second[0].v[d], low2);
            low2_b = dot_bytes(low2_b, second[1].v[d], low2);
        }
        sum[c][0] = add_block(sum[c][0], add_bytes(high_a, high2_a, low_a, low2_a), scales[0], column, k, b);
        sum[c][1] = add_block(sum[c][1], add_bytes(high_b, high2_b, low_b, low2_b), scales[1], column, k, b);
    }
}

/* Blocks [begin, end). What follows the rows in memory is fetched ahead. */
static ALWAYS_INLINE void add_blocks(const format f, const uint8_t *w, int64_t stride, int64_t k, int64_t begin,
                                     int64_t end, const uint8_t *columns, int64_t count, __m512 sum[][SETS]) {
    const uint8_t *ahead = w + TILE * stride + begin * TILE * f.bytes;
    for (int64_t b = begin; b < end; b++, ahead += TILE * f.bytes) {
        quads first[SETS], second[SETS];
        __m512 scales[SETS];
        for (int64_t o = 0; o < TILE * f.bytes; o += 64) __builtin_prefetch(ahead + o, 0, 3);
#pragma GCC unroll 1
        for (int s = 0; s < SETS; s++) {
            const uint8_t *at = w + s * W * stride + b * f.bytes;
            f.raised(at, stride, &first[s], &second[s]);
            first[s] = quads_transpose(first[s]);
            second[s] = quads_transpose(second[s]);
            scales[s] = f.scales(at, stride);
        }
        add_columns(first, second, scales, f.sums, columns, count, k, b, sum);
    }
}

/* Adds blocks [0, end) of MXFP4, whole groups of four, as add_blocks() does. */
static VBMI ALWAYS_INLINE void add_fours(const uint8_t *w, int64_t stride, int64_t k, int64_t end,
                                         const uint8_t *columns, int64_t count, __m512 sum[][SETS]) {
    enum { BYTES = sizeof(ml_block_mxfp4) };
    const uint8_t *ahead = w + TILE * stride;
    for (int64_t b = 0; b < end; b += 4) {
        quads codes[SETS][4];
        __m512i exponents[SETS];
        int plain[SETS];
#pragma GCC unroll 2
        for (int s = 0; s < SETS; s++) {
            open_fours(w + s * W * stride + b * BYTES, stride, codes[s], &exponents[s]);
            plain[s] = plain_exponents(exponents[s]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++, ahead += TILE * BYTES) {
            quads first[SETS], second[SETS];
            __m512 scales[SETS];
            for (int64_t o = 0; o < TILE * BYTES; o += 64) __builtin_prefetch(ahead + o, 0, 3);
#pragma GCC unroll 2
            for (int s = 0; s < SETS; s++) {
                const quads block = quads_transpose(codes[s][j]);
                look_up(&block, &first[s], &second[s]);
                scales[s] = half_power(exponents[s], j, plain[s]);
            }
            add_columns(first, second, scales, mxfp4.sums, columns, count, k, b + j, sum);
        }
    }
}

static ALWAYS_INLINE void clear_sums(int64_t count, __m512 sum[][SETS]) {
    for (int64_t c = 0; c < count; c++) sum[c][0] = sum[c][1] = _mm512_setzero_ps();
}

static ALWAYS_INLINE void store_sums(int64_t count, __m512 sum[][SETS], float *y, int64_t ldy) {
    for (int64_t c = 0; c < count; c++) {
        _mm512_storeu_ps(y + c * ldy, sum[c][0]);
        _mm512_storeu_ps(y + c * ldy + W, sum[c][1]);
    }
}

/* y = the products of TILE rows. */
static ALWAYS_INLINE void multiply_blocks(const format f, const uint8_t *w, int64_t stride, int64_t k,
                                          const uint8_t *columns, int64_t count, float *y, int64_t ldy) {
    __m512 sum[FEW][SETS];
    clear_sums(count, sum);
    add_blocks(f, w, stride, k, 0, k / BLOCK, columns, count, sum);
    store_sums(count, sum, y, ldy);
}

/* Multiplies rows of MXFP4 with `count` columns: groups of four blocks, then what is left. */
static VBMI void multiply_fours(const uint8_t *w, int64_t stride, int64_t k, const uint8_t *columns, int64_t count,
                                float *y, int64_t ldy) {
    const int64_t fours = k / BLOCK / 4 * 4;
    __m512 sum[FEW][SETS];
    clear_sums(count, sum);
    add_fours(w, stride, k, fours, columns, count, sum);
    add_blocks(mxfp4, w, stride, k, fours, k / BLOCK, columns, count, sum);
    store_sums(count, sum, y, ldy);
}

#endif
