/* Where the weights of a layer lie. */
#ifndef ML_MODEL_LAYER_H
#define ML_MODEL_LAYER_H

#include "kernels/linear.h"

#include <stdint.h>

/* D = width, H = heads, G = kv_heads, h = head_dim, E = experts (1 in a dense model), F = ffn_width. */
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

#endif
