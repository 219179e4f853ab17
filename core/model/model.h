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
    const float *sinks;                           /* {H}: a logit in each head's softmax that has no value, or NULL */
    const float *ffn_norm;                        /* {D} */
    ml_matrix router;                             /* {E, D}; unused in a dense model */
    const float *router_bias;                     /* {E} */
    ml_matrix gate, up, down;                     /* of expert 0: {F, D}, {F, D}, {D, F} */
    int64_t gate_step, up_step, down_step;        /* bytes from one expert to the next */
    const float *gate_bias, *up_bias, *down_bias; /* {E, F}, {E, F}, {E, D}, or NULL */
    int64_t window;                               /* tokens this layer sees; 0 means all */
} ml_layer;

struct ml_model {
    atomic_int references;
    ml_weights *weights; /* retained */
    ml_config config;
    int clamped_swiglu;       /* gpt-oss's activation instead of llama's */
    int rope_halves;          /* RoPE turns (i, i + d/2) instead of (2i, 2i + 1) */
    double *rope_frequencies; /* {rope_dims / 2}: radians a position */
    double rope_scale;        /* factor of cos and sin (YaRN's concentration) */
    ml_matrix embedding;      /* {V, D} */
    ml_matrix head;           /* {V, D} */
    const float *output_norm; /* {D} */
    struct ml_sketch *sketch; /* of the head, or NULL: made when it is first needed (sketch.h) */
    ml_layer *layers;
    float **copies; /* small vectors that did not lie in the file as aligned f32 */
    size_t copy_count, copy_capacity;
};

/* One more reference; pair it with ml_model_free(). */
void ml_model_retain(ml_model *model);
/* Reads the sizes from the metadata and checks that they fit together. */
int ml_config_read(const ml_weights *weights, ml_config *config);
/* Fills rope_frequencies and rope_scale. */
int ml_rope_prepare(ml_model *model);
/* cos and sin of every frequency at `position`, times rope_scale: f32 {rope_dims / 2} each, from float64 angles. */
void ml_rope_angles(const ml_model *model, int64_t position, float *cosines, float *sines);
/* Turns the first rope_dims elements of each of `heads` vectors of head_dim elements, in place. */
void ml_rope_apply(const ml_model *model, const float *cosines, const float *sines, float *vectors, int32_t heads);

#endif
