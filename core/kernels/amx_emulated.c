/* The code of amx.c over tiles in memory, so that it can be tested where there is no matrix unit: never chosen but by
 * its name. A product with 256 columns takes 4 (bf16) to 14 (MXFP4, Q8_0) times as long as with avx512.c (a core of Zen
 * 5); against a matrix unit nobody has measured it. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { EMULATED_TILES = 8, EMULATED_ROWS = 16 };

typedef struct emulated_tile {
    int rows;
    _Alignas(64) uint8_t row[EMULATED_ROWS][64];
} emulated_tile;

static _Thread_local emulated_tile tiles[EMULATED_TILES];

static void t_configure(int64_t a, int64_t b) {
    const int rows[EMULATED_TILES] = {(int)a, (int)a, (int)b, (int)b, (int)a, (int)b, EMULATED_ROWS, EMULATED_ROWS};
    memset(tiles, 0, sizeof tiles);
    for (int i = 0; i < EMULATED_TILES; i++) tiles[i].rows = rows[i];
}
/* A tile without rows does nothing: what forgets to configure multiplies nothing. */
static void t_release(void) {
    memset(tiles, 0, sizeof tiles);
}
static void t_zero(int n) {
    memset(tiles[n].row, 0, sizeof tiles[n].row);
}
static void t_load(int n, const void *from, int64_t bytes) {
    t_zero(n);
    for (int r = 0; r < tiles[n].rows; r++) memcpy(tiles[n].row[r], (const uint8_t *)from + r * bytes, 64);
}
static void t_store(int n, void *to, int64_t bytes) {
    for (int r = 0; r < tiles[n].rows; r++) memcpy((uint8_t *)to + r * bytes, tiles[n].row[r], 64);
}

/* Subnormal numbers to zero, as tdpbf16ps does to what it reads and writes. */
static inline __m512 flush(__m512 v) {
    const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7f800000));
    return _mm512_maskz_mov_ps(_mm512_test_epi32_mask(exponent, exponent), v);
}
static inline __m512 pick(__m512i pairs, int odd) {
    const __m512i bits =
        odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pairs, 16);
    return flush(_mm512_castsi512_ps(bits));
}

/* TDPBF16PS (Intel SDM 2): of every row, the first elements of all pairs and the second ones are summed each by
 * themselves with fused multiply-adds, then the two, then that is added to C. */
static void t_dot(int c, int a, int b) {
    __m512 even[EMULATED_ROWS], odd[EMULATED_ROWS];
    for (int i = 0; i < EMULATED_ROWS; i++) {
        const __m512i pairs = _mm512_load_si512(tiles[b].row[i]);
        even[i] = pick(pairs, 0);
        odd[i] = pick(pairs, 1);
    }
    for (int m = 0; m < tiles[c].rows; m++) {
        __m512 first = _mm512_setzero_ps(), second = _mm512_setzero_ps();
        for (int i = 0; i < EMULATED_ROWS; i++) {
            int32_t pair;
            memcpy(&pair, tiles[a].row[m] + i * 4, sizeof pair);
            const __m512i pairs = _mm512_set1_epi32(pair);
            first = flush(_mm512_fmadd_ps(pick(pairs, 0), even[i], first));
            second = flush(_mm512_fmadd_ps(pick(pairs, 1), odd[i], second));
        }
        const __m512 sum = flush(_mm512_add_ps(first, second));
        _mm512_store_ps(tiles[c].row[m], flush(_mm512_add_ps(flush(_mm512_load_ps(tiles[c].row[m])), sum)));
    }
}

enum { PEAK_SHARE = 4096 };

#include "kernels/tile.c.h"

void ml_kernels_amx_emulated(ml_kernels *table) {
    fill(table, "amx-emulated");
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_amx_emulated_unused;
#endif
