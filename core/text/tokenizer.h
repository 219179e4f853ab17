/* The tokenizer object inside core/text. */
#ifndef ML_TEXT_TOKENIZER_H
#define ML_TEXT_TOKENIZER_H

#include "text/bpe.h"
#include "text/sentencepiece.h"
#include "text/special.h"

#include <stdatomic.h>

struct ml_tokenizer {
    atomic_int references; /* the caller's, and one for each decoder */
    ml_vocab vocab;
    int is_bpe; /* byte-level BPE, else SentencePiece */
    ml_bpe bpe;
    ml_sentencepiece sentencepiece;
    ml_specials specials;      /* names that become tokens with ML_TOKENIZE_SPECIAL */
    ml_specials user_specials; /* names that always become tokens */
    int32_t bos;               /* begin-of-text token, or -1 */
    int wants_bos;             /* bos belongs in front of a text */
    uint8_t *is_end;           /* 1 for each token that ends a generation */
    ml_merger *merger;         /* scratch of encode */
};

/* Where decoding stands. Zeroed: at the start of a text, or after a special token, where the scheme puts a space. */
typedef struct ml_unprefix {
    int continues;
} ml_unprefix;

/* The bytes of `id` at this place in a text. */
int ml_tokenizer_text_at(const ml_tokenizer *tokenizer, int32_t id, ml_unprefix *place, const uint8_t **bytes,
                         size_t *count);

#endif
