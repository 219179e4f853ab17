/* Sequences of tokens and the pages that show them: finding, sharing, growing, cutting, writing; and what attention may
 * see of them. */
#ifndef ML_KV_SEQUENCE_H
#define ML_KV_SEQUENCE_H

#include "kv/page.h"

/* The sequence of that number, or NULL with ml_last_error() set. */
ml_sequence *ml_sequence_find(const ml_cache *cache, int32_t number);
/* Counts a use of the sequence: until another one is used, it is not given up. */
void ml_sequence_use(ml_cache *cache, ml_sequence *sequence);
/* Makes the sequence, which ends where a page does, show the first `tokens` of the pages {pages, layers} after its own,
 * and take their ids. ML_E_MEMORY leaves it as it was. */
int ml_sequence_share(ml_cache *cache, ml_sequence *sequence, ml_page *const *pages, const int32_t *ids,
                      int64_t tokens);
/* Makes room for `count` tokens after the sequence's length: pages that only it shows, zeroed there, in memory. On
 * failure some may be reserved. */
int ml_sequence_grow(ml_cache *cache, ml_sequence *sequence, int64_t count);
/* Gives back the pages that were reserved and hold no token. */
void ml_sequence_unreserve(ml_cache *cache, ml_sequence *sequence);
/* Adds the token of a row whose keys and values stand in every layer; `whole` if an ml_forward() computed it. */
void ml_sequence_append(ml_sequence *sequence, int32_t id, int whole);
/* Drops the tokens from `position` on. */
void ml_sequence_cut(ml_cache *cache, ml_sequence *sequence, int64_t position);
/* Gives back all that a sequence holds and leaves it zeroed. */
void ml_sequence_release(ml_cache *cache, ml_sequence *sequence);

/* The page of `layer` that holds `position`, and where the pointer to it lies. */
const ml_page *ml_sequence_page(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position);
ml_page *const *ml_sequence_slot(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position);
/* Writes keys and values, f32 {kv_heads, head_dim}, of the reserved `position` in `layer`, rounded to the cache's
 * dtype. */
void ml_sequence_write(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position,
                       const float *keys, const float *values);
/* 1 if a page of `layer` with one of the tokens [from, to) is quantised; is not in memory. */
int ml_sequence_quantised(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t from, int64_t to);
int ml_sequence_absent(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t from, int64_t to);
/* The first page that the window of a row after the sequence's end shows in `layer`; 0 without a window. */
int64_t ml_sequence_first_seen(const ml_cache *cache, const ml_sequence *sequence, int32_t layer);

#endif
