/* Part of avx512_panel.c: stored blocks of MXFP4 and Q8_0, 16 rows at a time. Lane j (of 128 bits) of vector g belongs
 * to row 4 j + g, so that a transpose of 4 x 4 within the lanes gives vectors with one 32-bit lane a row, in order. */
#ifndef ML_KERNELS_AVX512_BLOCKS_H
#define ML_KERNELS_AVX512_BLOCKS_H

enum { QUADS = 4 };

typedef struct quads {
    __m512i v[QUADS];
} quads;

/* 16 bytes at each of four addresses. */
static ALWAYS_INLINE __m512i lanes_load(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)a));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128((const void *)b));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_loadu_si128((const void *)c));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_loadu_si128((const void *)d));
}

/* 16 bytes at `at` in each of 16 rows. */
static ALWAYS_INLINE quads quads_load(const uint8_t *at, int64_t stride) {
    const uint8_t *const lane[4] = {at, at + 4 * stride, at + 8 * stride, at + 12 * stride};
    quads q;
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        const int64_t row = g * stride;
        q.v[g] = lanes_load(lane[0] + row, lane[1] + row, lane[2] + row, lane[3] + row);
    }
    return q;
}

/* Vector d: the 32 bits number d of each row. */
static ALWAYS_INLINE quads quads_transpose(quads q) {
    const __m512i a = _mm512_unpacklo_epi32(q.v[0], q.v[1]), b = _mm512_unpackhi_epi32(q.v[0], q.v[1]);
    const __m512i c = _mm512_unpacklo_epi32(q.v[2], q.v[3]), d = _mm512_unpackhi_epi32(q.v[2], q.v[3]);
    return (quads){{_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                    _mm512_unpackhi_epi64(b, d)}};
}

/* The first 32 bits of every lane. */
static ALWAYS_INLINE __m512i first_elements(quads q) {
    return _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(q.v[0], q.v[1]), _mm512_unpacklo_epi32(q.v[2], q.v[3]));
}

/* The first 32 bits of 16 rows. */
static ALWAYS_INLINE __m512i first_words(const uint8_t *at, int64_t stride) {
    return first_elements(quads_load(at, stride));
}

/* Half of 2^(code - 127) of 16 rows at `at`, from the codes as exponents of floats; 0 and 255 are special and looked
 * up.
 */
static ALWAYS_INLINE __m512 half_powers(__m512i exponents, const uint8_t *at, int64_t stride) {
    const __m512 power = _mm512_castsi512_ps(exponents);
    if (__builtin_expect(_mm512_fpclass_ps_mask(power, 0x0a) == 0, 1)) {
        return _mm512_mul_ps(power, _mm512_set1_ps(0.5f));
    }
    float scales[W];
    for (int r = 0; r < W; r++) scales[r] = e8m0_half[at[r * stride]];
    return _mm512_loadu_ps(scales);
}
static ALWAYS_INLINE __m512 scales_mxfp4(const uint8_t *at, int64_t stride) {
    return half_powers(_mm512_srli_epi32(_mm512_slli_epi32(first_words(at, stride), 24), 1), at, stride);
}
static ALWAYS_INLINE __m512 scales_q8_0(const uint8_t *at, int64_t stride) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(first_words(at, stride)));
}

/* A stored format: bytes of a block, scales of 16 rows, and their elements in two forms. */
typedef struct format {
    int64_t bytes;
    __m512 (*scales)(const uint8_t *at, int64_t stride);
    int sums; /* which of a column's sums take back the raise of its bytes, see sums_at() */
    /* first: elements 0 .. 15, raised, as quads_load() arranges them; second: 16 .. 31 */
    void (*raised)(const uint8_t *at, int64_t stride, quads *first, quads *second);
    /* PAIRS vectors of pairs, one lane a row, 2 TILE apart */
    void (*pairs)(const uint8_t *at, int64_t stride, int16_t *to);
} format;

static ALWAYS_INLINE __m512i raised_values(void) { /* e2m1_twice + 12 */
    return _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}
static ALWAYS_INLINE void raised_mxfp4(const uint8_t *at, int64_t stride, quads *first, quads *second) {
    const __m512i low = _mm512_set1_epi8(15), table = raised_values();
    const quads codes = quads_load(at + offsetof(ml_block_mxfp4, qs), stride);
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        first->v[g] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes.v[g], low));
        second->v[g] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes.v[g], 4), low));
    }
}
/* The elements of two rows, raised. */
static ALWAYS_INLINE __m512i raised_rows(const uint8_t *a, const uint8_t *b) {
    const __m256i low = _mm256_loadu_si256((const void *)(a + offsetof(ml_block_q8_0, qs)));
    const __m256i high = _mm256_loadu_si256((const void *)(b + offsetof(ml_block_q8_0, qs)));
    return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), _mm512_set1_epi8(-128));
}
static ALWAYS_INLINE void raised_q8_0(const uint8_t *at, int64_t stride, quads *first, quads *second) {
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        const __m512i a = raised_rows(at + g * stride, at + (4 + g) * stride);
        const __m512i b = raised_rows(at + (8 + g) * stride, at + (12 + g) * stride);
        first->v[g] = _mm512_shuffle_i32x4(a, b, 0x88);
        second->v[g] = _mm512_shuffle_i32x4(a, b, 0xdd);
    }
}

static ALWAYS_INLINE void put_pair(int16_t *to, int pair, __m512i v) {
    _mm512_store_si512(to + pair * 2 * TILE, v);
}
/* vpermw looks at five bits of each word, so the table has every value twice and the fifth does not matter. */
static ALWAYS_INLINE void pairs_mxfp4(const uint8_t *at, int64_t stride, int16_t *to) {
    const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)e2m1_twice));
    const __m512i table = _mm512_cvtepi8_epi16(bytes);
    const quads codes = quads_transpose(quads_load(at + offsetof(ml_block_mxfp4, qs), stride));
#pragma GCC unroll 4
    for (int d = 0; d < QUADS; d++) {
        const __m512i v = codes.v[d];
        put_pair(to, 2 * d, _mm512_permutexvar_epi16(v, table));
        put_pair(to, 2 * d + 8, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 4), table));
        put_pair(to, 2 * d + 1, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 8), table));
        put_pair(to, 2 * d + 9, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 12), table));
    }
}
static ALWAYS_INLINE void pairs_q8_0(const uint8_t *at, int64_t stride, int16_t *to) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const quads bytes = quads_transpose(quads_load(at + offsetof(ml_block_q8_0, qs) + 16 * half, stride));
#pragma GCC unroll 4
        for (int d = 0; d < QUADS; d++) {
            const __m512i v = bytes.v[d];
            put_pair(to, 8 * half + 2 * d, _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8));
            put_pair(to, 8 * half + 2 * d + 1, _mm512_srai_epi16(v, 8));
        }
    }
}

enum { RAISE_MXFP4 = 12, RAISE_Q8_0 = 128 };
static const format mxfp4 = {sizeof(ml_block_mxfp4), scales_mxfp4, 0, raised_mxfp4, pairs_mxfp4};
static const format q8_0 = {sizeof(ml_block_q8_0), scales_q8_0, 1, raised_q8_0, pairs_q8_0};

/* A block of each of 16 rows, from *at on, *stride apart; of fewer rows the last is repeated, in `copy`. */
typedef struct block_copy {
    uint8_t bytes[W * sizeof(ml_block_q8_0)];
} block_copy;

static ALWAYS_INLINE void full_rows(int64_t rows, int64_t bytes, block_copy *copy, const uint8_t **at,
                                    int64_t *stride) {
    if (rows >= W) return;
    for (int64_t r = 0; r < W; r++) {
        memcpy(copy->bytes + r * bytes, *at + (r < rows ? r : rows - 1) * *stride, (size_t)bytes);
    }
    *at = copy->bytes;
    *stride = bytes;
}

#endif
