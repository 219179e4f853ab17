/* Products with a sketch (model/sketch.h), written once for any width: what the files of attention to quantised pages
 * share, which have what it takes. Everything here is static. Expected before, besides some of what warm.c.h expects:
 *
 *   bytes4 four_bytes(p)       four bytes in every lane
 *   dot_bytes(s, codes, four)  adds the products with the low or the high ones of a codes4 */
#ifndef ML_KERNELS_SKETCH_H
#define ML_KERNELS_SKETCH_H

/* Vectors of rows at once, and columns whose sums of these fit the registers. */
enum { SKETCH_VECTORS = 4, SKETCH_COLUMNS = MOST4 == 8 ? 5 : 2, SKETCH_AHEAD = 2048 };

/* Rows [at, at + SKETCH_VECTORS W) of a tile and `count` columns of `all`. */
static ALWAYS_INLINE void sketch_columns(const uint8_t *codes, int64_t k, int64_t at, const int8_t *columns,
                                         int64_t all, const int count, int32_t *sums) {
    sums4 sum[SKETCH_COLUMNS][SKETCH_VECTORS];
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) {
#pragma GCC unroll 4
        for (int v = 0; v < SKETCH_VECTORS; v++) sum[c][v] = zero4();
    }
    codes += at * 4;
    for (int64_t i = 0; i < k; i += 8, codes += ML_SKETCH_ROWS * 4, columns += all * 8) {
        codes4 eight[SKETCH_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < SKETCH_VECTORS; v++) {
            __builtin_prefetch(codes + v * W * 4 + SKETCH_AHEAD);
            eight[v] = load4(codes + v * W * 4);
        }
#pragma GCC unroll 8
        for (int c = 0; c < count; c++) {
            const bytes4 first = four_bytes(columns + c * 8);
#pragma GCC unroll 4
            for (int v = 0; v < SKETCH_VECTORS; v++) sum[c][v] = dot_bytes(sum[c][v], eight[v].low, first);
        }
#pragma GCC unroll 8
        for (int c = 0; c < count; c++) {
            const bytes4 second = four_bytes(columns + c * 8 + 4);
#pragma GCC unroll 4
            for (int v = 0; v < SKETCH_VECTORS; v++) sum[c][v] = dot_bytes(sum[c][v], eight[v].high, second);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) {
#pragma GCC unroll 4
        for (int v = 0; v < SKETCH_VECTORS; v++) i_store(sums + c * ML_SKETCH_ROWS + at + v * W, total4(sum[c][v]));
    }
}

/* See ml_kernels.sketch. */
static void sketch(const uint8_t *codes, int64_t k, const int8_t *columns, int64_t count, int32_t *sums) {
    for (int64_t at = 0; at < ML_SKETCH_ROWS; at += SKETCH_VECTORS * W) {
        int64_t c = 0;
        for (; c + SKETCH_COLUMNS <= count; c += SKETCH_COLUMNS) {
            sketch_columns(codes, k, at, columns + c * 8, count, SKETCH_COLUMNS, sums + c * ML_SKETCH_ROWS);
        }
        for (; c + 2 <= count; c += 2) {
            sketch_columns(codes, k, at, columns + c * 8, count, 2, sums + c * ML_SKETCH_ROWS);
        }
        if (c < count) sketch_columns(codes, k, at, columns + c * 8, count, 1, sums + c * ML_SKETCH_ROWS);
    }
}

#endif
