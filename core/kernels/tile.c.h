/* Products on a matrix unit with tiles of bf16. Included by amx.c and amx_emulated.c only, which define the primitives
 * that differ; everything is static.
 *
 * A tile holds 16 rows of 64 bytes. t_dot adds to C {16 columns, 16 rows} of f32 the product of A {16 columns, 32
 * elements}, activations as they lie, and B {16 pairs of elements, 16 rows}, weights unpacked: exactly where they have
 * no more than 8 significant bits (MXFP4, bf16), rounded else. Under precision "exact" both are split into two parts,
 * high + low, and all products are taken but low times low.
 *
 * Loop order, reckoned on paper for Sapphire Rapids (L1 48 KiB, L2 2 MiB; t_dot takes 16 cycles, loading a tile 8 from
 * L1 and about twice that from L2). Two tiles of columns times two of rows load 4 tiles for 4 t_dots: 64 cycles, in
 * which L2 can give about the half of these 4 KiB. So one side must come from L1: that is B, CHUNK elements of PANEL
 * rows (40 KiB), just unpacked. A comes from L2: the same elements of SPAN columns (640 KiB) serve all the panels of a
 * call, and as L3 gives some 8 bytes a cycle, a call should have several (ML_TILE_ROWS). C rests in tiles for a chunk
 * and in y between them: 8 loads or stores of tiles in 20 * 64 cycles. Unpacking 16 x 32 MXFP4 weights takes about 40
 * cycles, multiplying them one for each column: with 64 columns (512 tokens, 4 of 32 experts each) 0.6 of the peak is
 * left, with 256 0.85.
 *
 * Expected before, tiles being numbered by literals: t_configure(a, b) (sets the shapes and clears all tiles: 0 and 1
 * are C of `a` columns, 2 and 3 C of `b`, 4 and 5 A of `a` and of `b`, 6 and 7 B), t_release(), t_load(n, from, bytes)
 * and t_store(n, to, bytes) with the distance of the rows, t_zero(n), t_dot(c, a, b), and PEAK_SHARE: of the rounds
 * that it is asked for, the yardstick does one in so many. */
#include "dtype/blocks.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <math.h>

enum {
    BLOCK = ML_INTEGER_BLOCK,
    TILE = 16,
    PANEL = 2 * TILE,
    CHUNK = 640,           /* elements of a row that are unpacked at once, up to whole blocks of the dtype */
    ROOM = CHUNK + 256,    /* so there must be room for this many */
    SPAN = 512,            /* columns */
    WORDS = TILE * BLOCK,  /* of a tile of bf16 */
    PART = PANEL * ROOM,   /* words of one part of an unpacked panel */
    MXFP4_TOP = 252,       /* the largest scale under which all e2m1 values are finite in bf16 */
    GATHER_LIMIT = 1 << 26 /* largest distance of rows that gathers can span */
};

typedef struct tile_scratch {
    _Alignas(64) uint16_t panel[2 * PART]; /* {parts, blocks, 2 tiles, pairs, rows, 2} */
    uint16_t rows[TILE * 2 * ROOM];        /* of a generic dtype as bf16 {rows, parts, elements} */
    float row[ROOM];
    float edge[PANEL * PANEL]; /* C of a panel with fewer rows */
} tile_scratch;
_Static_assert(sizeof(tile_scratch) <= ML_TILE_SCRATCH, "ML_TILE_SCRATCH is too small");

/* ---- bf16 ---- */

/* Rounded to nearest even; the bf16 is the high half of each lane, the other holds what is left of the sum. */
static inline __m512i nearest(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}
/* What that rounding left over. */
static inline __m512 left_over(__m512 v, __m512i rounded) {
    const __m512i high = _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000));
    return _mm512_sub_ps(v, _mm512_castsi512_ps(high));
}

/* Elements of a block of 32 lie in another order: of each four, the second and the third change places, which spares
 * shuffles in unpacking. a and b are two halves of a block, rounded. */
static inline __m512i in_order(__m512i a, __m512i b) {
    const __m512i places = _mm512_set_epi16(63, 59, 61, 57, 55, 51, 53, 49, 47, 43, 45, 41, 39, 35, 37, 33, 31, 27, 29,
                                            25, 23, 19, 21, 17, 15, 11, 13, 9, 7, 3, 5, 1);
    return _mm512_permutex2var_epi16(a, places, b);
}

/* n elements as one or two parts of bf16 {parts, n}. */
static void split(const float *x, int64_t n, int parts, uint16_t *to) {
    for (int64_t i = 0; i < n; i += BLOCK) {
        const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + BLOCK / 2);
        const __m512i high_a = nearest(a), high_b = nearest(b);
        _mm512_storeu_si512(to + i, in_order(high_a, high_b));
        if (parts == 1) continue;
        const __m512i low_a = nearest(left_over(a, high_a)), low_b = nearest(left_over(b, high_b));
        _mm512_storeu_si512(to + n + i, in_order(low_a, low_b));
    }
}

/* See ml_kernels.tile_prepare. */
static void tile_prepare(const float *x, int64_t k, int exact, void *column) {
    split(x, k, exact ? 2 : 1, column);
}

/* ---- unpacking 16 rows ---- */

static inline __m128i load16(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}
/* 16 bytes of four rows. */
static inline __m512i load_rows(const uint8_t *p, int64_t step) {
    __m512i v = _mm512_castsi128_si512(load16(p));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load16(p + step));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load16(p + 2 * step));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, load16(p + 3 * step));
}
/* v[i]: the i-th four bytes of 16 rows, of the 16 bytes of each at p + r * stride. */
static inline void load_columns(const uint8_t *p, int64_t stride, __m512i v[4]) {
    const __m512i a = load_rows(p, 4 * stride), b = load_rows(p + stride, 4 * stride);
    const __m512i c = load_rows(p + 2 * stride, 4 * stride), d = load_rows(p + 3 * stride, 4 * stride);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i ab2 = _mm512_unpackhi_epi32(a, b), cd2 = _mm512_unpackhi_epi32(c, d);
    v[0] = _mm512_unpacklo_epi64(ab, cd);
    v[1] = _mm512_unpackhi_epi64(ab, cd);
    v[2] = _mm512_unpacklo_epi64(ab2, cd2);
    v[3] = _mm512_unpackhi_epi64(ab2, cd2);
}
/* The first four bytes of 16 rows. */
static inline __m512i load_heads(const uint8_t *p, int64_t stride) {
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_i32gather_epi32(_mm512_mullo_epi32(count, _mm512_set1_epi32((int)stride)), p, 1);
}

/* One tile from words that are in order. */
static inline void tile_from_words(const uint16_t *words, int64_t stride, uint16_t *to) {
    for (int i = 0; i < BLOCK / 8; i++) {
        __m512i v[4];
        load_columns((const uint8_t *)(words + i * 8), stride * 2, v);
        for (int j = 0; j < 4; j++) _mm512_store_si512(to + (4 * i + j) * 2 * TILE, v[j]);
    }
}

/* Where the tile of a block goes: the two tiles of a panel take turns. */
static inline uint16_t *tile_of(uint16_t *to, int64_t block) {
    return to + block * 2 * WORDS;
}

/* Any dtype, any number of rows up to 16: the last is repeated. */
static void unpack_any(const ml_kernels *kernels, int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t n,
                       int parts, tile_scratch *s, uint16_t *to) {
    for (int64_t r = 0; r < TILE; r++) {
        kernels->decode_row[dtype](w + (r < rows ? r : rows - 1) * stride, s->row, n);
        split(s->row, n, parts, s->rows + r * parts * n);
    }
    for (int part = 0; part < parts; part++) {
        for (int64_t b = 0; b < n / BLOCK; b++) {
            tile_from_words(s->rows + part * n + b * BLOCK, parts * n, tile_of(to + part * PART, b));
        }
    }
}

/* bf16 of e2m1 codes under the scale MXFP4_TOP, twice, since a lookup takes five bits of an index. Smaller scales are
 * subtracted from the exponent; saturation keeps zero zero. */
#define E2M1                                                                                                           \
    0, 0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40, 0, 0xfd80, 0xfe00, 0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40
static const _Alignas(64) uint16_t e2m1_top[BLOCK] = {E2M1, E2M1};

/* Blocks with a scale that this cannot do (0, and those over MXFP4_TOP, which overflow or are NaN) take the other way.
 */
static void unpack_mxfp4(const ml_kernels *kernels, const uint8_t *w, int64_t stride, int64_t n, tile_scratch *s,
                         uint16_t *to) {
    const __m512i values = _mm512_load_si512(e2m1_top), top = _mm512_set1_epi32(MXFP4_TOP);
    for (int64_t b = 0; b < n / BLOCK; b++, w += sizeof(ml_block_mxfp4)) {
        uint16_t *tile = tile_of(to, b);
        const __m512i scale = _mm512_and_si512(load_heads(w, stride), _mm512_set1_epi32(255));
        const __m512i above = _mm512_sub_epi32(top, scale); /* negative if too large */
        if (_mm512_cmpge_epu32_mask(above, top)) {
            unpack_any(kernels, ML_MXFP4, w, stride, TILE, BLOCK, 1, s, tile);
            continue;
        }
        const __m512i down = _mm512_or_si512(_mm512_slli_epi32(above, 7), _mm512_slli_epi32(above, 23));
        __m512i v[4];
        load_columns(w + 1, stride, v);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++, tile += 4 * TILE) {
            /* Nibbles of elements 4 j and 4 j + 2, + 1 and + 3; then the same of 16 + 4 j. */
            const __m512i codes[4] = {v[j], _mm512_srli_epi16(v[j], 8), _mm512_srli_epi16(v[j], 4),
                                      _mm512_srli_epi16(v[j], 12)};
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __m512i pairs = _mm512_subs_epu16(_mm512_permutexvar_epi16(codes[i], values), down);
                _mm512_store_si512(tile + (i / 2 * 8 + i % 2) * 2 * TILE, pairs);
            }
        }
    }
}

/* Two elements of 16 rows as pairs of bf16, and what is left of them if there are two parts. */
static inline void store_pair(__m512 a, __m512 b, int parts, uint16_t *to) {
    const __m512i high_a = nearest(a), high_b = nearest(b);
    _mm512_store_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(high_a, 16), high_b));
    if (parts == 2) store_pair(left_over(a, high_a), left_over(b, high_b), 1, to + PART);
}

/* The scale times 2^-24, and bytes at the top of their lanes. */
static void unpack_q8_0(const uint8_t *w, int64_t stride, int64_t n, int parts, uint16_t *to) {
    const __m512i byte = _mm512_set1_epi32((int)0xff000000);
    for (int64_t b = 0; b < n / BLOCK; b++, w += sizeof(ml_block_q8_0)) {
        uint16_t *tile = tile_of(to, b);
        const __m512 d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(load_heads(w, stride)));
        const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(0x1p-24f));
        __m512i v[8];
        load_columns(w + 2, stride, v);
        load_columns(w + 18, stride, v + 4);
        for (int j = 0; j < 8; j++, tile += 4 * TILE) {
            const __m512i bytes[4] = {_mm512_slli_epi32(v[j], 24), _mm512_and_si512(_mm512_slli_epi32(v[j], 16), byte),
                                      _mm512_and_si512(_mm512_slli_epi32(v[j], 8), byte), _mm512_and_si512(v[j], byte)};
            __m512 x[4];
            for (int i = 0; i < 4; i++) x[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(bytes[i]), scale);
            store_pair(x[0], x[2], parts, tile);
            store_pair(x[1], x[3], parts, tile + 2 * TILE);
        }
    }
}

/* Four elements of a row are two lanes: words 0 and 1, 2 and 3. */
static void unpack_bf16(const uint8_t *w, int64_t stride, int64_t n, uint16_t *to) {
    for (int64_t b = 0; b < n / BLOCK; b++, w += BLOCK * 2) {
        uint16_t *tile = tile_of(to, b);
        for (int i = 0; i < BLOCK / 8; i++) {
            __m512i v[4];
            load_columns(w + i * 16, stride, v);
            for (int j = 0; j < 4; j += 2, tile += 4 * TILE) {
                const __m512i even = _mm512_mask_blend_epi16(0xaaaaaaaa, v[j], _mm512_slli_epi32(v[j + 1], 16));
                const __m512i odd = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(v[j], 16), v[j + 1]);
                _mm512_store_si512(tile, even);
                _mm512_store_si512(tile + 2 * TILE, odd);
            }
        }
    }
}

static void unpack(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t n, int parts, tile_scratch *s,
                   uint16_t *to) {
    const ml_kernels *kernels = ml_kernels_get();
    const int plain = rows >= TILE && stride < GATHER_LIMIT;
    if (plain && dtype == ML_MXFP4) {
        unpack_mxfp4(kernels, w, stride, n, s, to);
    } else if (plain && dtype == ML_Q8_0) {
        unpack_q8_0(w, stride, n, parts, to);
    } else if (plain && dtype == ML_BF16) {
        unpack_bf16(w, stride, n, to);
    } else {
        unpack_any(kernels, dtype, w, stride, rows < TILE ? rows : TILE, n, parts, s, to);
    }
}

/* Parts of weights of that dtype. */
static int parts_of(int dtype, int exact) {
    return exact && dtype != ML_MXFP4 && dtype != ML_BF16 ? 2 : 1;
}

/* ---- multiplying ---- */

/* A run of columns in bf16: part p of a column is `part` words further. */
typedef struct tile_columns {
    const uint16_t *x;
    int64_t step, part; /* words */
} tile_columns;

/* C += A B over the blocks of one part of each. */
static inline void multiply_parts(const uint16_t *a, const uint16_t *b, int64_t step, const uint16_t *tile,
                                  int64_t blocks) {
    for (int64_t i = 0; i < blocks; i++, a += BLOCK, b += BLOCK, tile += 2 * WORDS) {
        t_load(4, a, step * 2);
        t_load(6, tile, TILE * 4);
        t_dot(0, 4, 6);
        t_load(7, tile + WORDS, TILE * 4);
        t_dot(1, 4, 7);
        t_load(5, b, step * 2);
        t_dot(2, 5, 6);
        t_dot(3, 5, 7);
    }
}

/* A panel against one group of columns, `a` of them in the first tile; adds to y unless `first`. */
static void multiply_group(tile_columns c, int64_t a, const uint16_t *panel, int64_t blocks, int exact, int parts,
                           int first, float *y, int64_t ldy) {
    float *second = y + a * ldy;
    if (first) {
        t_zero(0);
        t_zero(1);
        t_zero(2);
        t_zero(3);
    } else {
        t_load(0, y, ldy * 4);
        t_load(1, y + TILE, ldy * 4);
        t_load(2, second, ldy * 4);
        t_load(3, second + TILE, ldy * 4);
    }
    const uint16_t *x = c.x, *x2 = x + a * c.step;
    multiply_parts(x, x2, c.step, panel, blocks);
    if (exact) multiply_parts(x + c.part, x2 + c.part, c.step, panel, blocks);
    if (parts == 2) multiply_parts(x, x2, c.step, panel + PART, blocks);
    t_store(0, y, ldy * 4);
    t_store(1, y + TILE, ldy * 4);
    t_store(2, second, ldy * 4);
    t_store(3, second + TILE, ldy * 4);
}

static void copy_rows(const float *from, int64_t ld_from, float *to, int64_t ld_to, int64_t columns, int64_t rows) {
    for (int64_t c = 0; c < columns; c++) memcpy(to + c * ld_to, from + c * ld_from, (size_t)rows * sizeof *to);
}

/* A panel of `rows` rows against `count` columns, at least two, in groups of nearly the same size. */
static void multiply_panel(tile_columns c, int64_t count, int64_t rows, int64_t blocks, int exact, int parts, int first,
                           float *y, int64_t ldy, tile_scratch *s) {
    const int64_t groups = (count + PANEL - 1) / PANEL;
    int64_t shape = 0;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t some = count / groups + (g < count % groups), a = (some + 1) / 2;
        if (some != shape) t_configure(a, some - a);
        shape = some;
        if (rows == PANEL) {
            multiply_group(c, a, s->panel, blocks, exact, parts, first, y, ldy);
        } else {
            if (!first) copy_rows(y, ldy, s->edge, PANEL, some, rows);
            multiply_group(c, a, s->panel, blocks, exact, parts, first, s->edge, PANEL);
            copy_rows(s->edge, PANEL, y, ldy, some, rows);
        }
        c.x += some * c.step;
        y += some * ldy;
    }
}

/* Elements that are unpacked at once: the row in equal chunks, of whole blocks. */
static int64_t chunk_of(int dtype, int64_t k) {
    const int64_t unit = ml_dtype_block(dtype) > BLOCK ? ml_dtype_block(dtype) : BLOCK;
    const int64_t chunks = (k + CHUNK - 1) / CHUNK, units = k / unit;
    return (units + chunks - 1) / chunks * unit;
}

/* What is multiplied: see ml_kernels.tile_multiply. */
typedef struct tile_weights {
    int dtype;
    const uint8_t *data;
    int64_t stride, rows;
} tile_weights;

/* Elements [from, from + n) of all rows against a span of columns. What follows a panel in memory is fetched ahead, a
 * share of it for each share of the elements. */
static void multiply_chunk(tile_weights w, int64_t from, int64_t n, int64_t k, tile_columns c, int64_t count, int exact,
                           float *y, int64_t ldy, tile_scratch *s) {
    const int parts = parts_of(w.dtype, exact);
    const int64_t offset = from / ml_dtype_block(w.dtype) * ml_dtype_bytes(w.dtype);
    for (int64_t r = 0; r < w.rows; r += PANEL) {
        const int64_t rows = w.rows - r < PANEL ? w.rows - r : PANEL;
        const uint8_t *panel = w.data + r * w.stride, *next = panel + rows * w.stride;
        for (int64_t o = rows * w.stride * from / k; o < rows * w.stride * (from + n) / k; o += 64) {
            __builtin_prefetch(next + o, 0, 2);
        }
        unpack(w.dtype, panel + offset, w.stride, rows, n, parts, s, s->panel);
        if (rows > TILE) {
            unpack(w.dtype, panel + offset + TILE * w.stride, w.stride, rows - TILE, n, parts, s, s->panel + WORDS);
        } else {
            memcpy(s->panel + WORDS, s->panel, WORDS * sizeof *s->panel);
        }
        multiply_panel(c, count, rows, n / BLOCK, exact, parts, from == 0, y + r, ldy, s);
    }
}

/* See ml_kernels.tile_multiply. */
static void tile_multiply(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                          int64_t count, int exact, float *y, int64_t ldy, void *scratch) {
    const tile_weights weights = {dtype, w, stride, rows};
    const int64_t chunk = chunk_of(dtype, k), spans = (count + SPAN - 1) / SPAN;
    tile_columns c = {.x = columns, .step = ml_integer_bytes(k) / 2, .part = k};
    for (int64_t i = 0; i < spans; i++) {
        const int64_t some = count / spans + (i < count % spans);
        for (int64_t from = 0; from < k; from += chunk) {
            const int64_t n = k - from < chunk ? k - from : chunk;
            const tile_columns part = {c.x + from, c.step, c.part};
            multiply_chunk(weights, from, n, k, part, some, exact, y, ldy, scratch);
        }
        c.x += some * c.step;
        y += some * ldy;
    }
    t_release();
}

/* The yardstick: four sums, as in a product. */
static double multiply_rounds(int64_t rounds) {
    rounds /= PEAK_SHARE;
    t_configure(TILE, TILE);
    for (int64_t r = 0; r < rounds; r++) {
        t_dot(0, 4, 6);
        t_dot(1, 4, 7);
        t_dot(2, 5, 6);
        t_dot(3, 5, 7);
    }
    t_release();
    return (double)rounds * 4 * TILE * TILE * BLOCK * 2;
}

#include "kernels/tile_attend.c.h"

static void fill(ml_kernels *table, const char *isa) {
    ml_kernels_avx512(table);
    attend_few = table->attend;
    table->attend = attend;
    table->isa = isa;
    table->tile_prepare = tile_prepare;
    table->tile_multiply = tile_multiply;
    table->multiply_rounds = multiply_rounds;
}
