/* A batch inside core: its rows and the activations of one forward pass. */
#ifndef ML_MODEL_BATCH_H
#define ML_MODEL_BATCH_H

#include "model/model.h"

typedef struct ml_row {
    int32_t token;
    int32_t sequence;
    int64_t position;
    int64_t logits;   /* which row of the logits is its, or -1 */
    int want;         /* ML_WANT_... */
    int32_t best;     /* after the head, if it wants the best: the token, */
    float best_logit; /* and its logit */
} ml_row;

/* Neighbouring rows of one sequence that attend together. The context is cut into chunks at fixed positions; each gives
 * a partial result for each row, and these are merged in order (see attend.h). */
typedef struct ml_tile {
    int32_t row, rows;     /* the first, and how many */
    int32_t chunk, chunks; /* the first chunk that one of them sees, and how many */
    int64_t item, part;    /* chunks, and partial results of rows, of the tiles before it */
} ml_tile;

/* R = rows, S = slots: one for each (row, chosen expert), R * experts_used, or R in a dense model. Other letters as in
 * model.h. All arrays are f32 unless said, row-major, and belong to `arena`. */
struct ml_batch {
    atomic_int references; /* the handle and its views */
    ml_model *model;       /* retained */
    int64_t capacity, rows;
    int64_t wanted, wanted_logits; /* rows that want something of the head; those that want all logits */
    ml_row *row;

    /* The pass under way, from ml_forward_embed() on. */
    uint64_t epoch; /* of the cache after its pages were reserved; 0: none */
    int64_t active_rows;
    int whole_pass;       /* ml_forward() ran all of it: nobody can have changed what passed through */
    int32_t routed_layer; /* whose router ran last, or -1 */
    ml_work work;

    void *arena;
    int64_t arena_bytes;
    float *cosines, *sines; /* {R, rope_dims / 2} */
    float *residual;        /* {R, D} */
    float *normed;          /* {R, D} */
    float *q, *attended;    /* {R, H h} */
    float *k, *v;           /* {R, G h} */
    uint8_t *queries;       /* {G, capacity, H / G} of ml_query_bytes(h): q for quantised pages */
    ml_tile *tiles;         /* {R} */
    float *parts;           /* ml_attention_parts(): partial results of a context that threads share */
    float *router_logits;   /* {R, E} */
    int32_t *expert_ids;    /* {R, experts_used} */
    float *expert_weights;  /* {R, experts_used} */
    int32_t *slot_row;      /* {S}: the row of a slot; slots are sorted by expert */
    int32_t *row_slot;      /* {R, experts_used}: the slot of a choice */
    int32_t *expert_begin;  /* {E + 1}: first slot of each expert */
    int32_t *busy_experts;  /* {E}: experts that have slots */
    float *slots;           /* {S, D}: inputs of the experts, then their outputs */
    float *gate, *up;       /* {S, F} */
    uint8_t *integers;      /* {S, ml_integer_bytes(widest of D, H h, F)}: inputs of a product in integers */

    float *totals; /* {kv heads, R}: states of rows that attend to streamed pages (attend_stream.c); grows as it is
                      needed */
    size_t totals_capacity;
    float *logits; /* {wanted, V}, or a search for the best (best.c); grows as it is needed */
    size_t logits_capacity;
};

/* Checks that the steps of a pass are called in order: `batch` is under way with `cache`, and no interrupt waits. */
int ml_batch_check(const ml_cache *cache, const ml_batch *batch, int32_t layer);
/* Counts a matrix that served `columns` columns. */
void ml_batch_count(ml_batch *batch, const ml_matrix *matrix, int64_t columns);
/* Rows of the head that a search for the best brings together: in a thread's scratch, behind what products need. */
enum { ML_BEST_ROWS = 8 };
/* Floats of `logits` that a search for the best tokens takes; 0 if the rows do not go that way. */
size_t ml_best_floats(const ml_batch *batch);
/* Finds the best tokens of the rows, whose normed activations are `in`, by the model's sketch, which it makes if there
 * is none. *found is 0 if that cannot be done and all logits are needed. ML_E_MEMORY if there is no room for a sketch.
 */
int ml_best_find(ml_batch *batch, const ml_input *in, int *found);
/* RMSNorm of `rows` rows of the residual stream into `normed`, on all threads. */
void ml_batch_norm(ml_batch *batch, const float *weight);

#endif
