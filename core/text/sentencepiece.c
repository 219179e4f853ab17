#include "text/sentencepiece.h"

#include "base/error.h"
#include "base/memory.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* U+2581, which stands for a space. */
static int is_space_mark(const uint8_t *text, size_t bytes) {
    return bytes >= 3 && text[0] == 0xe2 && text[1] == 0x96 && text[2] == 0x81;
}

/* Copies text with U+2581 as spaces. Returns the new length. */
static size_t unmark_spaces(const uint8_t *text, size_t bytes, uint8_t *out) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int mark = is_space_mark(text + i, bytes - i);
        out[count++] = mark ? ' ' : text[i];
        if (mark) i += 2;
    }
    return count;
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0xXX>" names, or -1. */
static int byte_name(const uint8_t *text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

size_t ml_sentencepiece_spelling(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out) {
    int byte = *type == ML_TOKEN_BYTE || *type == ML_TOKEN_NORMAL ? byte_name(text, bytes) : -1;
    if (byte >= 0) {
        *type = ML_TOKEN_BYTE;
        *out = (uint8_t)byte;
        return 1;
    }
    if (*type == ML_TOKEN_BYTE) *type = ML_TOKEN_NORMAL;
    if (*type == ML_TOKEN_NORMAL || *type == ML_TOKEN_UNUSED || *type == ML_TOKEN_USER)
        return unmark_spaces(text, bytes, out);
    memcpy(out, text, bytes);
    return bytes;
}

/* ---- loading ---------------------------------------------------------------------------------- */

/* A number that is lower for a higher score, and never ML_MERGE_NONE for a finite one. */
static uint32_t rank_of_score(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

static int load_scores(ml_sentencepiece *sp, const ml_vocabulary *source) {
    sp->rank = ml_calloc((size_t)sp->vocab->count, sizeof *sp->rank);
    if (!sp->rank) return ML_E_MEMORY;
    for (int32_t id = 0; id < sp->vocab->count; id++) {
        const float score = source->scores[id];
        if (!(score >= -3e38f && score <= 3e38f))
            return ml_error(ML_E_FORMAT, "%s: the score of token %d is no finite number", source->path, id);
        sp->rank[id] = rank_of_score(score);
    }
    return ML_OK;
}

/* Whether some token that text can become has a space after something else. */
static int joins_words(const ml_vocab *vocab) {
    for (int32_t id = 0; id < vocab->count; id++) {
        const uint8_t *text = ml_vocab_bytes(vocab, id);
        size_t bytes = ml_vocab_length(vocab, id), lead = 0;
        if (vocab->type[id] != ML_TOKEN_NORMAL && vocab->type[id] != ML_TOKEN_UNUSED) continue;
        while (lead < bytes && text[lead] == ' ') lead++;
        if (memchr(text + lead, ' ', bytes - lead)) return 1;
    }
    return 0;
}

int ml_sentencepiece_load(ml_sentencepiece *sp, ml_vocab *vocab, const ml_vocabulary *source) {
    sp->vocab = vocab;
    sp->prefix = source->add_space != 0;
    sp->unknown = source->unknown;
    for (int32_t id = vocab->count; id-- > 0;) {
        if (vocab->type[id] == ML_TOKEN_BYTE) vocab->byte_id[*ml_vocab_bytes(vocab, id)] = id;
        if (vocab->type[id] == ML_TOKEN_UNKNOWN && source->unknown < 0) sp->unknown = id;
    }
    sp->words_apart = !joins_words(vocab);
    return load_scores(sp, source);
}

void ml_sentencepiece_release(ml_sentencepiece *sp) {
    free(sp->rank);
}

/* ---- encoding --------------------------------------------------------------------------------- */

/* ml_pair_rank of SentencePiece: the score of the token that both symbols spell together. */
static uint32_t rank_pair(const void *scheme, const uint8_t *text, const ml_symbol *left, const ml_symbol *right,
                          int32_t *merged) {
    const ml_sentencepiece *sp = scheme;
    *merged = ml_vocab_find_plain(sp->vocab, text + left->begin, (size_t)left->length + right->length);
    return *merged >= 0 ? sp->rank[*merged] : ML_MERGE_NONE;
}

/* A character that is no token: its bytes, or the unknown token. */
static int put_bytes(const ml_sentencepiece *sp, const uint8_t *text, size_t bytes, ml_ids *out) {
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = sp->vocab->byte_id[text[i]];
        if (id >= 0) {
            ml_ids_put(out, id);
            continue;
        }
        if (sp->unknown < 0)
            return ml_error(ML_E_UNSUPPORTED, "the vocabulary has no token for byte 0x%02X and no unknown token",
                            text[i]);
        ml_ids_put(out, sp->unknown);
        break;
    }
    return ML_OK;
}

/* Merges text[0, bytes) character by character. */
static int encode_run(const ml_sentencepiece *sp, ml_merger *merger, const uint8_t *text, size_t bytes, ml_ids *out) {
    int status = ML_OK;
    ml_merger_clear(merger);
    for (size_t at = 0, length; at < bytes && status == ML_OK; at += length) {
        length = ml_utf8_length(text + at, bytes - at);
        if (length == 0) length = 1;
        int32_t id = ml_vocab_find_plain(sp->vocab, text + at, length);
        status = ml_merger_add(merger, (uint32_t)at, (uint32_t)length, id);
    }
    if (status == ML_OK) status = ml_merger_run(merger, text, rank_pair, sp);
    for (uint32_t at = 0; at != ML_MERGE_END && status == ML_OK; at = merger->symbols[at].next) {
        const ml_symbol *symbol = &merger->symbols[at];
        if (symbol->id >= 0)
            ml_ids_put(out, symbol->id);
        else
            status = put_bytes(sp, text + symbol->begin, symbol->length, out);
    }
    return status;
}

/* End of the word that starts at `at`: its leading spaces and what follows up to the next space. */
static size_t word_end(const uint8_t *text, size_t bytes, size_t at) {
    while (at < bytes && text[at] == ' ') at++;
    const uint8_t *space = memchr(text + at, ' ', bytes - at);
    return space ? (size_t)(space - text) : bytes;
}

int ml_sentencepiece_encode(const ml_sentencepiece *sp, ml_merger *merger, const uint8_t *text, size_t bytes,
                            ml_ids *out) {
    if (bytes == 0) return ML_OK;
    uint8_t *copy = ml_alloc_aligned(bytes + 1, 1);
    if (!copy) return ML_E_MEMORY;
    size_t lead = sp->prefix != 0;
    if (lead) *copy = ' ';
    size_t count = lead + unmark_spaces(text, bytes, copy + lead);
    int status = ML_OK;
    for (size_t at = 0, end; at < count && status == ML_OK; at = end) {
        end = sp->words_apart ? word_end(copy, count, at) : count;
        status = ml_interrupt_pending() ? ml_error(ML_E_INTERRUPTED, "interrupted while tokenizing")
                                        : encode_run(sp, merger, copy + at, end - at, out);
    }
    free(copy);
    return status;
}
