/* The streaming decoder: bytes of tokens in, whole characters out. What can never become a character comes out as one
 * U+FFFD for each maximal subpart (Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts"). */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

struct ml_decoder {
    ml_tokenizer *tokenizer;
    ml_unprefix place;
    ml_utf8_state state;
    uint8_t *out; /* what the last call gave out */
    size_t count, capacity;
};

int ml_decoder_create(const ml_tokenizer *tokenizer, ml_decoder **out) {
    if (!tokenizer || !out) return ml_error(ML_E_ARGUMENT, "ml_decoder_create: tokenizer or out is NULL");
    ml_decoder *decoder = ml_calloc(1, sizeof *decoder);
    if (!decoder) return ML_E_MEMORY;
    decoder->tokenizer = (ml_tokenizer *)tokenizer; /* const to its users, but it counts them */
    atomic_fetch_add(&decoder->tokenizer->references, 1);
    *out = decoder;
    return ML_OK;
}

void ml_decoder_free(ml_decoder *decoder) {
    if (!decoder) return;
    ml_tokenizer_free(decoder->tokenizer);
    free(decoder->out);
    free(decoder);
}

/* Room for three bytes of replacement, or a whole character, for every byte. */
static int reserve(ml_decoder *decoder, size_t bytes) {
    decoder->count = 0;
    return ml_grow((void **)&decoder->out, &decoder->capacity, (bytes + sizeof decoder->state.held) * 4, 1);
}

/* Gives out the held bytes: as they are, or as U+FFFD. */
static void give(ml_decoder *decoder, int whole) {
    const uint8_t *text = whole ? decoder->state.held : (const uint8_t *)"\xef\xbf\xbd";
    size_t bytes = whole ? decoder->state.count : 3;
    memcpy(decoder->out + decoder->count, text, bytes);
    decoder->count += bytes;
    decoder->state.count = 0;
}

static void push_byte(ml_decoder *decoder, uint8_t byte) {
    int held = decoder->state.count > 0;
    int step = ml_utf8_push(&decoder->state, byte);
    if (step == ML_UTF8_PENDING) return;
    give(decoder, step == ML_UTF8_DONE);
    if (step == ML_UTF8_BAD && held) push_byte(decoder, byte);
}

int ml_decoder_push(ml_decoder *decoder, int32_t id, const char **bytes, int64_t *count) {
    const uint8_t *piece;
    size_t length;
    ml_unprefix place = decoder->place;
    int status = ml_tokenizer_text_at(decoder->tokenizer, id, &place, &piece, &length);
    if (status == ML_OK) status = reserve(decoder, length);
    if (status != ML_OK) return status;
    decoder->place = place;
    for (size_t i = 0; i < length; i++) push_byte(decoder, piece[i]);
    *bytes = (const char *)decoder->out;
    *count = (int64_t)decoder->count;
    return ML_OK;
}

int ml_decoder_flush(ml_decoder *decoder, const char **bytes, int64_t *count) {
    int status = reserve(decoder, 0);
    if (status != ML_OK) return status;
    if (decoder->state.count > 0) give(decoder, 0);
    decoder->place = (ml_unprefix){0};
    *bytes = (const char *)decoder->out;
    *count = (int64_t)decoder->count;
    return ML_OK;
}
