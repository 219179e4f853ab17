/* What an architecture is: the names of its tensors, the sizes it reads, and what its layers do that others do not.
 * Each has a file of its own (llama.c ...), and architectures.c lists them all. */
#ifndef ML_MODEL_ARCH_H
#define ML_MODEL_ARCH_H

#include "model/keys.h"
#include "model/layer.h"

#include <stddef.h>

/* Sizes that shapes are made of; letters as in layer.h. */
enum {
    ML_NONE,
    ML_WIDTH,    /* D */
    ML_HEADS,    /* H */
    ML_HEAD_DIM, /* h */
    ML_QUERIES,  /* H h */
    ML_KEYS,     /* G h */
    ML_FFN,      /* F */
    ML_EXPERTS,  /* E */
};

enum { ML_VECTOR, ML_MATRIX };

/* A tensor of every layer. A vector has one size and a matrix {rows, columns}; one more size in front means that each
 * expert has its own. */
typedef struct ml_arch_tensor {
    const char *name; /* behind "blk.<layer>." */
    int kind;         /* ML_VECTOR: `place` is a const float *; ML_MATRIX: it is an ml_matrix */
    size_t place;     /* of the field in ml_layer */
    int shape[3];     /* sizes, outermost first, then ML_NONE */
    int optional;     /* a file may lack it: then the field stays zero */
} ml_arch_tensor;

typedef struct ml_arch {
    const char *name;              /* general.architecture */
    const ml_arch_tensor *tensors; /* of a layer; one without a name ends them */
    /* Reads the sizes that not every architecture has; for the others see ml_config_read(). */
    void (*read)(ml_keys *keys, ml_config *config);
    /* Tokens that `layer` sees, 0 for all; NULL where every layer sees all. */
    int64_t (*window)(const ml_config *config, int32_t layer);
    int tied_head;      /* a file without output.weight multiplies by the embedding once more */
    int rope_halves;    /* RoPE turns (i, i + d/2) instead of (2i, 2i + 1) */
    int yarn_fractions; /* the ends of YaRN's ramp are not rounded to whole frequencies */
    int clamped_swiglu; /* gpt-oss's activation instead of SwiGLU */
} ml_arch;

#endif
