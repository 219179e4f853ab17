/* The model inside core: its sizes and where its weights lie. */
#ifndef ML_MODEL_MODEL_H
#define ML_MODEL_MODEL_H

#include "kernels/linear.h"
#include "moonloom.h"

#include <stdatomic.h>
#include <stddef.h>

/* D = width, H = heads, G = kv_heads, h = head_dim, E = experts (1 in a dense model), F = ffn_width, V = vocabulary. */
typedef struct ml_layer {
    const float *attn_norm;                              /* {D} */
    ml_matrix attn_q, attn_k, attn_v;                    /* {H h, D}, {G h, D}, {G h, D} */
    ml_matrix attn_output;                               /* {D, H h} */
    const float *q_bias, *k_bias, *v_bias, *output_bias; /* {rows of each}, or NULL */
    const float *q_norm, *k_norm;                        /* {h}: RMSNorm of each head before RoPE, or NULL */
    const float *sinks;                           /* {H}: a logit in each head's softmax that has no value, or NULL */
    const float *ffn_norm;                        /* {D} */
    ml_matrix router;                             /* {E, D}; unused in a dense model */
    const float *router_bias;                     /* {E} */
    ml_matrix gate, up, down;                     /* of expert 0: {F, D}, {F, D}, {D, F}; the others follow it */
    const float *gate_bias, *up_bias, *down_bias; /* {E, F}, {E, F}, {E, D}, or NULL */
    int64_t window;                               /* tokens this layer sees; 0 means all */
} ml_layer;

struct ml_model {
    atomic_int references;
    ml_weights *weights;        /* retained */
    const struct ml_arch *arch; /* what is not a size: arch.h */
    ml_config config;
    double *rope_frequencies; /* {rope_dims / 2}: radians a position */
    ml_matrix embedding;      /* {V, D} */
    ml_matrix head;           /* {V, D} */
    const float *output_norm; /* {D} */
    struct ml_sketch *sketch; /* of the head, or NULL: made when it is first needed (sketch.h) */
    ml_layer *layers;
    int64_t bytes_per_token; /* of weights that decoding one token reads */
    float **copies;          /* small vectors that did not lie in the file as aligned f32 */
    size_t copy_count, copy_capacity;
};

/* One more reference; pair it with ml_model_free(). */
void ml_model_retain(ml_model *model);
/* Fills rope_frequencies. */
int ml_rope_prepare(ml_model *model);
/* cos and sin of every frequency at `position`, times rope_magnitude: f32 {rope_dims / 2} each, from float64 angles. */
void ml_rope_angles(const ml_model *model, int64_t position, float *cosines, float *sines);
/* Turns the first rope_dims elements of each of `heads` vectors of head_dim elements, in place. */
void ml_rope_apply(const ml_model *model, const float *cosines, const float *sines, float *vectors, int32_t heads);

#endif
