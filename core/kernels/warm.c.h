/* Attention to quantised pages, written once for any width: what avx2_warm.c and avx512_warm.c share; everything here
 * is static. They differ in how a vector of codes meets a few integers. Expected before, besides lanes.c.h:
 *
 *   vi i_zero i_load i_store i_subtract to_float   W int32; i_subtract takes a number from every lane
 *   first_lane(vf)
 *   word_dots(a, b, n)        sums of products of n int16, a multiple of 8, spread over the lanes of a vf
 *   codes8 load8(p)           4 W codes of 8 bits in registers
 *   codes4 load4(p)           8 W codes of 4 bits
 *   sums8 zero8 sums4 zero4   W sums under way
 *   add8(s, codes, row)       adds the products of codes with the first 4 of a row of integers
 *   add4(s, codes, row)       with the first 8, their high bytes alone
 *   total8(s) total4(s)       W int32
 *   integer_store(v, bits, row)   v, rounded, to the first W numbers of a row (4 bits: to their high bytes); returns
 *                             them as floats
 *   MOST8 MOST4 WIDE8 WIDE4   queries whose sums fit the registers, of one vector of lanes and of two
 *   MIDDLE8                   what codes of 8 bits are too large by once loaded: 128, or 0 if load8 has taken it out
 *
 * Whole-number sums are exact, so neither their order nor the rows beside change them; every f32 number belongs to one
 * query and comes about in one way. Scores are worked on times log2(e): 2^x is cheaper than e^x. */
#include "kernels/attend.c.h"

/* The codes of a side, and how far away are those that the next call reads: each is asked for as its like is read. */
typedef struct warm_codes {
    const uint8_t *data;
    uintptr_t ahead;
} warm_codes;

static ALWAYS_INLINE const uint8_t *codes_at(warm_codes codes, int64_t at) {
    __builtin_prefetch((const void *)((uintptr_t)(codes.data + at) + codes.ahead));
    return codes.data + at;
}

/* Row q from number `at` on; rows are `step` bytes apart. */
static ALWAYS_INLINE ml_integer_row row_at(ml_integer_row first, int64_t step, int64_t q, int64_t at) {
    return (ml_integer_row){(int16_t *)(void *)((uint8_t *)first.integers + q * step) + at, first.high + q * step + at,
                            first.low + q * step + at};
}

/* Lanes [at, at + vectors W) of out {queries, lanes}: sums over n elements of rows times codes. */
static ALWAYS_INLINE void dot_lanes8(ml_integer_row x, int64_t step, const int queries, warm_codes codes, int64_t lanes,
                                     int64_t n, int64_t at, const int vectors, int32_t *out) {
    sums8 sum[BLOCK][2];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[q][v] = zero8();
    }
    for (int64_t i = 0; i < n; i += 4) {
        codes8 c[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) c[v] = load8(codes_at(codes, (i / 4 * lanes + at + v * W) * 4));
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[q][v] = add8(sum[q][v], c[v], row_at(x, step, q, i));
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) i_store(out + q * lanes + at + v * W, total8(sum[q][v]));
    }
}

static ALWAYS_INLINE void dot_lanes4(ml_integer_row x, int64_t step, const int queries, warm_codes codes, int64_t lanes,
                                     int64_t n, int64_t at, const int vectors, int32_t *out) {
    sums4 sum[BLOCK][2];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[q][v] = zero4();
    }
    for (int64_t i = 0; i < n; i += 8) {
        codes4 c[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) c[v] = load4(codes_at(codes, (i / 8 * lanes + at + v * W) * 4));
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[q][v] = add4(sum[q][v], c[v], row_at(x, step, q, i));
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) i_store(out + q * lanes + at + v * W, total4(sum[q][v]));
    }
}

/* As many vectors at once as leave the sums in registers. */
static ALWAYS_INLINE void dot_queries(ml_integer_row x, int64_t step, const int queries, const int bits,
                                      warm_codes codes, int64_t lanes, int64_t n, int32_t *out) {
    const int vectors = queries <= (bits == 8 ? WIDE8 : WIDE4) ? 2 : 1;
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
static ALWAYS_INLINE void dot_all(ml_integer_row x, int64_t step, int64_t queries, const int bits, warm_codes codes,
                                  int64_t lanes, int64_t n, int32_t *out) {
    const int most = bits == 8 ? MOST8 : MOST4;
    for (int64_t q = 0; q < queries; q += most) {
        const ml_integer_row row = row_at(x, step, q, 0);
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

static void dot(ml_integer_row x, int64_t step, int64_t queries, int bits, warm_codes codes, int64_t lanes, int64_t n,
                int32_t *out) {
    if (bits == 8) {
        dot_all(x, step, queries, 8, codes, lanes, n, out);
    } else {
        dot_all(x, step, queries, 4, codes, lanes, n, out);
    }
}

/* What a page has for every query: steps and zeros of its tokens widened, means of its keys' elements. */
typedef struct warm_side {
    warm_codes codes;
    const int16_t *means;
    float steps[PAGE], zeros[PAGE];
} warm_side;

/* Asks for what the next call reads, too. */
static void side_open(const void *side, const void *next, int64_t head_dim, int bits, int values, warm_side *out) {
    const uint16_t *numbers = side;
    const int64_t offset = ml_codes_offset(head_dim, bits, values);
    out->codes = (warm_codes){(const uint8_t *)side + offset, (uintptr_t)next - (uintptr_t)side};
    out->means = (const int16_t *)(numbers + 2 * PAGE);
    for (int t = 0; t < PAGE; t += W) {
        v_store(out->steps + t, v_load_f16(numbers + t));
        v_store(out->zeros + t, v_load_f16(numbers + PAGE + t));
    }
    for (int64_t i = 0; i < offset; i += 64) __builtin_prefetch((const void *)((uintptr_t)next + (uintptr_t)i));
}

/* 2^x for x <= 0: 2^n * 2^r with |r| <= 1/2 and a polynomial of degree 4 (through Chebyshev's nodes: 7e-6 relative, a
 * quarter of what weights are rounded by anyway). 0 below -150; NaN stays. */
static inline vf v_exp2(vf x) {
    x = v_max(v_set(-151.0f), x);
    const vf n = v_round(x), r = x - n;
    vf p = v_fma(r, v_set(0.00965671029f), v_set(0.0558382829f));
    p = v_fma(p, r, v_set(0.240225301f));
    p = v_fma(p, r, v_set(0.693136734f));
    p = v_fma(p, r, v_set(1.0f));
    return v_power(p, n);
}

enum { ROW = 4 * PAGE }; /* bytes of a row of integers */

/* Up to BLOCK queries, from query `first` on, while a page is worked on: step by step for all of them, since each step
 * of one query waits for the step before. */
typedef struct warm_block {
    int64_t first, queries, from, to;
    _Alignas(
        64) int32_t dots[BLOCK * ML_MAX_HEAD_DIM]; /* {queries, PAGE} of keys, then {queries, head_dim} of values */
    _Alignas(64) float score[BLOCK * PAGE];        /* then weights */
    _Alignas(64) uint8_t rows[BLOCK * ROW];        /* weights in integers */
    float after[BLOCK], keep[BLOCK], scale[BLOCK], shared[BLOCK];
} warm_block;

static const float log2_e = 1.44269504f;

/* Scores times log2(e). */
static void find_scores(const ml_attend *work, const warm_side *side, warm_block *b) {
    const int64_t dim = work->head_dim, bytes = ml_query_bytes(dim);
    const uint8_t *queries = work->integers + b->first * bytes;
    const float unit = work->key_unit * log2_e;
    const int few = work->key_bits == 4;
    float shared[BLOCK] = {0};
    for (int64_t i = 0; few && i < b->queries; i++) {
        const uint8_t *q = queries + i * bytes;
        shared[i] = v_sum(word_dots((const int16_t *)(const void *)(q + sizeof(ml_query)), side->means, dim));
    }
    for (int64_t i = 0; i < b->queries; i++) {
        const ml_query *q = (const void *)(queries + i * bytes);
        const int32_t middle = few ? 8 * q->high_sum : MIDDLE8 * q->integer_sum;
        const vf scale = v_set(q->scale * unit * (few ? 256.0f : 1.0f)), sum = v_set(q->sum * unit);
        const vf base = v_set(shared[i] * (q->scale * unit));
        for (int64_t t = 0; t < PAGE; t += W) {
            const vf count = to_float(i_subtract(i_load(b->dots + i * PAGE + t), middle));
            const vf constant = v_fma(v_load(side->zeros + t), sum, base);
            v_store(b->score + i * PAGE + t, v_fma(count, v_load(side->steps + t) * scale, constant));
        }
    }
}

/* Tokens outside [from, to) get no weight. */
static void mask_scores(warm_block *b) {
    for (int64_t i = 0; i < b->queries; i++) {
        float *s = b->score + i * PAGE;
        for (int64_t t = 0; t < b->from; t++) s[t] = -INFINITY;
        for (int64_t t = b->to; t < PAGE; t++) s[t] = -INFINITY;
    }
}

/* Finds what is the top now, and what the sums so far shrink by. */
static void find_tops(const ml_attend *work, warm_block *b) {
    float here[BLOCK];
    for (int64_t i = 0; i < b->queries; i++) {
        const float *s = b->score + i * PAGE;
        vf best = v_load(s);
        for (int64_t t = W; t < PAGE; t += W) best = v_max(v_load(s + t), best);
        here[i] = v_top(best);
    }
    for (int64_t i = 0; i < b->queries; i++) {
        const float before = work->top[b->first + i] * log2_e;
        b->after[i] = before;
        b->keep[i] = 1;
        if (here[i] > before) {
            b->after[i] = here[i];
            b->keep[i] = first_lane(v_exp2(v_set(before - here[i])));
            work->top[b->first + i] = here[i] * 0.693147181f;
        }
    }
}

/* Scores become weights. */
static void find_weights(const ml_attend *work, warm_block *b) {
    for (int64_t i = 0; i < b->queries; i++) {
        float *s = b->score + i * PAGE, *sum = work->sum + b->first + i;
        const vf base = v_set(b->after[i]);
        vf total = v_set(0);
        for (int64_t t = 0; t < PAGE; t += W) {
            const vf p = v_exp2(v_load(s + t) - base);
            v_store(s + t, p);
            total = total + p;
        }
        *sum = *sum * b->keep[i] + v_sum(total);
    }
}

/* Weights times the steps of the values become integers; what they and the zeros leave to add to each element is
 * in `shared`. */
static void round_weights(const ml_attend *work, const warm_side *side, warm_block *b) {
    const ml_integer_row row = {(void *)b->rows, (void *)(b->rows + 2 * PAGE), (void *)(b->rows + 3 * PAGE)};
    const int bits = work->value_bits;
    const float parts = bits == 4 ? ML_INTEGER_TOP / 256 : ML_INTEGER_TOP, middle = bits == 4 ? -8 : -MIDDLE8;
    float inverse[BLOCK];
    for (int64_t i = 0; i < b->queries; i++) {
        const float *p = b->score + i * PAGE;
        vf top = v_set(0);
        for (int64_t t = 0; t < PAGE; t += W) top = v_max(v_load(p + t) * v_load(side->steps + t), top);
        const float most = v_top(top);
        b->scale[i] = most * (1 / parts);
        inverse[i] = most > 1e-30f ? parts / most : 0;
    }
    for (int64_t i = 0; i < b->queries; i++) {
        const vf factor = v_set(inverse[i]), offset = v_set(b->scale[i] * middle);
        vf constant = v_set(0);
        for (int64_t t = 0; t < PAGE; t += W) {
            const vf p = v_load(b->score + i * PAGE + t);
            const vf integers = integer_store(p * v_load(side->steps + t) * factor, bits, row_at(row, ROW, i, t));
            constant = v_fma(p, v_load(side->zeros + t), v_fma(integers, offset, constant));
        }
        b->shared[i] = v_sum(constant);
    }
}

/* acc = keep acc + p V. */
static void add_values(const ml_attend *work, const warm_side *side, warm_block *b) {
    const int64_t dim = work->head_dim;
    const ml_integer_row row = {(void *)b->rows, (void *)(b->rows + 2 * PAGE), (void *)(b->rows + 3 * PAGE)};
    dot(row, ROW, b->queries, work->value_bits, side->codes, dim, PAGE, b->dots);
    for (int64_t i = 0; i < b->queries; i++) {
        float *acc = work->acc + (b->first + i) * dim;
        const vf scale = v_set(b->scale[i] * work->value_unit), shared = v_set(b->shared[i] * work->value_unit);
        const vf keep = v_set(b->keep[i]);
        for (int64_t d = 0; d < dim; d += W) {
            const vf more = v_fma(to_float(i_load(b->dots + i * dim + d)), scale, shared);
            v_store(acc + d, v_fma(v_load(acc + d), keep, more));
        }
    }
}

/* The queries of the block against the page. */
static void attend_block(const ml_attend *work, const warm_side *keys, const warm_side *values, attend_side plain_keys,
                         attend_side plain_values, warm_block *b) {
    const int64_t dim = work->head_dim;
    if (work->key_bits == 16) {
        multiply(work->q + b->first * dim, dim, b->queries, plain_keys, work->dtype, 0, dim, NULL, b->score);
        for (int64_t t = 0; t < b->queries * PAGE; t += W) v_store(b->score + t, v_load(b->score + t) * v_set(log2_e));
    } else {
        const uint8_t *first = work->integers + b->first * ml_query_bytes(dim);
        dot(ml_query_row(first, dim), ml_query_bytes(dim), b->queries, work->key_bits, keys->codes, PAGE, dim, b->dots);
        find_scores(work, keys, b);
    }
    if (b->from > 0 || b->to < PAGE) mask_scores(b);
    find_tops(work, b);
    find_weights(work, b);
    if (work->value_bits == 16) {
        multiply(b->score, PAGE, b->queries, plain_values, work->dtype, b->from, b->to, b->keep,
                 work->acc + b->first * dim);
    } else {
        round_weights(work, values, b);
        add_values(work, values, b);
    }
}

/* Neighbouring rows that attend to the same tokens are worked on together, BLOCK queries at a time. */
static void attend_warm(const ml_attend *work) {
    const int64_t group = work->group, dim = work->head_dim;
    const attend_side plain_keys = {work->keys, PAGE, (uintptr_t)work->next_keys - (uintptr_t)work->keys};
    const attend_side plain_values = {work->values, dim, (uintptr_t)work->next_values - (uintptr_t)work->values};
    warm_side keys, values;
    warm_block block;
    if (work->key_bits != 16) side_open(work->keys, work->next_keys, dim, work->key_bits, 0, &keys);
    if (work->value_bits != 16) side_open(work->values, work->next_values, dim, work->value_bits, 1, &values);
    for (int64_t r = 0; r < work->rows;) {
        block.from = work->from[r];
        block.to = work->to[r];
        block.first = r * group;
        do r++;
        while (r < work->rows && work->from[r] == block.from && work->to[r] == block.to);
        for (; block.from < block.to && block.first < r * group; block.first += BLOCK) {
            block.queries = r * group - block.first < BLOCK ? r * group - block.first : BLOCK;
            attend_block(work, &keys, &values, plain_keys, plain_values, &block);
        }
    }
}
