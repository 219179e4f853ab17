/* UTF-8 as the Unicode Standard 15, section 3.9, table 3-7 defines it: no surrogates, nothing over U+10FFFF. */
#ifndef ML_TEXT_UTF8_H
#define ML_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Where a decoder stands inside a character. Zeroed: between two characters. */
typedef struct ml_utf8_state {
    uint8_t held[4]; /* bytes of the unfinished character */
    uint8_t count;   /* how many */
    uint8_t missing; /* continuation bytes still to come */
    uint8_t low;     /* the next one must lie in [low, high] */
    uint8_t high;
} ml_utf8_state;

enum { ML_UTF8_PENDING, ML_UTF8_DONE, ML_UTF8_BAD };

/* Takes `byte` into an unfinished or new character. ML_UTF8_DONE: held[0..count) is one whole character, clear `count`
 * before the next byte. ML_UTF8_BAD: the byte cannot follow; if count is 0 the byte itself is no part of any character,
 * else held[0..count) is a maximal subpart (one U+FFFD) and `byte` is to be offered again after clearing. */
int ml_utf8_push(ml_utf8_state *state, uint8_t byte);

/* Length (1..4) of the well-formed character that starts at `text`, 0 if there is none within `bytes`. */
size_t ml_utf8_length(const uint8_t *text, size_t bytes);
/* How many of the leading bytes are well-formed. */
size_t ml_utf8_valid(const uint8_t *text, size_t bytes);
/* How many of the leading bytes are in no well-formed character. */
size_t ml_utf8_invalid(const uint8_t *text, size_t bytes);

#endif
