/* A set of kernels, as a table of function pointers that each instruction set fills; kernels.h says which is in use.
 *
 * Every kernel agrees with the one in scalar.c up to the order of f32 sums, and the integer products up to the
 * rounding of activations that they say. Weights stay in their stored blocks. What a row or a column gives does not
 * depend on how many there are, except that ML_TILE_COLUMNS columns, or rows of queries, go to the matrix unit where
 * there is one. Kernels run on the calling thread and allocate nothing. */
#ifndef ML_KERNELS_SET_H
#define ML_KERNELS_SET_H

#include "moonloom.h"

/* Columns that dot_rows takes at once at most. */
enum { ML_DOT_COLUMNS = 4 };
/* Whole-number products: elements that share a scale; elements of a row that are unpacked at once; the scratch that
 * this takes: 32 rows of int16, their scales, an edge. */
enum {
    ML_INTEGER_BLOCK = 32,
    ML_INTEGER_CHUNK = 4096,
    ML_INTEGER_SCRATCH = ML_INTEGER_CHUNK * (32 * 2 + 32 * 4 / ML_INTEGER_BLOCK) + 4096
};

/* Bytes of a column of k elements in integers: int16 values and a scale a block, then room for the values as
 * bytes, four blocks together, and two sums a block (avx512 fills it; neon holds bytes only). A multiple of 64, and
 * columns do not follow at multiples of 4 KiB, where they would crowd the same sets of the L1 cache. */
static inline int64_t ml_integer_bytes(int64_t k) {
    const int64_t blocks = k / ML_INTEGER_BLOCK, fours = (blocks + 3) / 4;
    const int64_t values = (k * 2 + blocks * 4 + 63) / 64 * 64, bytes = fours * 8 * ML_INTEGER_BLOCK;
    const int64_t all = (values + bytes + blocks * 8 + 63) / 64 * 64;
    return all % 4096 == 0 ? all + 64 : all;
}

/* Products on a matrix unit: columns from which on they are used; rows that a call should have at most, so that columns
 * which do not fit the caches serve several panels; scratch. From half a tile of columns on, unpacking is paid back
 * (see tile.c.h); below, a product is near the limit of memory anyway, and decoding and verifying a few drafted tokens
 * stay the same numbers. */
enum { ML_TILE_COLUMNS = 8, ML_TILE_ROWS = 256, ML_TILE_SCRATCH = 192 << 10 };

/* Rows of a tile of a sketch (model/sketch.h). */
enum { ML_SKETCH_ROWS = 64 };

/* Tokens in a page of keys and values: what the attend kernel takes at once. */
enum { ML_PAGE_TOKENS = 64, ML_MAX_HEAD_DIM = 256 };

/* One page of one KV head against rows of queries that share the head: online softmax (arXiv:2205.14135), to be called
 * page after page with the same state. What a row gets depends on its own q, state, range and the page alone, to the
 * bit: not on the rows beside it (only a matrix unit asks for ML_TILE_COLUMNS of them), nor on what lies outside its
 * range. head_dim is a multiple of 8 up to 256. */
typedef struct ml_attend {
    int64_t rows, group, head_dim; /* `group` queries a row */
    const float *q;                /* {rows, group, head_dim}, already scaled */
    const int32_t *from, *to;      /* {rows}: a row attends to the tokens [from, to) of the page, perhaps to none */
    const void *keys, *values;     /* {head_dim, ML_PAGE_TOKENS} and {ML_PAGE_TOKENS, head_dim}, all of it readable */
    const void *next_keys, *next_values; /* what the next call reads, brought near meanwhile; else the same again */
    int dtype;                           /* of plain keys and values: ML_F32 or ML_BF16 */
    /* attend_warm only: sides of 16 bits are plain; of 8 or 4 they lie as core/kv/format.h says, in units. `integers`:
     * the queries as ml_query_quantize() makes them, turned as the keys were; needed if key_bits is not 16. */
    int key_bits, value_bits;
    float key_unit, value_unit;
    const uint8_t *integers; /* {rows, group} of ml_query_bytes(head_dim) */
    float *area;             /* {2, head_dim, ML_PAGE_TOKENS}: scratch */
    /* State {rows, group}: top, sum of exp(score - top), and the values weighted so {rows, group, head_dim}. Starts as
     * -INFINITY, 0, 0. Top is near the largest score so far, so that sums neither overflow nor vanish. */
    float *top, *sum, *acc;
} ml_attend;

/* A query in integers: x[i] is about scale * integers[i], integers[i] = 256 high[i] + low[i]; with less precision
 * 256 scale * high[i]. The arrays follow: int16 integers {head_dim}, int8 high {head_dim}, int8 low {head_dim}. */
typedef struct ml_query {
    float scale;
    float sum;                     /* of x */
    int32_t integer_sum, high_sum; /* of integers and high */
} ml_query;

/* Whole numbers: all of them, their high bytes, their low bytes. */
typedef struct ml_integer_row {
    int16_t *integers;
    int8_t *high, *low;
} ml_integer_row;

static inline ml_integer_row ml_query_row(const void *query, int64_t head_dim) {
    int16_t *integers = (int16_t *)(void *)((ml_query *)query + 1);
    return (ml_integer_row){integers, (int8_t *)(integers + head_dim), (int8_t *)(integers + head_dim) + head_dim};
}

/* The largest of `integers`: its high byte is 127 and its low one 0. Probabilities become integers likewise. */
enum { ML_INTEGER_TOP = 127 * 256 };

static inline int64_t ml_query_bytes(int64_t head_dim) {
    return (int64_t)sizeof(ml_query) + 4 * head_dim;
}
/* Quantises a query of head_dim elements; infinite or NaN ones make the scale NaN. The same on every machine. */
void ml_query_quantize(const float *x, int64_t head_dim, void *query);

/* The largest of n floats, NaN aside; -INFINITY if there is none. */
float ml_largest(const float *x, int64_t n);

/* Where the codes of a quantised side of a page begin: after f16 steps, zeros and, of keys with 4 bits, int16 means. */
static inline int64_t ml_codes_offset(int64_t head_dim, int bits, int values) {
    return 4 * ML_PAGE_TOKENS + (bits == 4 && !values ? 2 * head_dim : 0);
}

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
    /* The sum of exp(scale * x[i] - top), in double. */
    double (*exp_sum)(const float *x, int64_t n, double scale, double top);
    /* out[i] = g * sigmoid(1.702 g) * (u + 1), g = min(gate[i], 7), u = clamp(up[i], -7, 7). (gpt-oss) out may be gate.
     */
    void (*swiglu_clamped)(const float *gate, const float *up, float *out, int64_t n);
    /* out[i] = gate[i] * sigmoid(gate[i]) * up[i]. (llama) out may be gate. */
    void (*swiglu)(const float *gate, const float *up, float *out, int64_t n);
    /* y[i] += a * x[i]. */
    void (*axpy)(float a, const float *x, float *y, int64_t n);

    /* See ml_attend. */
    void (*attend)(const ml_attend *work);
    /* Attention to a page of which keys, values or both are quantised. Products with codes are exact in int32: of keys
     * with the integers of the query (8 bits: `integers`; 4 bits: `high`), of values with probability times step,
     * rounded to integers of at most ML_INTEGER_TOP (4 bits: at most 127) of the query's largest in the page. */
    void (*attend_warm)(const ml_attend *work);

    /* sums[c*ML_SKETCH_ROWS + r] = the sum of row r's codes times the bytes of column c. `codes`: a tile of a sketch,
     * {k / 8, ML_SKETCH_ROWS, 4}. `columns`: {k / 8, count, 8}. */
    void (*sketch)(const uint8_t *codes, int64_t k, const int8_t *columns, int64_t count, int32_t *sums);

    /* Products in integers (panel.c.h), for the dtypes that have an entry in integer_dot; NULL where the instruction
     * set gains nothing by them. Weights of these dtypes are int16 times a scale a block to begin with, and activations
     * become so: off by at most 2^-16 of the largest of their block. */

    /* One column of k floats, k a multiple of ML_INTEGER_BLOCK, to integers: ml_integer_bytes(k) bytes, 64-byte
     * aligned. */
    void (*integer_quantize)(const float *x, int64_t k, void *column);
    /* y[r] = dot(row r, column) for one column in that form. */
    void (*integer_dot[ML_DTYPE_LIMIT])(const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *column,
                                        float *y);
    /* y[c*ldy + r], the same for columns that follow each other, unpacking the rows once; equal to it bit for bit.
     * `scratch`: ML_INTEGER_SCRATCH bytes, 64-byte aligned. */
    void (*integer_multiply)(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                             int64_t count, float *y, int64_t ldy, void *scratch);

    /* Products on a matrix unit (tile.c.h), of every dtype that decodes but f32; NULL without one. */

    /* One column of k floats, k a multiple of ML_INTEGER_BLOCK, to bf16, or to two bf16 parts if `exact`: within the
     * ml_integer_bytes(k) bytes of a column in integers, 64-byte aligned. */
    void (*tile_prepare)(const float *x, int64_t k, int exact, void *column);
    /* y[c*ldy + r] for `count` columns in that form, which follow each other, at least 2. Weights become bf16, of two
     * parts if `exact` and their dtype has more bits. `scratch`: ML_TILE_SCRATCH bytes, 64-byte aligned. */
    void (*tile_multiply)(int dtype, const uint8_t *w, int64_t stride, int64_t rows, int64_t k, const void *columns,
                          int64_t count, int exact, float *y, int64_t ldy, void *scratch);

    /* Turns f32 into bf16, rounding to nearest even. */
    void (*to_bf16)(const float *x, uint16_t *out, int64_t n);
    /* Sum of `bytes` bytes (a multiple of 64) as 64-bit words, read as fast as the machine can: the bandwidth
     * yardstick. */
    uint64_t (*read_stream)(const void *area, int64_t bytes);
    /* `rounds` rounds of the multiplication that prefill lives on, in registers only. Returns the operations done (a
     * multiplication and an addition are two): the arithmetic yardstick. */
    double (*multiply_rounds)(int64_t rounds);
} ml_kernels;

/* One per instruction set. scalar fills every entry; the others start from it and replace what they do better. */
void ml_kernels_scalar(ml_kernels *table);
void ml_kernels_avx2(ml_kernels *table);
void ml_kernels_avx512(ml_kernels *table);
void ml_kernels_neon(ml_kernels *table);
void ml_kernels_amx(ml_kernels *table);
void ml_kernels_amx_emulated(ml_kernels *table);
/* The integer products alone; the second where the CPU has AVX-512 VNNI, the third where it has SDOT. */
void ml_kernels_avx2_panel(ml_kernels *table);
void ml_kernels_avx512_panel(ml_kernels *table);
void ml_kernels_neon_panel(ml_kernels *table);
/* attend_warm alone; the third where the CPU has AVX-512 VNNI, the last where it has SDOT. */
void ml_kernels_scalar_warm(ml_kernels *table);
void ml_kernels_avx2_warm(ml_kernels *table);
void ml_kernels_avx512_warm(ml_kernels *table);
void ml_kernels_neon_warm(ml_kernels *table);
void ml_kernels_neon_warm_dot(ml_kernels *table);

#endif
