/* Attention to quantised pages, written once for any width: what avx2_warm.c and avx512_warm.c share; everything here
 * is static. They differ in how a vector of codes meets a few whole numbers. Expected before, besides lanes.h:
 *
 *   vi i_zero i_load i_store i_sum i_subtract to_float   W int32; i_subtract takes a number from every lane
 *   codes8 load8(p)           4 W codes of 8 bits in registers
 *   codes4 load4(p)           8 W codes of 4 bits
 *   sums8 zero8 sums4 zero4   W sums under way
 *   add8(s, codes, row)       adds the products of codes with the first 4 of a row of whole numbers
 *   add4(s, codes, row)       with the first 8, their high bytes alone
 *   total8(s) total4(s)       W int32
 *   whole_store(v, bits, row, sums)   v, rounded, to the first W numbers of a row, what `bits` needs of it; returns
 *                             sums plus them (4 bits: plus their high bytes)
 *   MOST8 MOST4               queries whose sums fit the registers
 *
 * Whole-number sums are exact, so neither their order nor the rows beside change them; every f32 number belongs to one
 * query and comes about in one way. */
#include "kernels/attend.h"

/* Row q from number `at` on; rows are `step` bytes apart. */
static ALWAYS_INLINE ml_whole_row row_at(ml_whole_row first, int64_t step, int64_t q, int64_t at) {
    return (ml_whole_row){(int16_t *)(void *)((uint8_t *)first.whole + q * step) + at, first.high + q * step + at,
                          first.low + q * step + at};
}

/* Lanes [at, at + vectors W) of out {queries, lanes}: sums over n elements of rows times codes. */
static ALWAYS_INLINE void dot_lanes8(ml_whole_row x, int64_t step, const int queries, const uint8_t *codes,
                                     int64_t lanes, int64_t n, int64_t at, const int vectors, int32_t *out) {
    sums8 sum[BLOCK][2];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[q][v] = zero8();
    }
    for (int64_t i = 0; i < n; i += 4) {
        codes8 c[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) c[v] = load8(codes + (i / 4 * lanes + at + v * W) * 4);
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) add8(&sum[q][v], c[v], row_at(x, step, q, i));
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) i_store(out + q * lanes + at + v * W, total8(sum[q][v]));
    }
}

static ALWAYS_INLINE void dot_lanes4(ml_whole_row x, int64_t step, const int queries, const uint8_t *codes,
                                     int64_t lanes, int64_t n, int64_t at, const int vectors, int32_t *out) {
    sums4 sum[BLOCK][2];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[q][v] = zero4();
    }
    for (int64_t i = 0; i < n; i += 8) {
        codes4 c[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) c[v] = load4(codes + (i / 8 * lanes + at + v * W) * 4);
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) add4(&sum[q][v], c[v], row_at(x, step, q, i));
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) i_store(out + q * lanes + at + v * W, total4(sum[q][v]));
    }
}

/* As many vectors at once as leave the sums in registers. */
static ALWAYS_INLINE void dot_queries(ml_whole_row x, int64_t step, const int queries, const int bits,
                                      const uint8_t *codes, int64_t lanes, int64_t n, int32_t *out) {
    const int vectors = queries <= (bits == 8 ? MOST8 : MOST4) / 2 ? 2 : 1;
    int64_t at = 0;
    for (; at + vectors * W <= lanes; at += vectors * W) {
        if (bits == 8) {
            dot_lanes8(x, step, queries, codes, lanes, n, at, vectors, out);
        } else {
            dot_lanes4(x, step, queries, codes, lanes, n, at, vectors, out);
        }
    }
    for (; at < lanes; at += W) {
        if (bits == 8) {
            dot_lanes8(x, step, queries, codes, lanes, n, at, 1, out);
        } else {
            dot_lanes4(x, step, queries, codes, lanes, n, at, 1, out);
        }
    }
}

/* Each number of queries is compiled by itself, so that its sums stay in registers. */
static ALWAYS_INLINE void dot_all(ml_whole_row x, int64_t step, int64_t queries, const int bits, const uint8_t *codes,
                                  int64_t lanes, int64_t n, int32_t *out) {
    const int most = bits == 8 ? MOST8 : MOST4;
    for (int64_t q = 0; q < queries; q += most) {
        const ml_whole_row row = row_at(x, step, q, 0);
        int32_t *to = out + q * lanes;
        switch (queries - q < most ? queries - q : most) {
        case 1:
            dot_queries(row, step, 1, bits, codes, lanes, n, to);
            break;
        case 2:
            dot_queries(row, step, 2, bits, codes, lanes, n, to);
            break;
        case 3:
            dot_queries(row, step, 3, bits, codes, lanes, n, to);
            break;
        case 4:
            dot_queries(row, step, 4, bits, codes, lanes, n, to);
            break;
        case 5:
            dot_queries(row, step, 5, bits, codes, lanes, n, to);
            break;
        case 6:
            dot_queries(row, step, 6, bits, codes, lanes, n, to);
            break;
        case 7:
            dot_queries(row, step, 7, bits, codes, lanes, n, to);
            break;
        default:
            dot_queries(row, step, most, bits, codes, lanes, n, to);
        }
    }
}

static void dot(ml_whole_row x, int64_t step, int64_t queries, int bits, const uint8_t *codes, int64_t lanes, int64_t n,
                int32_t *out) {
    if (bits == 8) {
        dot_all(x, step, queries, 8, codes, lanes, n, out);
    } else {
        dot_all(x, step, queries, 4, codes, lanes, n, out);
    }
}

/* What a page has for every query: f16 steps and zeros of its tokens widened, means of its keys' elements. */
typedef struct warm_side {
    const uint8_t *codes;
    const uint16_t *means;
    float steps[PAGE], zeros[PAGE];
} warm_side;

static void side_open(const void *side, int64_t head_dim, int bits, int values, warm_side *out) {
    const uint16_t *numbers = side;
    out->codes = (const uint8_t *)side + ml_codes_offset(head_dim, bits, values);
    out->means = numbers + 2 * PAGE;
    for (int t = 0; t < PAGE; t += W) {
        v_store(out->steps + t, v_load_f16(numbers + t));
        v_store(out->zeros + t, v_load_f16(numbers + PAGE + t));
    }
}

/* Asks for what the next call reads of a side: `bytes` at `next`. */
static void side_prefetch(const void *next, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const uint8_t *)next + i);
}

static int64_t quantised_bytes(int64_t head_dim, int bits, int values) {
    return ml_codes_offset(head_dim, bits, values) + PAGE * head_dim * bits / 8;
}

/* Scores of up to BLOCK queries, from query h on. */
static void warm_scores(const ml_attend *work, const warm_side *side, int64_t h, int64_t queries, float *score) {
    _Alignas(64) int32_t dots[BLOCK * PAGE];
    const int64_t dim = work->head_dim, step = ml_query_bytes(dim);
    const int bits = work->key_bits;
    const uint8_t *first = work->whole + h * step;
    dot(ml_query_row(first, dim), step, queries, bits, side->codes, PAGE, dim, dots);
    for (int64_t i = 0; i < queries; i++) {
        const ml_query *q = (const void *)(first + i * step);
        const int16_t *x = (const void *)(q + 1);
        vf shared = v_set(0);
        for (int64_t d = 0; bits == 4 && d < dim; d += W) {
            shared = v_fma(v_load_i16(x + d), v_load_f16(side->means + d), shared);
        }
        const vf base = v_set(v_sum(shared) * (q->scale * work->key_unit));
        const vf scale = v_set(q->scale * work->key_unit * (bits == 4 ? 256.0f : 1.0f));
        const vf sum = v_set(q->sum * work->key_unit);
        const int32_t middle = bits == 4 ? 8 * q->high_sum : 128 * q->whole_sum;
        for (int t = 0; t < PAGE; t += W) {
            const vf count = to_float(i_subtract(i_load(dots + i * PAGE + t), middle));
            const vf constant = v_fma(v_load(side->zeros + t), sum, base);
            v_store(score + i * PAGE + t, v_fma(count, v_load(side->steps + t) * scale, constant));
        }
    }
}

/* acc = keep acc + p V for up to BLOCK queries, from query h on; p {queries, PAGE}. */
static void warm_values(const ml_attend *work, const warm_side *side, int64_t h, int64_t queries, const float *p,
                        const float *keep) {
    enum { STEP = 4 * PAGE };
    _Alignas(64) uint8_t rows[BLOCK * STEP];
    _Alignas(64) int32_t dots[BLOCK * ML_MAX_HEAD_DIM];
    float scale[BLOCK], shared[BLOCK];
    int32_t middle[BLOCK];
    const int64_t dim = work->head_dim;
    const int bits = work->value_bits;
    const ml_whole_row first = {(void *)rows, (void *)(rows + 2 * PAGE), (void *)(rows + 3 * PAGE)};
    for (int64_t i = 0; i < queries; i++) {
        vf weight[PAGE / W], top = v_set(0), constant = v_set(0);
        for (int v = 0; v < PAGE / W; v++) {
            const vf x = v_load(p + i * PAGE + v * W);
            weight[v] = x * v_load(side->steps + v * W);
            top = v_max(weight[v], top);
            constant = v_fma(x, v_load(side->zeros + v * W), constant);
        }
        const float most = v_top(top);
        const float inverse = most > 1e-30f ? ML_WHOLE_TOP / most : 0;
        vi sums = i_zero();
        for (int v = 0; v < PAGE / W; v++) {
            sums = whole_store(weight[v] * v_set(inverse), bits, row_at(first, STEP, i, v * W), sums);
        }
        middle[i] = (int32_t)((uint32_t)i_sum(sums) * (bits == 4 ? 8 : 128)); /* of NaN it is anything */
        scale[i] = most / ML_WHOLE_TOP * (bits == 4 ? 256.0f : 1.0f);
        shared[i] = v_sum(constant);
    }
    dot(first, STEP, queries, bits, side->codes, dim, PAGE, dots);
    for (int64_t i = 0; i < queries; i++) {
        float *acc = work->acc + (h + i) * dim;
        for (int64_t d = 0; d < dim; d += W) {
            const vf count = to_float(i_subtract(i_load(dots + i * dim + d), middle[i]));
            const vf more = v_fma(count, v_set(scale[i]), v_set(shared[i]));
            v_store(acc + d, v_fma(more, v_set(work->value_unit), v_load(acc + d) * v_set(keep[i])));
        }
    }
}

/* Neighbouring rows that attend to the same tokens are worked on together, BLOCK queries at a time. */
static void attend_warm(const ml_attend *work) {
    const int64_t group = work->group, dim = work->head_dim;
    const int key_bits = work->key_bits, value_bits = work->value_bits;
    const attend_side keys = {work->keys, PAGE, (uintptr_t)work->next_keys - (uintptr_t)work->keys};
    const attend_side values = {work->values, dim, (uintptr_t)work->next_values - (uintptr_t)work->values};
    warm_side warm_keys, warm_vals;
    _Alignas(64) float score[BLOCK * PAGE];
    float keep[BLOCK];
    if (key_bits != 16) {
        side_open(work->keys, dim, key_bits, 0, &warm_keys);
        side_prefetch(work->next_keys, quantised_bytes(dim, key_bits, 0));
    }
    if (value_bits != 16) {
        side_open(work->values, dim, value_bits, 1, &warm_vals);
        side_prefetch(work->next_values, quantised_bytes(dim, value_bits, 1));
    }
    for (int64_t r = 0; r < work->rows;) {
        const int64_t from = work->from[r], to = work->to[r], first = r * group;
        do r++;
        while (r < work->rows && work->from[r] == from && work->to[r] == to);
        for (int64_t h = first; from < to && h < r * group; h += BLOCK) {
            const int64_t some = r * group - h < BLOCK ? r * group - h : BLOCK;
            if (key_bits == 16) {
                multiply(work->q + h * dim, dim, some, keys, work->dtype, 0, dim, NULL, score);
            } else {
                warm_scores(work, &warm_keys, h, some, score);
            }
            weigh(score, some, from, to, work->top + h, work->sum + h, keep);
            if (value_bits == 16) {
                multiply(score, PAGE, some, values, work->dtype, from, to, keep, work->acc + h * dim);
            } else {
                warm_values(work, &warm_vals, h, some, score, keep);
            }
        }
    }
}
