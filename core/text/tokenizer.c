#include "text/tokenizer.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/weights.h"

#include <stdlib.h>
#include <string.h>

/* Symbols that scratch may keep between two calls. */
enum { KEPT_SYMBOLS = 1 << 20 };

/* ---- creation --------------------------------------------------------------------------------- */

static int load_scheme(ml_tokenizer *tokenizer, const ml_vocabulary *source) {
    tokenizer->is_bpe = source->scheme == ML_VOCABULARY_BYTE_LEVEL;
    int status =
        ml_vocab_load(&tokenizer->vocab, source, tokenizer->is_bpe ? ml_bpe_spelling : ml_sentencepiece_spelling);
    if (status != ML_OK) return status;
    return tokenizer->is_bpe ? ml_bpe_load(&tokenizer->bpe, &tokenizer->vocab, source)
                             : ml_sentencepiece_load(&tokenizer->sentencepiece, &tokenizer->vocab, source);
}

static void load_bos(ml_tokenizer *tokenizer, const ml_vocabulary *source) {
    tokenizer->bos = source->bos;
    tokenizer->wants_bos = tokenizer->is_bpe ? tokenizer->bpe.traits.bos : 1;
    if (source->add_bos >= 0) tokenizer->wants_bos = source->add_bos;
    if (tokenizer->bos < 0) tokenizer->wants_bos = 0;
}

static int32_t find_text(const ml_tokenizer *tokenizer, const char *text) {
    return ml_vocab_find(&tokenizer->vocab, (const uint8_t *)text, strlen(text));
}

/* Marks the tokens that end a generation: those that the file names, and those that models are known to have been
 * trained with, since a file names only one of several. */
static int load_ends(ml_tokenizer *tokenizer, const ml_vocabulary *source) {
    static const char *const names[] = {"<|return|>", "<|call|>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>"};
    tokenizer->is_end = ml_calloc((size_t)tokenizer->vocab.count, 1);
    if (!tokenizer->is_end) return ML_E_MEMORY;
    for (int i = 0; i < ML_VOCABULARY_ENDS; i++)
        if (source->ends[i] >= 0) tokenizer->is_end[source->ends[i]] = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = find_text(tokenizer, names[i]);
        if (id >= 0 && ml_vocab_is_apart(&tokenizer->vocab, id)) tokenizer->is_end[id] = 1;
    }
    /* Harmony: <|end|> ends a message, not the turn, whatever the file says. */
    int32_t end = find_text(tokenizer, "<|end|>");
    if (end >= 0 && find_text(tokenizer, "<|return|>") >= 0 && find_text(tokenizer, "<|channel|>") >= 0)
        tokenizer->is_end[end] = 0;
    return ML_OK;
}

/* A user-defined token that looks like <|this|> is a control token: converters do not agree on it, and plain text must
 * not become one. */
static void mark_controls(ml_vocab *vocab) {
    for (int32_t id = 0; id < vocab->count; id++) {
        const uint8_t *text = ml_vocab_bytes(vocab, id);
        size_t bytes = ml_vocab_length(vocab, id);
        if (vocab->type[id] == ML_TOKEN_USER && bytes > 4 && memcmp(text, "<|", 2) == 0 &&
            memcmp(text + bytes - 2, "|>", 2) == 0)
            vocab->type[id] = ML_TOKEN_CONTROL;
    }
}

static int load(ml_tokenizer *tokenizer, const ml_vocabulary *source) {
    tokenizer->merger = ml_calloc(1, sizeof *tokenizer->merger);
    if (!tokenizer->merger) return ML_E_MEMORY;
    int status = load_scheme(tokenizer, source);
    if (status != ML_OK) return status;
    mark_controls(&tokenizer->vocab);
    load_bos(tokenizer, source);
    status = load_ends(tokenizer, source);
    if (status == ML_OK) status = ml_specials_build(&tokenizer->specials, &tokenizer->vocab, 0);
    if (status == ML_OK) status = ml_specials_build(&tokenizer->user_specials, &tokenizer->vocab, 1);
    return status;
}

int ml_tokenizer_create(ml_weights *weights, ml_tokenizer **out) {
    if (!weights || !out) return ml_error(ML_E_ARGUMENT, "ml_tokenizer_create: weights or out is NULL");
    ml_tokenizer *tokenizer = ml_calloc(1, sizeof *tokenizer);
    if (!tokenizer) return ML_E_MEMORY;
    atomic_init(&tokenizer->references, 1);
    ml_vocabulary source;
    int status = ml_weights_vocabulary(weights, &source);
    if (status == ML_OK) status = load(tokenizer, &source);
    ml_vocabulary_release(&source);
    if (status != ML_OK) {
        ml_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return ML_OK;
}

void ml_tokenizer_free(ml_tokenizer *tokenizer) {
    if (!tokenizer || atomic_fetch_sub(&tokenizer->references, 1) > 1) return;
    ml_specials_release(&tokenizer->specials);
    ml_specials_release(&tokenizer->user_specials);
    ml_bpe_release(&tokenizer->bpe);
    ml_sentencepiece_release(&tokenizer->sentencepiece);
    ml_vocab_release(&tokenizer->vocab);
    if (tokenizer->merger) ml_merger_release(tokenizer->merger);
    free(tokenizer->merger);
    free(tokenizer->is_end);
    free(tokenizer);
}

/* ---- encoding --------------------------------------------------------------------------------- */

static int encode_plain(const ml_tokenizer *tokenizer, const uint8_t *text, size_t bytes, ml_ids *out) {
    if (tokenizer->is_bpe) return ml_bpe_encode(&tokenizer->bpe, tokenizer->merger, text, bytes, out);
    return ml_sentencepiece_encode(&tokenizer->sentencepiece, tokenizer->merger, text, bytes, out);
}

/* Plain stretches and the special tokens between them. */
static int encode_parts(const ml_tokenizer *tokenizer, const uint8_t *text, size_t bytes, int flags, ml_ids *out) {
    const ml_specials *specials = flags & ML_TOKENIZE_SPECIAL ? &tokenizer->specials : &tokenizer->user_specials;
    for (size_t at = 0; at < bytes;) {
        size_t begin;
        int32_t id = ml_specials_find(specials, text, bytes, at, &begin);
        int32_t bos = flags & ML_TOKENIZE_BOS && tokenizer->wants_bos ? tokenizer->bos : -1;
        if (at == 0 && bos >= 0 && !(begin == 0 && id == bos)) ml_ids_put(out, bos);
        int status = encode_plain(tokenizer, text + at, begin - at, out);
        if (status != ML_OK) return status;
        if (id < 0) break;
        ml_ids_put(out, id);
        at = begin + ml_vocab_length(&tokenizer->vocab, id);
    }
    return ML_OK;
}

int ml_tokenizer_encode(const ml_tokenizer *tokenizer, const char *text, int64_t bytes, int flags, int32_t *ids,
                        int64_t capacity, int64_t *count) {
    if (bytes < 0 || bytes > INT32_MAX)
        return ml_error(ML_E_ARGUMENT, "a text of %lld bytes: 0 to 2^31 - 1 can be tokenized at once",
                        (long long)bytes);
    if (capacity < 0 || (capacity > 0 && !ids) || (bytes > 0 && !text) || !count)
        return ml_error(ML_E_ARGUMENT, "ml_tokenizer_encode: text, ids or count is NULL, or capacity is negative");
    ml_ids out = {.ids = ids, .capacity = capacity};
    if (bytes == 0 && flags & ML_TOKENIZE_BOS && tokenizer->wants_bos) ml_ids_put(&out, tokenizer->bos);
    int status = encode_parts(tokenizer, (const uint8_t *)text, (size_t)bytes, flags, &out);
    if (tokenizer->merger->symbol_capacity > KEPT_SYMBOLS) {
        ml_merger_release(tokenizer->merger);
        *tokenizer->merger = (ml_merger){0};
    }
    if (status == ML_OK) *count = out.count;
    return status;
}

/* ---- decoding and questions ------------------------------------------------------------------- */

static int check_id(const ml_tokenizer *tokenizer, int64_t id) {
    if (ml_vocab_has(&tokenizer->vocab, id)) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "there is no token %lld: ids are 0 to %d", (long long)id,
                    tokenizer->vocab.count - 1);
}

int ml_tokenizer_text_at(const ml_tokenizer *tokenizer, int32_t id, ml_unprefix *place, const uint8_t **bytes,
                         size_t *count) {
    int status = check_id(tokenizer, id);
    if (status != ML_OK) return status;
    *bytes = ml_vocab_bytes(&tokenizer->vocab, id);
    *count = ml_vocab_length(&tokenizer->vocab, id);
    int apart = ml_vocab_is_apart(&tokenizer->vocab, id);
    if (!tokenizer->is_bpe && tokenizer->sentencepiece.prefix && !apart && !place->continues && *count > 0 &&
        **bytes == ' ') {
        ++*bytes;
        --*count;
    }
    place->continues = !apart;
    return ML_OK;
}

int ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count, char *text, int64_t capacity,
                        int64_t *bytes) {
    if (count < 0 || capacity < 0 || (count > 0 && !ids) || (capacity > 0 && !text) || !bytes)
        return ml_error(ML_E_ARGUMENT, "ml_tokenizer_decode: ids, text or bytes is NULL, or a count is negative");
    ml_unprefix place = {0};
    int64_t needed = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *piece;
        size_t length;
        int status = ml_tokenizer_text_at(tokenizer, ids[i], &place, &piece, &length);
        if (status != ML_OK) return status;
        if (needed < capacity) {
            int64_t room = capacity - needed;
            memcpy(text + needed, piece, (int64_t)length < room ? length : (size_t)room);
        }
        needed += (int64_t)length;
    }
    *bytes = needed;
    return ML_OK;
}

int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer) {
    return tokenizer->vocab.count;
}

int ml_tokenizer_piece(const ml_tokenizer *tokenizer, int32_t id, const char **bytes, int64_t *count) {
    int status = check_id(tokenizer, id);
    if (status != ML_OK) return status;
    *bytes = (const char *)ml_vocab_bytes(&tokenizer->vocab, id);
    *count = (int64_t)ml_vocab_length(&tokenizer->vocab, id);
    return ML_OK;
}

int ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id) {
    if (!ml_vocab_has(&tokenizer->vocab, id)) return 0;
    uint8_t type = tokenizer->vocab.type[id];
    return type == ML_TOKEN_CONTROL || type == ML_TOKEN_UNKNOWN;
}

int ml_tokenizer_is_end(const ml_tokenizer *tokenizer, int32_t id) {
    return ml_vocab_has(&tokenizer->vocab, id) && tokenizer->is_end[id];
}

int ml_tokenizer_find(const ml_tokenizer *tokenizer, const char *text, int32_t *id) {
    if (!text || !id) return ml_error(ML_E_ARGUMENT, "ml_tokenizer_find: text or id is NULL");
    int32_t found = find_text(tokenizer, text);
    if (found < 0) return ml_error(ML_E_NOT_FOUND, "no token of the vocabulary is '%.200s'", text);
    *id = found;
    return ML_OK;
}
