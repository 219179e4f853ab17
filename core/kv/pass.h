/* What a forward pass says to the cache: which rows it adds, and when their keys and values stand there. In order:
 * ml_pass_begin(), ml_pass_expect() for each row, ml_pass_reserve(), the layers, ml_pass_append() for each row,
 * ml_pass_end(). */
#ifndef ML_KV_PASS_H
#define ML_KV_PASS_H

#include "kv/sequence.h"

/* Begins to count the rows of a pass. */
void ml_pass_begin(ml_cache *cache);
/* Counts a row that the pass adds to the sequence and returns its position, or ML_E_ARGUMENT: there is no such
 * sequence. */
int64_t ml_pass_expect(ml_cache *cache, int32_t sequence);
/* Makes room for all rows that are expected: they are the cache's last use. A failure leaves it as it was. */
int ml_pass_reserve(ml_cache *cache);
/* Gives back what was reserved. */
void ml_pass_abandon(ml_cache *cache);
/* Adds the token of a row: see ml_sequence_append(). */
void ml_pass_append(ml_cache *cache, int32_t sequence, int32_t id, int whole);
/* The rows are added: what is under way on the cache is over. */
void ml_pass_end(ml_cache *cache);

/* Makes room for `count` tokens after one sequence's length, as a pass of its own: pages that only it shows, zeroed
 * there, in memory. A failure leaves the sequence as it was. */
int ml_pass_reserve_one(ml_cache *cache, ml_sequence *sequence, int64_t count);

/* The sequence of a row that is under way. */
static inline const ml_sequence *ml_pass_sequence(const ml_cache *cache, int32_t number) {
    return &cache->sequences[number];
}

/* Changes whenever the pass under way is void. */
static inline uint64_t ml_pass_epoch(const ml_cache *cache) {
    return cache->epoch;
}

#endif
