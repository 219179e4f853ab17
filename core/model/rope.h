#ifndef ML_MODEL_ROPE_H
#define ML_MODEL_ROPE_H

#include "model/arch.h"

/* How a position turns queries and keys. */
typedef struct ml_rope {
    int32_t dims, head_dim; /* the first `dims` elements of each head are turned */
    int halves;             /* in pairs (i, i + dims/2) instead of (2i, 2i + 1) */
    double magnitude;       /* factor of cos and sin */
    double *frequencies;    /* {dims / 2}: radians a position */
} ml_rope;

/* Reads how RoPE is scaled; needs config->context. */
void ml_rope_read(ml_keys *keys, ml_config *config);
/* What YaRN multiplies cos and sin by, so that attention stays as sharp over a context longer by `factor`; `share` is 1
 * but for models that say otherwise. */
double ml_rope_concentration(double factor, double share);
/* 1 if a model scaled like that has its divisors of frequencies in a tensor of that name. */
int ml_rope_divides(const ml_config *config, const char *tensor);
/* Fills `rope`, from the sizes and the divisors that the file may have; pair it with ml_rope_release(), also after a
 * failure. */
int ml_rope_prepare(ml_rope *rope, const ml_arch *arch, const ml_config *config, const ml_weights *weights);
void ml_rope_release(ml_rope *rope);
/* cos and sin of every frequency at `position`, times the magnitude: f32 {dims / 2} each, from float64 angles. */
void ml_rope_angles(const ml_rope *rope, int64_t position, float *cosines, float *sines);
/* Turns each of `heads` vectors of head_dim elements, in place. */
void ml_rope_apply(const ml_rope *rope, const float *cosines, const float *sines, float *vectors, int32_t heads);

#endif
