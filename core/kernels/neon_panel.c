/* Whole-number products with SDOT (ARMv8.2 dotprod), which multiplies bytes: four products and their sum in each lane,
 * four times as many an instruction as in f32. An activation is an int16 of the form 256 high + low with both bytes
 * signed; so a product with a weight of one byte takes two of these, and is exact. Compiled and run under qemu only,
 * never timed.
 *
 * Weights of MXFP4 and Q8_0 are bytes times a scale for each block of 32. Within a block the products are summed in
 * int32 without loss; block after block, these sums go into one f32 sum. That order is the same for one column and for
 * many, so a row's result does not depend on what else is in the batch. */
#if defined(__aarch64__)
#include "dtype/blocks.h"
#include "dtype/dtype.h"
#include "kernels/set.h"

#include <arm_neon.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

enum {
    W = 4, /* rows that a vector of sums holds */
    BLOCK = ML_INTEGER_BLOCK,
    QUADS = BLOCK / 4,
    TILE = 2 * W,             /* rows that are unpacked together */
    COLUMNS = 4,              /* of a micro tile: 8 sums in int32, 8 in f32, and operands fit the 32 registers */
    LARGEST = 127 * 256 + 127 /* of an activation */
};

/* ---- columns: for each block 32 high bytes, then 32 low bytes; after all blocks their scales ---- */

static inline float *column_scales(const void *column, int64_t k) {
    return (float *)(void *)((uint8_t *)column + k * 2);
}

static float top32(const float *x) {
    float32x4_t top = vdupq_n_f32(0);
    for (int i = 0; i < BLOCK; i += W) top = vmaxq_f32(top, vabsq_f32(vld1q_f32(x + i))); /* NaN stays */
    return vmaxvq_f32(top);
}

/* Eight floats to int16. The bounds matter where `inverse` overflows: x below 1e-34. */
static inline int16x8_t to_int16(const float *x, float inverse) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), inverse));
    const int16x8_t q = vqmovn_high_s32(vqmovn_s32(a), b);
    return vmaxq_s16(vminq_s16(q, vdupq_n_s16(LARGEST)), vdupq_n_s16(-LARGEST));
}

static void quantize(const float *x, int64_t k, void *column) {
    float *scales = column_scales(column, k);
    int8_t *bytes = column;
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK, bytes += 2 * BLOCK) {
        const float top = top32(x), inverse = top > 0 ? LARGEST / top : 0;
        for (int i = 0; i < BLOCK; i += 8) {
            const int16x8_t q = to_int16(x + i, inverse);
            vst1_s8(bytes + i, vrshrn_n_s16(q, 8));
            vst1_s8(bytes + BLOCK + i, vmovn_s16(q));
        }
        scales[b] = top / LARGEST;
    }
}

/* ---- stored blocks ---- */

/* Half of the scale 2^(code - 127) for every e8m0 code: the values of e2m1 codes are taken twice, as integers. */
static float e8m0_half[256];

typedef int8x16x2_t (*block_values)(const uint8_t *block);
typedef float (*block_scale)(const uint8_t *block);

static inline int8x16x2_t values_mxfp4(const uint8_t *block) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const uint8x16_t codes = vld1q_u8(((const ml_block_mxfp4 *)block)->qs);
    const int8x16_t table = vld1q_s8(twice);
    return (int8x16x2_t){{vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15))), vqtbl1q_s8(table, vshrq_n_u8(codes, 4))}};
}
static inline float scale_mxfp4(const uint8_t *block) {
    return e8m0_half[((const ml_block_mxfp4 *)block)->e];
}
static inline int8x16x2_t values_q8_0(const uint8_t *block) {
    const int8_t *qs = ((const ml_block_q8_0 *)block)->qs;
    return (int8x16x2_t){{vld1q_s8(qs), vld1q_s8(qs + 16)}};
}
static inline float scale_q8_0(const uint8_t *block) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(((const ml_block_q8_0 *)block)->d))), 0);
}

/* ---- one column: stored blocks, four rows at a time ---- */

/* The products of a block with a block of a column; the sum of the four lanes is what counts. */
static inline int32x4_t block_lanes(int8x16x2_t w, const int8_t *x) {
    int32x4_t dot = vdotq_s32(vdupq_n_s32(0), w.val[0], vld1q_s8(x));
    dot = vshlq_n_s32(vdotq_s32(dot, w.val[1], vld1q_s8(x + 16)), 8);
    dot = vdotq_s32(dot, w.val[0], vld1q_s8(x + 32));
    return vdotq_s32(dot, w.val[1], vld1q_s8(x + 48));
}

/* Of `rows` < 4 rows the last is repeated. What follows them in memory is fetched ahead. */
static ALWAYS_INLINE void dot_group(block_values values, block_scale scale, int64_t bytes, const uint8_t *w,
                                    int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    const float *scales = column_scales(column, k);
    const int8_t *x = column;
    const uint8_t *row[W], *ahead = w + rows * stride;
    for (int r = 0; r < W; r++) row[r] = w + (r < rows ? r : rows - 1) * stride;
    float32x4_t sum = vdupq_n_f32(0);
    for (int64_t at = 0; at < k / BLOCK * bytes; at += bytes, x += 2 * BLOCK, scales++, ahead += W * bytes) {
        for (int64_t o = 0; o < W * bytes; o += 64) __builtin_prefetch((const void *)((uintptr_t)ahead + (uintptr_t)o));
        int32x4_t dot[W];
        float32x4_t s = vdupq_n_f32(scale(row[0] + at));
        for (int r = 0; r < W; r++) dot[r] = block_lanes(values(row[r] + at), x);
        s = vsetq_lane_f32(scale(row[1] + at), s, 1);
        s = vsetq_lane_f32(scale(row[2] + at), s, 2);
        s = vsetq_lane_f32(scale(row[3] + at), s, 3);
        const int32x4_t total = vpaddq_s32(vpaddq_s32(dot[0], dot[1]), vpaddq_s32(dot[2], dot[3]));
        sum = vfmaq_f32(sum, vcvtq_f32_s32(total), vmulq_n_f32(s, *scales));
    }
    float lanes[W];
    vst1q_f32(lanes, sum);
    memcpy(y, lanes, (size_t)rows * sizeof *y);
}

static ALWAYS_INLINE void dot_rows(block_values values, block_scale scale, int64_t bytes, const uint8_t *w,
                                   int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    int64_t r = 0;
    for (; r + W <= rows; r += W) dot_group(values, scale, bytes, w + r * stride, stride, W, k, column, y + r);
    if (r < rows) dot_group(values, scale, bytes, w + r * stride, stride, rows - r, k, column, y + r);
}

static void dot_mxfp4(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    dot_rows(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), w, stride, rows, k, column, y);
}

static void dot_q8_0(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column, float *y) {
    dot_rows(values_q8_0, scale_q8_0, sizeof(ml_block_q8_0), w, stride, rows, k, column, y);
}

/* ---- many columns: tiles unpacked once ---- */

/* Four elements of each of four rows a vector: vector q of `to`, 2 W W bytes apart, gets elements 4 q on. */
static inline void arrange(const int8x16_t row[W], int8_t *to) {
    int32x4_t r[W];
    for (int i = 0; i < W; i++) r[i] = vreinterpretq_s32_s8(row[i]);
    const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(r[0], r[1])); /* of rows 0 and 1: quads 0 and 2 */
    const int64x2_t b = vreinterpretq_s64_s32(vtrn2q_s32(r[0], r[1])); /* 1 and 3 */
    const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(r[2], r[3]));
    const int64x2_t d = vreinterpretq_s64_s32(vtrn2q_s32(r[2], r[3]));
    vst1q_s8(to, vreinterpretq_s8_s64(vtrn1q_s64(a, c)));
    vst1q_s8(to + 4 * TILE, vreinterpretq_s8_s64(vtrn1q_s64(b, d)));
    vst1q_s8(to + 8 * TILE, vreinterpretq_s8_s64(vtrn2q_s64(a, c)));
    vst1q_s8(to + 12 * TILE, vreinterpretq_s8_s64(vtrn2q_s64(b, d)));
}

/* TILE rows to bytes {blocks, QUADS, TILE, 4} and scales {blocks, TILE}. Of `rows` < TILE rows the last is repeated. */
static ALWAYS_INLINE void unpack_tile(block_values values, block_scale scale, int64_t bytes, const uint8_t *w,
                                      int64_t stride, int64_t rows, int64_t blocks, int8_t *tile, float *tile_scales) {
    for (int64_t b = 0; b < blocks; b++, tile += BLOCK * TILE, tile_scales += TILE) {
        const uint8_t *ahead = w + rows * stride + b * TILE * bytes;
        for (int64_t o = 0; o < TILE * bytes; o += 64)
            __builtin_prefetch((const void *)((uintptr_t)ahead + (uintptr_t)o));
        for (int64_t half = 0; half < TILE; half += W) {
            int8x16_t low[W], high[W];
            for (int64_t r = 0; r < W; r++) {
                const uint8_t *block = w + (half + r < rows ? half + r : rows - 1) * stride + b * bytes;
                const int8x16x2_t q = values(block);
                low[r] = q.val[0], high[r] = q.val[1];
                tile_scales[half + r] = scale(block);
            }
            arrange(low, tile + half * 4);
            arrange(high, tile + half * 4 + BLOCK / 2 * TILE);
        }
    }
}

/* sum + w times four bytes of x, those of that lane: the instruction holds its number. */
static ALWAYS_INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, const int lane) {
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, w, x, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, x, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, x, 2);
    default:
        return vdotq_laneq_s32(sum, w, x, 3);
    }
}

/* dot[c][..] += TILE rows times the 32 bytes at x of each column. */
static ALWAYS_INLINE void add_bytes(const int columns, const int8_t *tile, const int8_t *x, int64_t step,
                                    int32x4_t dot[][2]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++, x += BLOCK / 2) {
        int8x16_t quads[COLUMNS];
        for (int c = 0; c < columns; c++) quads[c] = vld1q_s8(x + c * step);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++, tile += 4 * TILE) {
            const int8x16_t w0 = vld1q_s8(tile), w1 = vld1q_s8(tile + 16);
            __asm__ volatile("" ::: "memory"); /* gcc 12 would load the whole tile first, and have sums in memory */
            for (int c = 0; c < columns; c++) {
                dot[c][0] = dot_lane(dot[c][0], w0, quads[c], q);
                dot[c][1] = dot_lane(dot[c][1], w1, quads[c], q);
            }
        }
    }
}

/* TILE rows against `columns` columns, `step` bytes apart, of `blocks` blocks; adds to y unless `first`. */
static ALWAYS_INLINE void micro(const int columns, const int8_t *tile, const float *tile_scales, int64_t blocks,
                                const int8_t *x, const float *scales, int64_t step, int first, float *y, int64_t ldy) {
    float32x4_t sum[COLUMNS][2];
    for (int c = 0; c < columns; c++) {
        sum[c][0] = first ? vdupq_n_f32(0) : vld1q_f32(y + c * ldy);
        sum[c][1] = first ? vdupq_n_f32(0) : vld1q_f32(y + c * ldy + W);
    }
    for (int64_t b = 0; b < blocks; b++, tile += BLOCK * TILE, tile_scales += TILE, x += 2 * BLOCK) {
        int32x4_t dot[COLUMNS][2];
        for (int c = 0; c < columns; c++) dot[c][0] = dot[c][1] = vdupq_n_s32(0);
        add_bytes(columns, tile, x, step, dot);
        for (int c = 0; c < columns; c++) {
            dot[c][0] = vshlq_n_s32(dot[c][0], 8);
            dot[c][1] = vshlq_n_s32(dot[c][1], 8);
        }
        add_bytes(columns, tile, x + BLOCK, step, dot);
        const float32x4_t s0 = vld1q_f32(tile_scales), s1 = vld1q_f32(tile_scales + W);
        for (int c = 0; c < columns; c++) {
            const float s = scales[c * (step / 4) + b];
            sum[c][0] = vfmaq_f32(sum[c][0], vcvtq_f32_s32(dot[c][0]), vmulq_n_f32(s0, s));
            sum[c][1] = vfmaq_f32(sum[c][1], vcvtq_f32_s32(dot[c][1]), vmulq_n_f32(s1, s));
        }
    }
    for (int c = 0; c < columns; c++) {
        vst1q_f32(y + c * ldy, sum[c][0]);
        vst1q_f32(y + c * ldy + W, sum[c][1]);
    }
}

/* The micro tile of each number of columns is compiled by itself, so that its sums stay in registers. */
static void micro_some(int64_t columns, const int8_t *tile, const float *tile_scales, int64_t blocks, const int8_t *x,
                       const float *scales, int64_t step, int first, float *y, int64_t ldy) {
    switch (columns) {
    case 1:
        micro(1, tile, tile_scales, blocks, x, scales, step, first, y, ldy);
        break;
    case 2:
        micro(2, tile, tile_scales, blocks, x, scales, step, first, y, ldy);
        break;
    case 3:
        micro(3, tile, tile_scales, blocks, x, scales, step, first, y, ldy);
        break;
    default:
        micro(4, tile, tile_scales, blocks, x, scales, step, first, y, ldy);
    }
}

static void copy_edge(const float *from, int64_t ld_from, float *to, int64_t ld_to, int64_t columns, int64_t rows) {
    for (int64_t c = 0; c < columns; c++) memcpy(to + c * ld_to, from + c * ld_from, (size_t)rows * sizeof *to);
}

/* A tile of `rows` rows and n elements from element `from` of the columns on. Where rows are missing, the results go
 * through `edge`. */
static void multiply_tile(const int8_t *tile, const float *tile_scales, int64_t rows, int64_t from, int64_t n,
                          int64_t k, const void *columns, int64_t count, float *y, int64_t ldy) {
    const int64_t step = ml_integer_bytes(k);
    float edge[COLUMNS * TILE];
    for (int64_t c = 0; c < count; c += COLUMNS) {
        const int64_t some = count - c < COLUMNS ? count - c : COLUMNS;
        const int8_t *column = (const int8_t *)columns + c * step;
        const int whole = rows == TILE;
        if (!whole && from > 0) copy_edge(y + c * ldy, ldy, edge, TILE, some, rows);
        micro_some(some, tile, tile_scales, n / BLOCK, column + from * 2, column_scales(column, k) + from / BLOCK, step,
                   from == 0, whole ? y + c * ldy : edge, whole ? ldy : TILE);
        if (!whole) copy_edge(edge, TILE, y + c * ldy, ldy, some, rows);
    }
}

/* See ml_kernels.integer_multiply. Long rows go in chunks, so that a tile stays near. */
static void integer_multiply(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                             int64_t count, float *y, int64_t ldy, void *scratch) {
    int8_t *tile = scratch;
    float *tile_scales = (float *)(void *)(tile + TILE * ML_INTEGER_CHUNK);
    for (int64_t r = 0; r < rows; r += TILE) {
        const int64_t some = rows - r < TILE ? rows - r : TILE;
        for (int64_t from = 0; from < k; from += ML_INTEGER_CHUNK) {
            const int64_t n = k - from < ML_INTEGER_CHUNK ? k - from : ML_INTEGER_CHUNK, blocks = n / BLOCK;
            const uint8_t *part = w + r * stride + from / BLOCK * ml_dtype_bytes(dtype);
            if (dtype == ML_MXFP4) {
                unpack_tile(values_mxfp4, scale_mxfp4, sizeof(ml_block_mxfp4), part, stride, some, blocks, tile,
                            tile_scales);
            } else {
                unpack_tile(values_q8_0, scale_q8_0, sizeof(ml_block_q8_0), part, stride, some, blocks, tile,
                            tile_scales);
            }
            multiply_tile(tile, tile_scales, some, from, n, k, columns, count, y + r, ldy);
        }
    }
}

/* The yardstick: ten sums hide the latency. Two byte products make one with int16, so each counts half. */
static double multiply_rounds(int64_t rounds) {
    const int8x16_t x = vdupq_n_s8(1);
    int32x4_t a = vdupq_n_s32(0), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
    for (int64_t r = 0; r < rounds; r++) {
        a = vdotq_s32(a, x, x), b = vdotq_s32(b, x, x), c = vdotq_s32(c, x, x), d = vdotq_s32(d, x, x);
        e = vdotq_s32(e, x, x), f = vdotq_s32(f, x, x), g = vdotq_s32(g, x, x), h = vdotq_s32(h, x, x);
        i = vdotq_s32(i, x, x), j = vdotq_s32(j, x, x);
        __asm__ volatile("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d), "+w"(e), "+w"(f), "+w"(g), "+w"(h), "+w"(i), "+w"(j));
    }
    return (double)rounds * 10 * W * 4 * 2 / 2;
}

void ml_kernels_neon_panel(ml_kernels *table) {
    for (int code = 0; code < 256; code++) e8m0_half[code] = 0.5f * ml_e8m0_to_f32((uint8_t)code);
    table->integer_quantize = quantize;
    table->integer_dot[ML_MXFP4] = dot_mxfp4;
    table->integer_dot[ML_Q8_0] = dot_q8_0;
    table->integer_multiply = integer_multiply;
    table->multiply_rounds = multiply_rounds;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_neon_panel_unused;
#endif
