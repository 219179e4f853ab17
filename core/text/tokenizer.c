#include "text/tokenizer.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/weights.h"

#include <stdlib.h>
#include <string.h>

/* Symbols that scratch may keep between two calls. */
enum { KEPT_SYMBOLS = 1 << 20 };

/* ---- creation --------------------------------------------------------------------------------- */

static int is_string(const char *text, int64_t bytes, const char *wanted) {
    return (size_t)bytes == strlen(wanted) && memcmp(text, wanted, (size_t)bytes) == 0;
}

static int load_scheme(ml_tokenizer *tokenizer, ml_weights *weights) {
    const char *model;
    int64_t bytes;
    int status = ml_meta_string(weights, "tokenizer.ggml.model", 0, &model, &bytes);
    if (status == ML_E_NOT_FOUND)
        return ml_error(status, "%s: there is no tokenizer in this file (tokenizer.ggml.model is missing)",
                        ml_weights_path(weights));
    if (status != ML_OK) return status;
    tokenizer->is_bpe = is_string(model, bytes, "gpt2");
    if (!tokenizer->is_bpe && !is_string(model, bytes, "llama"))
        return ml_error(ML_E_UNSUPPORTED, "%s: unknown tokenizer model '%.*s' (gpt2 and llama are known)",
                        ml_weights_path(weights), bytes < 64 ? (int)bytes : 64, model);
    if (tokenizer->is_bpe) {
        status = ml_vocab_load(&tokenizer->vocab, weights, ml_bpe_spelling);
        return status == ML_OK ? ml_bpe_load(&tokenizer->bpe, &tokenizer->vocab, weights) : status;
    }
    status = ml_vocab_load(&tokenizer->vocab, weights, ml_sentencepiece_spelling);
    return status == ML_OK ? ml_sentencepiece_load(&tokenizer->sentencepiece, &tokenizer->vocab, weights) : status;
}

/* Reads a key that names a token: *id = -1 if it is missing. Some files say -1 or 2^32 - 1 for none. */
static int load_id(const ml_tokenizer *tokenizer, ml_weights *weights, const char *key, int32_t *id) {
    int64_t value = -1;
    *id = -1;
    int status = ml_meta_int(weights, key, 0, &value);
    if (status == ML_E_NOT_FOUND) return ML_OK;
    if (status != ML_OK) return status;
    if (value == -1 || value == UINT32_MAX) return ML_OK;
    if (!ml_vocab_has(&tokenizer->vocab, value))
        return ml_error(ML_E_FORMAT, "%s: %s is %lld in a vocabulary of %d", ml_weights_path(weights), key,
                        (long long)value, tokenizer->vocab.count);
    *id = (int32_t)value;
    return ML_OK;
}

static int load_bos(ml_tokenizer *tokenizer, ml_weights *weights) {
    tokenizer->wants_bos = tokenizer->is_bpe ? tokenizer->bpe.traits.bos : 1;
    int status = load_id(tokenizer, weights, "tokenizer.ggml.bos_token_id", &tokenizer->bos);
    if (status == ML_OK) status = ml_meta_bool(weights, "tokenizer.ggml.add_bos_token", 0, &tokenizer->wants_bos);
    if (status == ML_E_NOT_FOUND) status = ML_OK;
    if (tokenizer->bos < 0) tokenizer->wants_bos = 0;
    return status;
}

static int32_t find_text(const ml_tokenizer *tokenizer, const char *text) {
    return ml_vocab_find(&tokenizer->vocab, (const uint8_t *)text, strlen(text));
}

/* Marks the tokens that end a generation: those that the file names, and those that models are known to have been
 * trained with, since a file names only one of several. */
static int load_ends(ml_tokenizer *tokenizer, ml_weights *weights) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    static const char *const names[] = {"<|return|>", "<|call|>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>"};
    tokenizer->is_end = ml_calloc((size_t)tokenizer->vocab.count, 1);
    if (!tokenizer->is_end) return ML_E_MEMORY;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id;
        int status = load_id(tokenizer, weights, keys[i], &id);
        if (status != ML_OK) return status;
        if (id >= 0) tokenizer->is_end[id] = 1;
    }
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

static int load(ml_tokenizer *tokenizer, ml_weights *weights) {
    tokenizer->merger = ml_calloc(1, sizeof *tokenizer->merger);
    if (!tokenizer->merger) return ML_E_MEMORY;
    int status = load_scheme(tokenizer, weights);
    if (status != ML_OK) return status;
    mark_controls(&tokenizer->vocab);
    status = load_bos(tokenizer, weights);
    if (status == ML_OK) status = load_ends(tokenizer, weights);
    if (status == ML_OK) status = ml_specials_build(&tokenizer->specials, &tokenizer->vocab, 0);
    if (status == ML_OK) status = ml_specials_build(&tokenizer->user_specials, &tokenizer->vocab, 1);
    return status;
}

int ml_tokenizer_create(ml_weights *weights, ml_tokenizer **out) {
    if (!weights || !out) return ml_error(ML_E_ARGUMENT, "ml_tokenizer_create: weights or out is NULL");
    ml_tokenizer *tokenizer = ml_calloc(1, sizeof *tokenizer);
    if (!tokenizer) return ML_E_MEMORY;
    atomic_init(&tokenizer->references, 1);
    int status = load(tokenizer, weights);
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
