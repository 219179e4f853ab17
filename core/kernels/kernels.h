/* The kernels table: one set of function pointers per instruction set, chosen once (see ml_isa_set).
 *
 * Every kernel agrees with the one in scalar.c up to the order of f32 sums. Weights stay in their stored blocks;
 * activations are f32. Kernels run on the calling thread and allocate nothing. */
#ifndef ML_KERNELS_KERNELS_H
#define ML_KERNELS_KERNELS_H

#include "moonloom.h"

/* Columns that dot_rows takes at once at most. */
enum { ML_DOT_COLUMNS = 4 };

typedef struct ml_kernels {
    const char *isa;
    int64_t few_columns; /* up to this many, dot_rows beats unpacking rows once for a dense product (measured) */

    /* out[0..k) = the elements of one stored row, as f32. */
    void (*decode_row[ML_DTYPE_LIMIT])(const void *row, float *out, int64_t k);

    /* y[c*ldy + r] = dot(row r, x + c*ldx) for r in [0, rows), c in [0, columns), columns <= ML_DOT_COLUMNS.
     * Row r of the weights starts at w + r*stride bytes and holds k elements. */
    void (*dot_rows[ML_DTYPE_LIMIT])(const void *w, int64_t stride, int64_t rows, int64_t k, const float *x,
                                     int64_t ldx, int64_t columns, float *y, int64_t ldy);

    /* out[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon), i in [0, n). out may be x. (RMSNorm, arXiv:1910.07467) */
    void (*rms_norm)(const float *x, const float *weight, double epsilon, float *out, int64_t n);
    /* x[i] = exp(x[i]) / sum(exp(x)), stable. */
    void (*softmax)(float *x, int64_t n);
    /* out[i] = g * sigmoid(1.702 g) * (u + 1), g = min(gate[i], 7), u = clamp(up[i], -7, 7). (gpt-oss) out may be gate.
     */
    void (*swiglu_clamped)(const float *gate, const float *up, float *out, int64_t n);
    /* out[i] = gate[i] * sigmoid(gate[i]) * up[i]. (llama) out may be gate. */
    void (*swiglu)(const float *gate, const float *up, float *out, int64_t n);
    /* y[i] += a * x[i]. */
    void (*axpy)(float a, const float *x, float *y, int64_t n);

    /* One page of keys and values of one KV head against the queries that share it; online softmax (arXiv:2205.14135).
     * q: f32 {queries, head_dim}, already scaled. keys, values: {tokens, head_dim} of `dtype` (ML_F32 or ML_BF16),
     * packed. State per query, updated: top (running maximum), sum (of exp(score - top)), acc {queries, head_dim}
     * (weighted values). Start with top = -INFINITY, sum = 0, acc = 0. tokens <= 64, head_dim a multiple of 8 and <=
     * 256. */
    void (*attend)(const float *q, int64_t queries, int64_t head_dim, const void *keys, const void *values, int dtype,
                   int64_t tokens, float *top, float *sum, float *acc);
    /* Turns f32 into bf16, rounding to nearest even. */
    void (*to_bf16)(const float *x, uint16_t *out, int64_t n);
    /* Sum of `bytes` bytes (a multiple of 64) as 64-bit words, read as fast as the machine can: the bandwidth
     * yardstick. */
    uint64_t (*read_stream)(const void *area, int64_t bytes);
    /* `rounds` rounds of the multiplication that prefill lives on, in registers only. Returns the operations done (a
     * multiplication and an addition are two): the arithmetic yardstick. */
    double (*multiply_rounds)(int64_t rounds);
} ml_kernels;

/* The table in use. Never NULL. */
const ml_kernels *ml_kernels_get(void);
/* ML_E_UNSUPPORTED, with the sentence, if MOONLOOM_ISA asks for what this CPU or build has not: the first call that
 * can fail and will compute (ml_model_create, tensor products) asks here, so that nothing runs on another set than the
 * user named. */
int ml_kernels_ready(void);

/* One per instruction set. scalar fills every entry; the others start from it and replace what they do better. */
void ml_kernels_scalar(ml_kernels *table);
void ml_kernels_avx2(ml_kernels *table);
void ml_kernels_avx512(ml_kernels *table);

#endif
