/* Lists of strings where a file holds them: read in place, for a vocabulary has half a million. */
#ifndef ML_LOAD_STRINGS_H
#define ML_LOAD_STRINGS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* To note where each string starts costs more time than to walk over a few: one in ML_STRINGS_STEP is noted. */
enum { ML_STRINGS_STEP = 16 };

/* `count` strings one after the other, each as its length in 8 bytes, little endian, and then its bytes, all checked to
 * lie in the file. Nothing here is owned. */
typedef struct ml_strings {
    int64_t count;
    size_t bytes; /* of all strings together, without their lengths */
    const uint8_t *data;
    const uint32_t *places; /* where strings 0, ML_STRINGS_STEP, 2 ML_STRINGS_STEP ... start, counted from `data` */
} ml_strings;

/* The string at *next, `bytes` long; *next becomes where the one after it starts. */
static inline const uint8_t *ml_string_next(const uint8_t **next, size_t *bytes) {
    uint64_t length;
    memcpy(&length, *next, sizeof length);
    const uint8_t *text = *next + sizeof length;
    *next = text + length;
    *bytes = (size_t)length;
    return text;
}

/* Where string `index`, 0 <= index < count, starts: what ml_string_next() goes on from. */
static inline const uint8_t *ml_strings_at(const ml_strings *strings, int64_t index) {
    const uint8_t *at = strings->data + strings->places[index / ML_STRINGS_STEP];
    size_t bytes;
    for (int64_t i = index % ML_STRINGS_STEP; i > 0; i--) ml_string_next(&at, &bytes);
    return at;
}

#endif
