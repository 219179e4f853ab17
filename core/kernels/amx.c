/* Tiles of bf16 on Intel's matrix unit (AMX-TILE, AMX-BF16: Sapphire Rapids and later). */
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The memory operand of ldtilecfg, palette 1 (Intel SDM 1, 18.3). */
typedef struct tile_config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* A tile whose rows are columns of the product may have fewer than 16: the time goes with them. */
static inline void t_configure(int64_t a, int64_t b) {
    tile_config config = {.palette = 1};
    const uint8_t rows[8] = {(uint8_t)a, (uint8_t)a, (uint8_t)b, (uint8_t)b, (uint8_t)a, (uint8_t)b, 16, 16};
    memcpy(config.rows, rows, sizeof rows);
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64;
    __asm__ volatile("" ::: "memory"); /* GCC 12 thinks that ldtilecfg reads 8 bytes */
    _tile_loadconfig(&config);
}
static inline void t_release(void) {
    _tile_release();
}

/* The barrier: GCC's _tile_loadd does not say that it reads memory. */
#define t_load(n, from, bytes)                                                                                         \
    do {                                                                                                               \
        __asm__ volatile("" ::: "memory");                                                                             \
        _tile_loadd(n, from, bytes);                                                                                   \
    } while (0)
#define t_store(n, to, bytes) _tile_stored(n, to, bytes)
#define t_zero(n)             _tile_zero(n)
#define t_dot(c, a, b)        _tile_dpbf16ps(c, a, b)

enum { PEAK_SHARE = 16 };

#include "kernels/tile.c.h"

void ml_kernels_amx(ml_kernels *table) {
    fill(table, "amx");
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_amx_unused;
#endif
