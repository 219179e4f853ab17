/* Merging a run of symbols, best pair first: the inner loop of byte-level BPE and of SentencePiece BPE alike.
 * (Sennrich et al., arXiv:1508.07909; the heap over a linked list is the usual way to make it O(n log n).) */
#ifndef ML_TEXT_MERGE_H
#define ML_TEXT_MERGE_H

#include <stddef.h>
#include <stdint.h>

enum { ML_MERGE_END = UINT32_MAX };
/* Rank of a pair that does not merge. */
#define ML_MERGE_NONE UINT32_MAX

typedef struct ml_symbol {
    uint32_t begin;  /* offset in the text */
    uint32_t length; /* bytes; 0 once it is merged into the one before */
    int32_t id;      /* token, or -1 */
    uint32_t prev;   /* neighbours, or ML_MERGE_END */
    uint32_t next;
    uint32_t rank;  /* of the pair (this, next): lower merges first */
    int32_t merged; /* id of what that pair makes */
} ml_symbol;

typedef struct ml_merger {
    ml_symbol *symbols;
    size_t count, symbol_capacity;
    uint64_t *heap; /* rank and position; entries that no longer hold are skipped */
    size_t heap_count, heap_capacity;
} ml_merger;

/* Rank of the pair (left, right) that lies at text + left->begin, or ML_MERGE_NONE; `merged` receives its token. */
typedef uint32_t (*ml_pair_rank)(const void *scheme, const uint8_t *text, const ml_symbol *left, const ml_symbol *right,
                                 int32_t *merged);

/* Takes all symbols out. */
static inline void ml_merger_clear(ml_merger *merger) {
    merger->count = 0;
}
/* Adds a symbol at the end. */
int ml_merger_add(ml_merger *merger, uint32_t begin, uint32_t length, int32_t id);
/* Merges until no pair does: lowest rank first, then leftmost. What is left hangs together from symbols[0] by `next`.
 */
int ml_merger_run(ml_merger *merger, const uint8_t *text, ml_pair_rank rank, const void *scheme);
void ml_merger_release(ml_merger *merger);

#endif
