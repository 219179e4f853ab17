/* Tokens whose names in a text become them, before the text is tokenised: a sorted list of names. */
#ifndef ML_TEXT_SPECIAL_H
#define ML_TEXT_SPECIAL_H

#include "text/vocab.h"

typedef struct ml_specials {
    const ml_vocab *vocab;
    int32_t *ids; /* in the order of their bytes */
    size_t count;
    uint8_t first[256]; /* 1 for every byte that a name begins with */
    int only_first;     /* that byte if there is only one, else -1 */
} ml_specials;

/* Collects the tokens of the vocabulary that stand apart, or only the user-defined ones among them. */
int ml_specials_build(ml_specials *specials, const ml_vocab *vocab, int only_user);
void ml_specials_release(ml_specials *specials);
/* Finds the first name at or after `from`, the longest where several begin there. Returns its id and where it begins,
 * or -1 with *begin = bytes: also when interrupted, which the encoding of the rest finds, too. */
int32_t ml_specials_find(const ml_specials *specials, const uint8_t *text, size_t bytes, size_t from, size_t *begin);

#endif
