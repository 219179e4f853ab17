/* Which model a session is of. */
#include "base/hash.h"
#include "load/fingerprint.h"
#include "model/model.h"
#include "text/fingerprint.h"

#include <string.h>

static uint64_t add_real(uint64_t hash, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return ml_hash_add(hash, bits);
}

/* 1 if the sizes below do not say all about RoPE. Other models keep the identity that saved sessions know them by. */
static int turns_otherwise(const ml_model *model) {
    const ml_config *c = &model->config;
    if (c->rope_scaling != ML_ROPE_YARN) return c->rope_scaling == ML_ROPE_LONGROPE || c->rope_magnitude != 1;
    return !model->arch->yarn_fractions || c->yarn_ext_factor != 1 ||
           c->rope_magnitude != ml_rope_concentration(c->rope_factor, 1);
}

static uint64_t add_config(const ml_model *model, uint64_t hash) {
    const ml_config *c = &model->config;
    const int64_t sizes[] = {c->layers,        c->width,         c->heads,     c->kv_heads,     c->head_dim,
                             c->rope_dims,     c->ffn_width,     c->experts,   c->experts_used, c->window,
                             c->window_period, c->rope_original, c->vocabulary};
    const double reals[] = {c->norm_epsilon, c->rope_base, c->rope_factor, c->yarn_beta_fast, c->yarn_beta_slow};
    hash = ml_hash(c->architecture, (int64_t)strlen(c->architecture), hash);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) hash = ml_hash_add(hash, (uint64_t)sizes[i]);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) hash = add_real(hash, reals[i]);
    if (!turns_otherwise(model)) return hash;
    hash = ml_hash_add(hash, (uint64_t)c->rope_scaling);
    if (c->rope_scaling == ML_ROPE_LONGROPE) hash = ml_hash_add(hash, (uint64_t)(c->context > c->rope_original));
    return add_real(add_real(hash, c->rope_magnitude), c->yarn_ext_factor);
}

void ml_identity_of(const ml_model *model, const ml_tokenizer *tokenizer, ml_identity *out) {
    ml_weights_fingerprint(model->weights, out->model);
    for (int i = 0; i < 2; i++) out->model[i] = add_config(model, out->model[i]);
    ml_tokenizer_fingerprint(tokenizer, out->tokenizer);
}
