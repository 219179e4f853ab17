/* The model inside core: its sizes and where its weights lie. */
#ifndef ML_MODEL_MODEL_H
#define ML_MODEL_MODEL_H

#include "model/arch.h"
#include "model/rope.h"

#include <stdatomic.h>
#include <stddef.h>

/* Letters as in layer.h; V = vocabulary. */
struct ml_model {
    atomic_int references;
    ml_weights *weights; /* retained */
    const ml_arch *arch; /* what is not a size */
    ml_config config;
    ml_rope rope;
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

#endif
