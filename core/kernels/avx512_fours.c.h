/* Part of avx512_panel.c: four blocks at once of 16 rows of MXFP4, which takes far fewer loads, where cpuid promises
 * VBMI. */
#ifndef ML_KERNELS_AVX512_FOURS_H
#define ML_KERNELS_AVX512_FOURS_H

#define VBMI __attribute__((target("avx512vbmi")))

/* Lane i of vector j: lane j of vector i. */
static ALWAYS_INLINE quads lanes_transpose(quads q) {
    const __m512i a = _mm512_shuffle_i32x4(q.v[0], q.v[1], 0x44), b = _mm512_shuffle_i32x4(q.v[0], q.v[1], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(q.v[2], q.v[3], 0x44), d = _mm512_shuffle_i32x4(q.v[2], q.v[3], 0xee);
    return (quads){{_mm512_shuffle_i32x4(a, c, 0x88), _mm512_shuffle_i32x4(a, c, 0xdd),
                    _mm512_shuffle_i32x4(b, d, 0x88), _mm512_shuffle_i32x4(b, d, 0xdd)}};
}

/* Of the first 64 bytes of four blocks: the codes of three blocks, and in every element of lane 3 the four exponents.
 */
static const uint8_t four_blocks_at[64] __attribute__((aligned(64))) = {
    1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23,
    24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46,
    47, 48, 49, 50, 0,  17, 34, 51, 0,  17, 34, 51, 0,  17, 34, 51, 0,  17, 34, 51};

/* Four blocks of a row: lane j of the result is the codes of block j, lane 3 of *exponents as above. */
static VBMI ALWAYS_INLINE __m512i four_blocks(const uint8_t *row, __m512i *exponents) {
    *exponents = _mm512_permutexvar_epi8(_mm512_load_si512(four_blocks_at), _mm512_loadu_si512(row));
    return _mm512_mask_broadcast_i32x4(*exponents, 0xf000, _mm_loadu_si128((const void *)(row + 52)));
}

/* Lane i: lane 3 of vector i. */
static ALWAYS_INLINE __m512i last_lanes(quads q) {
    return _mm512_shuffle_i32x4(_mm512_shuffle_i32x4(q.v[0], q.v[1], 0xff), _mm512_shuffle_i32x4(q.v[2], q.v[3], 0xff),
                                0x88);
}

/* Half of 2^(code - 127), of code j of the four in each element: one less in the exponent of a float. For codes of 2 to
 * 254; the others are looked up. */
static ALWAYS_INLINE int plain_exponents(__m512i codes) {
    const __m512i from_two = _mm512_sub_epi8(codes, _mm512_set1_epi8(2));
    return __builtin_expect(_mm512_cmpgt_epu8_mask(from_two, _mm512_set1_epi8((char)252)) == 0, 1);
}
static ALWAYS_INLINE __m512 half_power(__m512i codes, int j, int plain) {
    if (!plain) {
        uint8_t bytes[4 * W];
        float scales[W];
        _mm512_storeu_si512(bytes, codes);
        for (int r = 0; r < W; r++) scales[r] = e8m0_half[bytes[4 * r + j]];
        return _mm512_loadu_ps(scales);
    }
    const __m512i power = j < 3 ? _mm512_slli_epi32(codes, 23 - 8 * j) : _mm512_srli_epi32(codes, 1);
    const __m512i half = _mm512_sub_epi32(power, _mm512_set1_epi32(1 << 23));
    return _mm512_castsi512_ps(_mm512_and_si512(half, _mm512_set1_epi32(0x7f800000)));
}

/* Both codes of each byte as raised bytes. vpermb looks at six bits, but the table repeats after four. */
static VBMI ALWAYS_INLINE void look_up(const quads *codes, quads *first, quads *second) {
    const __m512i table = raised_values();
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        first->v[g] = _mm512_permutexvar_epi8(codes->v[g], table);
        second->v[g] = _mm512_permutexvar_epi8(_mm512_srli_epi16(codes->v[g], 4), table);
    }
}

/* sum_lanes() of dot_quads(), of MXFP4: the eight products that meet in an element stay within 16 bits (8 * 24 * 128),
 * so that two rows share a register from then on. */
static ALWAYS_INLINE __m512i sum_quads(const quads *first, const quads *second, const __m512i x[4]) {
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi16(1), high = _mm512_set1_epi16(256);
    quads h, l;
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        h.v[g] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, first->v[g], x[0]), second->v[g], x[1]);
        l.v[g] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, first->v[g], x[2]), second->v[g], x[3]);
    }
    __m512 sums[2];
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        const __m512i low = _mm512_madd_epi16(_mm512_packs_epi32(l.v[2 * g], l.v[2 * g + 1]), ones);
        sums[g] = _mm512_castsi512_ps(i_dot(low, _mm512_packs_epi32(h.v[2 * g], h.v[2 * g + 1]), high));
    }
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(sums[0], sums[1], 0x88)),
                            _mm512_castps_si512(_mm512_shuffle_ps(sums[0], sums[1], 0xdd)));
}

/* As dot_blocks(), for 16 rows, one column and whole groups of four blocks. What is fetched ahead is asked for bit by
 * bit: a burst of requests would hold up the loads behind it (on Zen 5 a third of the speed). */
static VBMI __m512 dot_fours(const uint8_t *w, int64_t stride, int64_t k, int64_t end, const uint8_t *column) {
    enum { BYTES = sizeof(ml_block_mxfp4) };
    const uint8_t *ahead = w + W * stride;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t b = 0; b < end; b += 4) {
        const __m512i *x = (const void *)(column + bytes_at(k) + b * 2 * BLOCK);
        quads exponents, dots;
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++, ahead += W * BYTES) {
            quads codes, last, first, second;
            for (int64_t o = 0; o < W * BYTES; o += 64) __builtin_prefetch(ahead + o, 0, 3);
#pragma GCC unroll 4
            for (int g = 0; g < QUADS; g++) {
                codes.v[g] = four_blocks(w + (4 * q + g) * stride + b * BYTES, &last.v[g]);
            }
            exponents.v[q] = first_elements(last);
            look_up(&codes, &first, &second);
            dots.v[q] = sum_quads(&first, &second, x);
        }
        const __m512i all = last_lanes(exponents);
        const int plain = plain_exponents(all);
        dots = lanes_transpose(dots);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i minus = _mm512_set1_epi32(block_sum(column, k, mxfp4.sums, b + j));
            sum = add_block(sum, _mm512_add_epi32(dots.v[j], minus), half_power(all, j, plain), column, k, b + j);
        }
    }
    return sum;
}

/* Four blocks of 16 rows: the codes of each, still to be transposed by quads_transpose(), and the exponents. */
static VBMI ALWAYS_INLINE void open_fours(const uint8_t *w, int64_t stride, quads codes[4], __m512i *exponents) {
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    quads firsts;
#pragma GCC unroll 4
    for (int g = 0; g < QUADS; g++) {
        quads rows, last;
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) rows.v[q] = four_blocks(w + (4 * q + g) * stride, &last.v[q]);
        firsts.v[g] = first_elements(last);
        rows = lanes_transpose(rows);
        for (int j = 0; j < 4; j++) codes[j].v[g] = rows.v[j];
    }
    *exponents = _mm512_permutexvar_epi32(in_order, last_lanes(firsts));
}

/* Dots of 16 rows of MXFP4 with several columns. Four rows farther ahead is asked for what follows, so that it is there
 * from the first block on (on Zen 5 2 % faster; with one column slower). */
static VBMI ALWAYS_INLINE void dot_fours_columns(int64_t count, const uint8_t *w, int64_t stride, int64_t k,
                                                 int64_t end, const uint8_t *columns, __m512 sum[]) {
    enum { BYTES = sizeof(ml_block_mxfp4) };
    const uint8_t *ahead = w + (W + 4) * stride;
    for (int64_t b = 0; b < end; b += 4) {
        quads codes[4];
        __m512i exponents;
        open_fours(w + b * BYTES, stride, codes, &exponents);
        const int plain = plain_exponents(exponents);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++, ahead += W * BYTES) {
            const quads block = quads_transpose(codes[j]);
            quads first, second;
            for (int64_t o = 0; o < W * BYTES; o += 64) __builtin_prefetch(ahead + o, 0, 3);
            look_up(&block, &first, &second);
            dot_lanes_columns(&first, &second, half_power(exponents, j, plain), mxfp4.sums, columns, count, k, b + j,
                              sum);
        }
    }
}

/* What an expert has in a small batch is worth loops without a count: up to SOME columns. */
static VBMI void dot_fours_some(int64_t count, const uint8_t *w, int64_t stride, int64_t k, int64_t end,
                                const uint8_t *columns, __m512 sum[]) {
    switch (count) {
    case 1:
        sum[0] = dot_fours(w, stride, k, end, columns);
        break;
    case 2:
        dot_fours_columns(2, w, stride, k, end, columns, sum);
        break;
    case 3:
        dot_fours_columns(3, w, stride, k, end, columns, sum);
        break;
    default:
        dot_fours_columns(4, w, stride, k, end, columns, sum);
    }
}

#endif
