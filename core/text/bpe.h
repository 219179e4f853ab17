/* Byte-level BPE: the scheme of GPT-2 and everything after it. */
#ifndef ML_TEXT_BPE_H
#define ML_TEXT_BPE_H

#include "text/merge.h"
#include "text/scheme.h"
#include "text/split.h"

typedef struct ml_bpe_pair {
    int32_t left, right;
    uint32_t rank; /* ML_MERGE_NONE in an empty slot */
    int32_t merged;
} ml_bpe_pair;

typedef struct ml_bpe {
    const ml_vocab *vocab;
    ml_splitter *splitter;
    ml_split_traits traits;
    ml_bpe_pair *pairs; /* hash table with open addressing */
    size_t mask;
    uint64_t seed;
} ml_bpe;

/* GPT-2's spelling of bytes as printable characters, turned back. */
size_t ml_bpe_spelling(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out);
/* Reads the pre-tokenizer and the merges. `vocab` must have been loaded with ml_bpe_spelling(). */
int ml_bpe_load(ml_bpe *bpe, ml_vocab *vocab, ml_weights *weights);
void ml_bpe_release(ml_bpe *bpe);
/* Encodes plain text. Runs of bytes that are no UTF-8 are pieces of their own. */
int ml_bpe_encode(const ml_bpe *bpe, ml_merger *merger, const uint8_t *text, size_t bytes, ml_ids *out);

#endif
