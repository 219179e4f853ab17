/* The mover from hot to warm: full pages that the policy no longer keeps plain are quantised, in place for all who show
 * them. */
#ifndef ML_KV_QUANTISE_H
#define ML_KV_QUANTISE_H

#include "kv/state.h"

/* Applies the policy to all sequences, on all threads. Where memory for it runs out, the rest stays as it is. Returns 1
 * if an interrupt came while pages were brought up for it: the next call goes on. */
int ml_quantise(ml_cache *cache);
/* The page after the last one of a sequence that the policy no longer keeps plain; INT64_MAX: the policy quantises no
 * page of `layer`. */
int64_t ml_quantise_end(const ml_cache *cache, const ml_sequence *sequence, int32_t layer);

#endif
