/* A sketch of a matrix: its rows in codes of 4 bits, from which the largest products are found by reading half of what
 * a matrix of 8 bits has.
 *
 * Element w of a row is step * (code - 7.5) * scale[column], off by less than one step: it was rounded up or down at
 * random, so that the code is right on average. The error of a row's product with x then is a sum of independent
 * errors of mean 0, each within step * scale * x, and Hoeffding's inequality (Probability Inequalities for Sums of
 * Bounded Random Variables, 1963) bounds it: it is over ML_SKETCH_DEVIATIONS * step * |scale * x| with a probability
 * below 2^-50. The largest product can hide from the bound only by its own row's error: so that is also the probability
 * with which a search by the sketch misses it. What is random is fixed by the matrix's shape: the same search always
 * finds the same. */
#ifndef ML_MODEL_SKETCH_H
#define ML_MODEL_SKETCH_H

#include "kernels/linear.h"

/* sqrt(ln(2^50) / 2) = 4.163, and something for the rounding of f32 on the way. */
#define ML_SKETCH_DEVIATIONS 4.2f

typedef struct ml_sketch {
    int64_t tiles, k;  /* of ML_SKETCH_ROWS rows; columns, a multiple of 8 */
    uint8_t *codes;    /* {tiles, k / 8, ML_SKETCH_ROWS, 4}: columns 0..3 of eight in low nibbles, 4..7 in high ones;
                        * NULL if rows are too large or small for f32 norms */
    float *step;       /* {rows} */
    float *norm;       /* {rows}: Euclidean norm of a row */
    float *plain_norm; /* {rows}: of a row divided by the scales */
    float *scale;      /* {k}: 0 past the matrix's columns */
    int64_t bytes;     /* of all that */
} ml_sketch;

/* Columns of the sketch of a matrix that has `cols`. */
static inline int64_t ml_sketch_columns(int64_t cols) {
    return (cols + 7) / 8 * 8;
}
/* Makes the sketch of a matrix, on all threads. */
int ml_sketch_create(const ml_matrix *matrix, ml_sketch **out);
void ml_sketch_free(ml_sketch *sketch);

#endif
