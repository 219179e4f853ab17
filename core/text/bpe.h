/* Byte-level BPE: the scheme of GPT-2 and everything after it. */
#ifndef ML_TEXT_BPE_H
#define ML_TEXT_BPE_H

#include "text/merge.h"
#include "text/scheme.h"
#include "text/split.h"

/* A merge; its rank is its place in the list. It merges two parts of a token, so that its token and the length of the
 * left part say all. */
typedef struct ml_bpe_merge {
    uint32_t left;  /* bytes */
    uint32_t lower; /* another merge that makes the same token, with a lower rank: the rank + 1, or 0 */
} ml_bpe_merge;

typedef struct ml_bpe {
    const ml_vocab *vocab;
    ml_splitter *splitter;
    ml_split_traits traits;
    ml_bpe_merge *merges;
    uint32_t *highest; /* of each token: the highest rank of a merge that makes it, + 1; 0 where there is none */
    void *block;       /* what both point into */
    size_t block_bytes;
} ml_bpe;

/* GPT-2's spelling of bytes as printable characters, turned back. */
size_t ml_bpe_spelling(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out);
/* Takes the pre-tokenizer and the merges over from `source`. `vocab` must have been loaded from it with
 * ml_bpe_spelling(). */
int ml_bpe_load(ml_bpe *bpe, ml_vocab *vocab, const ml_vocabulary *source);
void ml_bpe_release(ml_bpe *bpe);
/* Encodes plain text. Runs of bytes that are no UTF-8 are pieces of their own. */
int ml_bpe_encode(const ml_bpe *bpe, ml_merger *merger, const uint8_t *text, size_t bytes, ml_ids *out);

#endif
