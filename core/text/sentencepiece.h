/* SentencePiece BPE (google/sentencepiece, bpe_model.cc): pairs merge by the score of what they make. */
#ifndef ML_TEXT_SENTENCEPIECE_H
#define ML_TEXT_SENTENCEPIECE_H

#include "text/merge.h"
#include "text/scheme.h"

typedef struct ml_sentencepiece {
    const ml_vocab *vocab;
    uint32_t *rank;  /* of each token: lower for a higher score */
    int words_apart; /* no token goes on past a space into the next word: words can be merged one by one */
    int32_t unknown; /* for characters without token where there are no byte tokens, or -1 */
    int prefix;      /* a space is put in front of a text */
} ml_sentencepiece;

/* The bytes of a token: U+2581 is a space, <0xXX> one byte. */
size_t ml_sentencepiece_spelling(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out);
/* Takes scores and options over from `source`. `vocab` must have been loaded from it with ml_sentencepiece_spelling().
 */
int ml_sentencepiece_load(ml_sentencepiece *sp, ml_vocab *vocab, const ml_vocabulary *source);
void ml_sentencepiece_release(ml_sentencepiece *sp);
/* Encodes plain text that begins a text or follows a special token. U+2581 in it counts as a space, as in the original.
 */
int ml_sentencepiece_encode(const ml_sentencepiece *sp, ml_merger *merger, const uint8_t *text, size_t bytes,
                            ml_ids *out);

#endif
