/* Whole-number products. Included by avx2_panel.c and avx512_panel.c only, which define the primitives that differ, how
 * rows are unpacked, and the product with one column; everything is static.
 *
 * MXFP4 and Q8_0 weights are integers times a scale for each block of 32; activations are made so, as int16.
 * Within a block the products are summed in int32 without loss (32 * 128 * 32767 < 2^31); block after block, these sums
 * go into one f32 sum. That order is the same for few columns and for many, so a row's result does not depend on what
 * else is in the batch. Multiplying int16 pairs runs at twice the rate of f32 products.
 *
 * Expected before: W (int32 lanes of a vector), vi and vf (vectors of int32 and float), COLUMNS (columns of a micro
 * tile), and
 *   i_zero f_zero i_load f_load f_loadu f_storeu f_set
 *   i_pair(p)        the two int16 at p in every lane
 *   i_dot(a, w, x)   a + the sum of the two products in each lane
 *   f_add_scaled(f, a, s)   f + (float)a * s
 *   to_int16(x, inverse, q)     32 floats times `inverse`, rounded to nearest even, in the order that tiles have
 *   top32(x)         the largest |x| of 32 floats, NaN if there is one
 * and after it: unpack(). */
#include "base/memory.h"
#include "dtype/blocks.h"
#include "dtype/dtype.h"
#include "kernels/set.h"

#include <math.h>

enum {
    BLOCK = ML_INTEGER_BLOCK,
    TILE = 2 * W,
    PAIRS = BLOCK / 2,
    LARGEST = 127 * 257 /* of an activation: its bytes, both taken as signed, are at most 127 */
};

/* ---- columns: see ml_integer_bytes ---- */

static inline int16_t *column_values(const void *column) {
    return (int16_t *)column;
}
static inline float *column_scales(const void *column, int64_t k) {
    return (float *)(void *)((uint8_t *)column + k * 2);
}

static void quantize(const float *x, int64_t k, void *column) {
    int16_t *q = column_values(column);
    float *scales = column_scales(column, k);
    for (int64_t b = 0; b < k / BLOCK; b++) {
        const float top = top32(x + b * BLOCK);
        to_int16(x + b * BLOCK, top > 0 ? LARGEST / top : 0.0f, q + b * BLOCK);
        scales[b] = top / LARGEST;
    }
}

/* ---- stored blocks ---- */

/* Twice the values of e2m1 codes, integers; and half of the scale 2^(code - 127) for every e8m0 code. */
static const int8_t e2m1_twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static float e8m0_half[256];

static inline float scale_mxfp4(const uint8_t *block) {
    return e8m0_half[((const ml_block_mxfp4 *)block)->e];
}

/* ---- many columns: tiles unpacked once ---- */

/* TILE rows to pairs {blocks * PAIRS, TILE} and scales {blocks, TILE}. Of `rows` < TILE rows the last is repeated. What
 * follows them in memory is fetched ahead. */
static void unpack(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t blocks, int16_t *tile,
                   float *tile_scales);

/* TILE rows against `columns` columns of `blocks` blocks; adds to y unless `first`. Column c's values are at x + c *
 * ldx, its scales at scales + c * ld_scales. */
static inline __attribute__((always_inline)) void micro(const int columns, const int16_t *tile,
                                                        const float *tile_scales, int64_t blocks, const int16_t *x,
                                                        int64_t ldx, const float *scales, int64_t ld_scales, int first,
                                                        float *y, int64_t ldy) {
    vf sum[COLUMNS][2];
    for (int c = 0; c < columns; c++) {
        sum[c][0] = first ? f_zero() : f_loadu(y + c * ldy);
        sum[c][1] = first ? f_zero() : f_loadu(y + c * ldy + W);
    }
    for (int64_t b = 0; b < blocks; b++) {
        vi dot[COLUMNS][2];
        for (int c = 0; c < columns; c++) dot[c][0] = dot[c][1] = i_zero();
#pragma GCC unroll 4
        for (int p = 0; p < PAIRS; p++, tile += 2 * TILE) {
            const vi w0 = i_load(tile), w1 = i_load(tile + 2 * W);
            for (int c = 0; c < columns; c++) {
                const vi pair = i_pair(x + c * ldx + b * BLOCK + p * 2);
                dot[c][0] = i_dot(dot[c][0], w0, pair);
                dot[c][1] = i_dot(dot[c][1], w1, pair);
            }
        }
        const vf s0 = f_load(tile_scales), s1 = f_load(tile_scales + W);
        tile_scales += TILE;
        for (int c = 0; c < columns; c++) {
            const vf s = f_set(scales[c * ld_scales + b]);
            sum[c][0] = f_add_scaled(sum[c][0], dot[c][0], s0 * s);
            sum[c][1] = f_add_scaled(sum[c][1], dot[c][1], s1 * s);
        }
    }
    for (int c = 0; c < columns; c++) {
        f_storeu(y + c * ldy, sum[c][0]);
        f_storeu(y + c * ldy + W, sum[c][1]);
    }
}

/* The micro tile of each number of columns is compiled by itself, so that its sums stay in registers. */
static void micro_some(int64_t columns, const int16_t *tile, const float *tile_scales, int64_t blocks, const int16_t *x,
                       int64_t ldx, const float *scales, int64_t ld_scales, int first, float *y, int64_t ldy) {
    switch (columns) {
    case 1:
        micro(1, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
    case 2:
        micro(2, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
    case 3:
        micro(3, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
    case 4:
        micro(4, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
#if COLUMNS > 4
    case 5:
        micro(5, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
    case 6:
        micro(6, tile, tile_scales, blocks, x, ldx, scales, ld_scales, first, y, ldy);
        break;
#endif
    }
}

static void copy_edge(const float *from, int64_t ld_from, float *to, int64_t ld_to, int64_t columns, int64_t rows) {
    for (int64_t c = 0; c < columns; c++) memcpy(to + c * ld_to, from + c * ld_from, (size_t)rows * sizeof *to);
}

/* A tile of `rows` rows and n elements from element `from` of the columns on. Where rows are missing, the results go
 * through `edge`. */
static void multiply_tile(const int16_t *tile, const float *tile_scales, int64_t rows, int64_t from, int64_t n,
                          int64_t k, const void *columns, int64_t count, float *y, int64_t ldy, float *edge) {
    const int64_t step = ml_integer_bytes(k);
    const int whole = rows == TILE;
    int64_t turns =
        (count + COLUMNS - 1) / COLUMNS; /* of about the same size: one or two columns take nearly as long */
    for (int64_t c = 0, some; c < count; c += some, turns--) {
        some = (count - c) / turns;
        const uint8_t *column = (const uint8_t *)columns + c * step;
        if (!whole && from > 0) copy_edge(y + c * ldy, ldy, edge, TILE, some, rows);
        micro_some(some, tile, tile_scales, n / BLOCK, column_values(column) + from, step / 2,
                   column_scales(column, k) + from / BLOCK, step / 4, from == 0, whole ? y + c * ldy : edge,
                   whole ? ldy : TILE);
        if (!whole) copy_edge(edge, TILE, y + c * ldy, ldy, some, rows);
    }
}

/* See ml_kernels.integer_multiply. Long rows go in chunks, so that a tile stays in the L2 cache. */
static void integer_multiply(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                             int64_t count, float *y, int64_t ldy, void *scratch) {
    int16_t *tile = scratch;
    float *tile_scales = (float *)(void *)(tile + TILE * ML_INTEGER_CHUNK);
    float *edge = tile_scales + TILE * ML_INTEGER_CHUNK / BLOCK;
    for (int64_t r = 0; r < rows; r += TILE) {
        const int64_t some = rows - r < TILE ? rows - r : TILE;
        for (int64_t from = 0; from < k; from += ML_INTEGER_CHUNK) {
            const int64_t n = k - from < ML_INTEGER_CHUNK ? k - from : ML_INTEGER_CHUNK;
            const uint8_t *part = w + r * stride + from / BLOCK * ml_dtype_bytes(dtype);
            unpack(dtype, part, stride, some, n / BLOCK, tile, tile_scales);
            multiply_tile(tile, tile_scales, some, from, n, k, columns, count, y + r, ldy, edge);
        }
    }
}

/* The yardstick: ten sums hide the latency of a multiplication. `w` looks new each time, or the compiler would multiply
 * once for all. */
static double multiply_rounds(int64_t rounds) {
    enum { SUMS = 10 };
    vi x = i_zero();
    __asm__ volatile("" : "+v"(x));
    vi w = x, a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(w));
        a = i_dot(a, w, x);
        __asm__ volatile("" : "+v"(w));
        b = i_dot(b, w, x);
        __asm__ volatile("" : "+v"(w));
        c = i_dot(c, w, x);
        __asm__ volatile("" : "+v"(w));
        d = i_dot(d, w, x);
        __asm__ volatile("" : "+v"(w));
        e = i_dot(e, w, x);
        __asm__ volatile("" : "+v"(w));
        f = i_dot(f, w, x);
        __asm__ volatile("" : "+v"(w));
        g = i_dot(g, w, x);
        __asm__ volatile("" : "+v"(w));
        h = i_dot(h, w, x);
        __asm__ volatile("" : "+v"(w));
        i = i_dot(i, w, x);
        __asm__ volatile("" : "+v"(w));
        j = i_dot(j, w, x);
    }
    __asm__ volatile("" : : "v"(a), "v"(b), "v"(c), "v"(d), "v"(e), "v"(f), "v"(g), "v"(h), "v"(i), "v"(j));
    return (double)rounds * SUMS * W * 2 * 2;
}

static void fill(ml_kernels *table) {
    for (int code = 0; code < 256; code++) e8m0_half[code] = 0.5f * ml_e8m0_to_f32((uint8_t)code);
    table->integer_quantize = quantize;
    table->integer_multiply = integer_multiply;
    table->multiply_rounds = multiply_rounds;
}
