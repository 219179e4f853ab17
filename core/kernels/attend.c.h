/* The products of attention to one page, written once for any width: a part of vector.c.h and of warm.c.h.
 *
 * Both products have one form, c = keep c + a b: scores = q K with K {head_dim, tokens}, then acc = keep acc + p V with
 * V {tokens, head_dim}. Every element of c is one chain of multiply-adds along i, in whatever block of queries it is
 * computed; so what a query gets does not depend on which others come along. */
#include "dtype/dtype.h"
#include "kernels/lanes.c.h"

#include <math.h>

enum { PAGE = ML_PAGE_TOKENS, BLOCK = 8 /* queries whose scores are worked on together */ };

/* The b of a product: packed rows of `lanes` elements, f32 or bf16. `ahead` is the distance in bytes to what will be
 * read next: it is asked for while this is multiplied. */
typedef struct attend_side {
    const void *data;
    int64_t lanes;
    uintptr_t ahead;
} attend_side;

enum { LINE_BF16 = 32 /* numbers of a line of the cache */ };

/* W elements from element `at` on; `ask` where a line begins. */
static ALWAYS_INLINE vf side_load(attend_side b, int64_t at, const int dtype, const int ask) {
    if (dtype == ML_F32) return v_load((const float *)b.data + at);
    const uint16_t *p = (const uint16_t *)b.data + at;
    if (ask) __builtin_prefetch((const void *)((uintptr_t)p + b.ahead));
    return v_load_bf16(p);
}

/* Lanes [at, at + vectors W) of c, {queries, lanes}; rows of a are `lda` apart. */
static ALWAYS_INLINE void multiply_lanes(const float *a, int64_t lda, const int queries, attend_side b, const int dtype,
                                         int64_t begin, int64_t end, int64_t at, const int vectors, const float *keep,
                                         float *c) {
    vf sum[BLOCK][4];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            sum[q][v] = v_set(0);
            if (keep) sum[q][v] = v_load(c + q * b.lanes + at + v * W) * v_set(keep[q]);
        }
    }
    for (int64_t i = begin; i < end; i++) {
        vf row[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            row[v] = side_load(b, i * b.lanes + at + v * W, dtype, v * W % LINE_BF16 == 0);
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
            const vf factor = v_set(a[q * lda + i]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[q][v] = v_fma(factor, row[v], sum[q][v]);
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) v_store(c + q * b.lanes + at + v * W, sum[q][v]);
    }
}

/* Sums that keep the multipliers busy and fit the registers (16 of 8 floats; 32 of 16 or 4). */
enum { SUMS = W == 8 ? 8 : 16 };

/* All lanes, SUMS sums at once. */
static ALWAYS_INLINE void multiply_queries(const float *a, int64_t lda, const int queries, attend_side b,
                                           const int dtype, int64_t begin, int64_t end, const float *keep, float *c) {
    const int vectors = queries <= SUMS / 4 ? 4 : 2;
    int64_t at = 0;
    for (; at + vectors * W <= b.lanes; at += vectors * W) {
        multiply_lanes(a, lda, queries, b, dtype, begin, end, at, vectors, keep, c);
    }
    for (; at < b.lanes; at += W) multiply_lanes(a, lda, queries, b, dtype, begin, end, at, 1, keep, c);
}

/* c[q][..] = keep[q] c[q][..] + the sum over i in [begin, end) of a[q][i] b[i][..]; without `keep` c starts as 0. */
static ALWAYS_INLINE void multiply_all(const float *a, int64_t lda, int64_t queries, attend_side b, const int dtype,
                                       int64_t begin, int64_t end, const float *keep, float *c) {
    const int most = SUMS / 2;
    for (int64_t q = 0; q < queries; q += most) {
        const float *x = a + q * lda, *k = keep ? keep + q : NULL;
        float *out = c + q * b.lanes;
        switch (queries - q < most ? queries - q : most) {
        case 1:
            multiply_queries(x, lda, 1, b, dtype, begin, end, k, out);
            break;
        case 2:
            multiply_queries(x, lda, 2, b, dtype, begin, end, k, out);
            break;
        case 3:
            multiply_queries(x, lda, 3, b, dtype, begin, end, k, out);
            break;
        case 4:
            multiply_queries(x, lda, 4, b, dtype, begin, end, k, out);
            break;
        case 5:
            multiply_queries(x, lda, 5, b, dtype, begin, end, k, out);
            break;
        case 6:
            multiply_queries(x, lda, 6, b, dtype, begin, end, k, out);
            break;
        case 7:
            multiply_queries(x, lda, 7, b, dtype, begin, end, k, out);
            break;
        default:
            multiply_queries(x, lda, most, b, dtype, begin, end, k, out);
        }
    }
}

static void multiply(const float *a, int64_t lda, int64_t queries, attend_side b, int dtype, int64_t begin, int64_t end,
                     const float *keep, float *c) {
    if (dtype == ML_F32) {
        multiply_all(a, lda, queries, b, ML_F32, begin, end, keep, c);
    } else {
        multiply_all(a, lda, queries, b, ML_BF16, begin, end, keep, c);
    }
}
