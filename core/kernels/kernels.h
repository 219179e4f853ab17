/* The kernels table: one set of function pointers per instruction set, chosen once (see ml_isa_set).
 *
 * Every kernel agrees with the one in scalar.c up to the order of f32 sums. Weights stay in their stored blocks;
 * activations are f32. Kernels run on the calling thread and allocate nothing. */
#ifndef ML_KERNELS_KERNELS_H
#define ML_KERNELS_KERNELS_H

#include "moonloom.h"

/* Columns that dot_rows takes at once at most. */
enum { ML_DOT_COLUMNS = 4 };

/* Tokens in a page of keys and values: what the attend kernel takes at once. */
enum { ML_PAGE_TOKENS = 64 };

/* One page of one KV head against rows of queries that share the head: online softmax (arXiv:2205.14135), to be called
 * page after page with the same state. What a row gets depends on its own q, state, range and the page alone, to the
 * bit: not on the rows beside it, nor on what lies outside its range. head_dim is a multiple of 8 up to 256. */
typedef struct ml_attend {
    int64_t rows, group, head_dim; /* `group` queries a row */
    const float *q;                /* {rows, group, head_dim}, already scaled */
    const int32_t *from, *to;      /* {rows}: a row attends to the tokens [from, to) of the page, perhaps to none */
    const void *keys, *values;     /* {head_dim, ML_PAGE_TOKENS} and {ML_PAGE_TOKENS, head_dim}, all of it readable */
    const void *next_keys, *next_values; /* what the next call reads, brought near meanwhile; else the same again */
    int dtype;                           /* of the page: ML_F32 or ML_BF16 */
    float *area;                         /* {2, head_dim, ML_PAGE_TOKENS}: scratch */
    /* State {rows, group}: running maximum, sum of exp(score - top), and the values weighted so {rows, group,
     * head_dim}. Starts as -INFINITY, 0, 0. */
    float *top, *sum, *acc;
} ml_attend;

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

    /* See ml_attend. */
    void (*attend)(const ml_attend *work);
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
