#include "text/utf8.h"

#include <string.h>

/* What a lead byte asks for: 0 if it leads nothing. */
static int lead_byte(ml_utf8_state *state, uint8_t byte) {
    state->low = 0x80;
    state->high = 0xbf;
    if (byte >= 0xc2 && byte <= 0xdf) return state->missing = 1;
    if (byte >= 0xe0 && byte <= 0xef) {
        if (byte == 0xe0) state->low = 0xa0;
        if (byte == 0xed) state->high = 0x9f;
        return state->missing = 2;
    }
    if (byte >= 0xf0 && byte <= 0xf4) {
        if (byte == 0xf0) state->low = 0x90;
        if (byte == 0xf4) state->high = 0x8f;
        return state->missing = 3;
    }
    return 0;
}

int ml_utf8_push(ml_utf8_state *state, uint8_t byte) {
    if (state->count == 0) {
        if (byte >= 0x80 && !lead_byte(state, byte)) return ML_UTF8_BAD;
        state->held[state->count++] = byte;
        return byte < 0x80 ? ML_UTF8_DONE : ML_UTF8_PENDING;
    }
    if (byte < state->low || byte > state->high) return ML_UTF8_BAD;
    state->held[state->count++] = byte;
    state->low = 0x80;
    state->high = 0xbf;
    return --state->missing ? ML_UTF8_PENDING : ML_UTF8_DONE;
}

size_t ml_utf8_length(const uint8_t *text, size_t bytes) {
    ml_utf8_state state = {0};
    for (size_t i = 0; i < bytes; i++) {
        int step = ml_utf8_push(&state, text[i]);
        if (step == ML_UTF8_DONE) return i + 1;
        if (step == ML_UTF8_BAD) return 0;
    }
    return 0;
}

size_t ml_utf8_valid(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        uint64_t word;
        if (bytes - at >= sizeof word) {
            memcpy(&word, text + at, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                at += sizeof word;
                continue;
            }
        }
        size_t length = text[at] < 0x80 ? 1 : ml_utf8_length(text + at, bytes - at);
        if (length == 0) break;
        at += length;
    }
    return at;
}

size_t ml_utf8_invalid(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes && ml_utf8_length(text + at, bytes - at) == 0) at++;
    return at;
}
