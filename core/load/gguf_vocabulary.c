#include "load/gguf_vocabulary.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

static const char MODEL[] = "tokenizer.ggml.model";
static const char PRE[] = "tokenizer.ggml.pre";
static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char TYPES[] = "tokenizer.ggml.token_type";
static const char MERGES[] = "tokenizer.ggml.merges";
static const char SCORES[] = "tokenizer.ggml.scores";

/* ---- lists ------------------------------------------------------------------------------------ */

/* The array `key`, whose items are of `kind` (called `kind_name` in sentences); an array without items may have items
 * of any kind. ML_E_NOT_FOUND, without a sentence, if there is no such key. */
static int find_array(const ml_weights *weights, const char *key, int kind, const char *kind_name,
                      const ml_meta **out) {
    const ml_meta *meta = *out = ml_metadata_find(&weights->metadata, key);
    if (!meta) return ML_E_NOT_FOUND;
    if (meta->is_array && (meta->count == 0 || ml_stored_kind(meta->stored) == kind)) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s: %s is no array of %s", weights->path, key, kind_name);
}

/* Like find_array() for strings, which stay where they are. */
static int read_strings(const ml_weights *weights, const char *key, ml_strings *out) {
    const ml_meta *meta;
    int status = find_array(weights, key, ML_META_STRING, "strings", &meta);
    if (status == ML_OK && meta->count > 0) *out = ml_value_strings(meta);
    return status;
}

static int read_tokens(const ml_weights *weights, ml_vocabulary *out) {
    int status = read_strings(weights, TOKENS, &out->tokens);
    if (status == ML_E_NOT_FOUND) {
        return ml_error(status, "%s: there is no vocabulary (%s is missing)", weights->path, TOKENS);
    }
    if (status) return status;
    if (out->tokens.count >= 1 && out->tokens.count <= ML_VOCABULARY_MOST) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s: a vocabulary of %lld tokens", weights->path, (long long)out->tokens.count);
}

/* Like find_array() for a list that has an item for each token. */
static int find_parallel(const ml_weights *weights, const char *key, int kind, const char *kind_name, int64_t tokens,
                         const ml_meta **out) {
    int status = find_array(weights, key, kind, kind_name, out);
    if (status || (*out)->count == tokens) return status;
    return ml_error(ML_E_FORMAT, "%s: %s has %lld items for %lld tokens", weights->path, key, (long long)(*out)->count,
                    (long long)tokens);
}

static int read_types(const ml_weights *weights, ml_vocabulary *out) {
    const int64_t count = out->tokens.count;
    const ml_meta *meta;
    int status = find_parallel(weights, TYPES, ML_META_INT, "integers", count, &meta);
    if (status == ML_E_NOT_FOUND) return ML_OK;
    if (status) return status;
    out->types = ml_calloc((size_t)count, sizeof *out->types);
    if (!out->types) return ML_E_MEMORY;
    for (int64_t id = 0; id < count; id++) {
        int64_t type = INT64_MAX; /* stays where it is larger still */
        ml_value_int(meta, id, &type);
        if (type < ML_TOKEN_NORMAL || type > ML_TOKEN_BYTE) {
            return ml_error(ML_E_FORMAT, "%s: %s of token %lld is %lld, which is no token type (1..6)", weights->path,
                            TYPES, (long long)id, (long long)type);
        }
        out->types[id] = (uint8_t)type;
    }
    return ML_OK;
}

static int read_scores(const ml_weights *weights, ml_vocabulary *out) {
    const int64_t count = out->tokens.count;
    const ml_meta *meta;
    int status = find_parallel(weights, SCORES, ML_META_FLOAT, "floats", count, &meta);
    if (status == ML_E_NOT_FOUND) {
        return ml_error(ML_E_FORMAT, "%s: %s is missing, which SentencePiece BPE needs", weights->path, SCORES);
    }
    if (status) return status;
    out->scores = ml_calloc((size_t)count, sizeof *out->scores);
    if (!out->scores) return ML_E_MEMORY;
    for (int64_t id = 0; id < count; id++) {
        double score = 0;
        ml_value_float(meta, id, &score);
        out->scores[id] = (float)score;
    }
    return ML_OK;
}

/* ---- ids and flags ---------------------------------------------------------------------------- */

/* The token that `key` names; *out stays if there is no such key. Some files say -1 or 2^32 - 1 for none. */
static int read_id(const ml_weights *weights, const char *key, int64_t tokens, int32_t *out) {
    int64_t value = -1;
    int status = ml_meta_int(weights, key, 0, &value);
    if (status == ML_E_NOT_FOUND) return ML_OK;
    if (status || value == -1 || value == UINT32_MAX) return status;
    if (value < 0 || value >= tokens) {
        return ml_error(ML_E_FORMAT, "%s: %s is %lld in a vocabulary of %lld", weights->path, key, (long long)value,
                        (long long)tokens);
    }
    *out = (int32_t)value;
    return ML_OK;
}

/* 0 or 1; *out stays if there is no such key. */
static int read_flag(const ml_weights *weights, const char *key, int *out) {
    int status = ml_meta_bool(weights, key, 0, out);
    return status == ML_E_NOT_FOUND ? ML_OK : status;
}

static int read_ends(const ml_weights *weights, ml_vocabulary *out) {
    static const char *const keys[ML_VOCABULARY_ENDS] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                                         "tokenizer.ggml.eom_token_id"};
    int status = ML_OK;
    for (int i = 0; i < ML_VOCABULARY_ENDS && status == ML_OK; i++) {
        status = read_id(weights, keys[i], out->tokens.count, &out->ends[i]);
    }
    return status;
}

/* ---- schemes ---------------------------------------------------------------------------------- */

static int is_string(const char *text, int64_t bytes, const char *wanted) {
    return (size_t)bytes == strlen(wanted) && memcmp(text, wanted, (size_t)bytes) == 0;
}

static int read_scheme(const ml_weights *weights, ml_vocabulary *out) {
    const char *model;
    int64_t bytes;
    int status = ml_meta_string(weights, MODEL, 0, &model, &bytes);
    if (status == ML_E_NOT_FOUND) {
        return ml_error(status, "%s: there is no tokenizer in this file (%s is missing)", weights->path, MODEL);
    }
    if (status) return status;
    out->scheme = is_string(model, bytes, "gpt2") ? ML_VOCABULARY_BYTE_LEVEL : ML_VOCABULARY_SENTENCEPIECE;
    if (out->scheme == ML_VOCABULARY_BYTE_LEVEL || is_string(model, bytes, "llama")) return ML_OK;
    return ml_error(ML_E_UNSUPPORTED, "%s: unknown tokenizer model '%.*s' (gpt2 and llama are known)", weights->path,
                    bytes < 64 ? (int)bytes : 64, model);
}

/* What byte-level BPE alone has. */
static int read_byte_level(const ml_weights *weights, ml_vocabulary *out) {
    int64_t bytes = 0;
    int status = ml_meta_string(weights, PRE, 0, &out->pre, &bytes);
    if (status != ML_OK && status != ML_E_NOT_FOUND) return status;
    out->pre_bytes = (size_t)bytes;
    out->merges_name = MERGES;
    status = read_strings(weights, MERGES, &out->merges);
    if (status != ML_E_NOT_FOUND) return status;
    return ml_error(ML_E_FORMAT, "%s: %s is missing, which byte-level BPE needs", weights->path, MERGES);
}

/* What SentencePiece alone has. */
static int read_sentencepiece(const ml_weights *weights, ml_vocabulary *out) {
    int status = read_scores(weights, out);
    if (!status) status = read_id(weights, "tokenizer.ggml.unknown_token_id", out->tokens.count, &out->unknown);
    if (!status) status = read_flag(weights, "tokenizer.ggml.add_space_prefix", &out->add_space);
    return status;
}

int ml_gguf_vocabulary(const ml_weights *weights, ml_vocabulary *out) {
    int status = read_scheme(weights, out);
    if (!status) status = read_tokens(weights, out);
    if (!status) status = read_types(weights, out);
    if (!status)
        status =
            out->scheme == ML_VOCABULARY_BYTE_LEVEL ? read_byte_level(weights, out) : read_sentencepiece(weights, out);
    if (!status) status = read_id(weights, "tokenizer.ggml.bos_token_id", out->tokens.count, &out->bos);
    if (!status) status = read_flag(weights, "tokenizer.ggml.add_bos_token", &out->add_bos);
    return status ? status : read_ends(weights, out);
}
