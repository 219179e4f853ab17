#include "model/attend_state.h"

int64_t ml_attention_parts(const ml_config *c) {
    return state_floats(c, ML_PART_ROWS) * c->kv_heads;
}

size_t ml_attention_scratch(const ml_config *c) {
    const int64_t states = 2 * state_floats(c, tile_rows(c)), ranges = 2 * tile_rows(c);
    return (size_t)(area_floats(c) + query_floats(c) + states + ranges) * sizeof(float);
}
