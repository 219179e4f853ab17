/* Matrix times activations, on stored weights. */
#ifndef ML_KERNELS_LINEAR_H
#define ML_KERNELS_LINEAR_H

#include "moonloom.h"

#include <stddef.h>

/* One weight matrix as it lies in the file: `rows` rows (outputs) of `cols` elements (inputs). */
typedef struct ml_matrix {
    const uint8_t *data;
    int64_t rows, cols;
    int64_t stride; /* bytes from one row to the next */
    int dtype;
} ml_matrix;

/* Activations: `columns` vectors, column c at x + c*ld; with ld 0 a single one that parts of one column share. Also as
 * the kernels multiply so many, one after the other: in tiles' bf16 (ml_kernels.tile_prepare) or in integers
 * (integer_quantize); NULL if neither. */
typedef struct ml_input {
    const float *x;
    int64_t ld, columns;
    uint8_t *integers;
} ml_input;

/* Fills `integers` of `in`, whose columns hold k elements, if the kernels have use for it; sets it NULL if not. Room:
 * columns * ml_integer_bytes(k), 64-byte aligned. `parts` is NULL if all columns are multiplied together; else they are
 * in parts (ml_input_part), and these are the first columns of each, ascending from 0, and the number of all. On the
 * thread pool. */
void ml_input_prepare(ml_input *in, int64_t k, const int32_t *parts, uint8_t *integers);
/* `columns` columns of k elements of `in`, from `first` on. */
ml_input ml_input_part(const ml_input *in, int64_t k, int64_t first, int64_t columns);

/* Rows of weights that one task handles: also the panel that is decoded at once for many columns. */
enum { ML_LINEAR_PANEL = 32 };

/* Bytes of scratch per thread that a matrix of `cols` inputs needs. */
size_t ml_linear_scratch(int64_t cols);

/* How the columns of `in` are multiplied with w: on the matrix unit, in integers, row by row in f32, or in f32 by
 * OpenBLAS, where alone the last bits of a row may depend on the rows beside it. */
enum { ML_LINEAR_TILES, ML_LINEAR_INTEGER, ML_LINEAR_DOTS, ML_LINEAR_DENSE };
int ml_linear_way(const ml_matrix *w, const ml_input *in);

/* y[c*ldy + r] = dot(row r of w, column c) + bias[r], for r in [begin, end) and every column of `in`; bias may be NULL.
 * Runs on the calling thread; `scratch` as ml_linear_scratch() says, 64-byte aligned. Where `in` is prepared, many
 * columns go to the matrix unit if there is one (but weights in f32 stay f32), and the others to the integer
 * kernels if the dtype has them. Else few columns, and plain dtypes with any number, use the dot kernels on stored
 * blocks; for many columns a panel of rows is decoded once and multiplied with OpenBLAS (a plain loop under
 * MOONLOOM_ISA=scalar). */
void ml_linear_rows(const ml_matrix *w, int64_t begin, int64_t end, const float *bias, const ml_input *in, float *y,
                    int64_t ldy, float *scratch);

/* y[c*ldy + r] = dot(row r of w, column c) + bias[r]; bias may be NULL. */
typedef struct ml_product {
    const ml_matrix *w;
    const float *bias;
    float *y;
    int64_t ldy;
} ml_product;

enum { ML_LINEAR_MOST = 3 };

/* All rows of up to ML_LINEAR_MOST products with the same input, in one region of the thread pool. Scratch must have
 * been reserved. */
void ml_linear(const ml_product *products, int64_t count, const ml_input *in);

#endif
