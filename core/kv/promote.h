/* Pages that attention needs and that are not in memory: a thread unpacks those of the next span while the caller works
 * on the present one.
 *
 * A span is a run of pages of one layer of one sequence. What the budget has room for comes back to stay; the rest lies
 * in one of two staging areas until the caller is done with its span. Everything but the unpacking itself happens on
 * the calling thread. */
#ifndef ML_KV_PROMOTE_H
#define ML_KV_PROMOTE_H

#include "kv/state.h"

typedef struct ml_span {
    int32_t layer, sequence;
    int64_t first, end; /* pages; an empty span is none */
} ml_span;

/* Pages that attention reads at a time: spans are some of these. */
enum { ML_PIECE_PAGES = 8 };

/* Pages of a span at most. */
int64_t ml_promote_pages(const ml_cache *cache);
/* ML_E_MEMORY with a sentence if the budget is too small for staging areas that hold spans of `least` pages. */
int ml_promote_fits(const ml_cache *cache, int64_t least);
/* Takes staging areas out of the pool, as the budget says: at least one span of `least` pages fits. */
int ml_promote_open(ml_cache *cache, int64_t least);
/* A staging area (0 or 1) and its size, or NULL if there is none. Nothing may be under way. */
uint8_t **ml_promote_area(ml_cache *cache, int i, int64_t *bytes);
/* All pages of `now` are readable until ml_promote_done(); `next` is unpacked meanwhile. ML_E_IO, ML_E_MEMORY: none is
 * promised then. */
int ml_promote_take(ml_cache *cache, const ml_span *now, const ml_span *next);
/* Staged pages of the present span are gone again. */
void ml_promote_done(ml_cache *cache);
/* Nothing is unpacked ahead any more: pages may change. */
void ml_promote_halt(ml_cache *cache);
void ml_promote_free(ml_cache *cache);

#endif
