/* The model's sizes, from the metadata of its file. */
#include "base/error.h"
#include "load/weights.h"
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What is being read, so that the calls below stay short. */
typedef struct reader {
    const ml_weights *weights;
    const char *architecture;
    int status; /* of the first failure; later reads do nothing */
} reader;

/* "<architecture>.<name>" as an integer in [low, high]; `otherwise` where the key is missing, or an error when that is
 * below `low`. */
static int32_t read_int(reader *r, const char *name, int64_t low, int64_t high, int64_t otherwise) {
    if (r->status != ML_OK) return 0;
    char key[96];
    snprintf(key, sizeof key, "%s.%s", r->architecture, name);
    int64_t value = otherwise;
    int status = ml_meta_int(r->weights, key, 0, &value);
    if (status != ML_OK && !(status == ML_E_NOT_FOUND && otherwise >= low)) {
        r->status = ml_error(ML_E_FORMAT, "%s: the metadata lack an integer %s", ml_weights_path(r->weights), key);
    } else if (value < low || value > high) {
        r->status = ml_error(ML_E_FORMAT, "%s: %s is %lld, outside %lld..%lld", ml_weights_path(r->weights), key,
                             (long long)value, (long long)low, (long long)high);
    }
    return r->status == ML_OK ? (int32_t)value : 0;
}

/* "<architecture>.<name>" as a finite number above zero; `otherwise` where the key is missing, or an error when that
 * is 0. */
static double read_float(reader *r, const char *name, double otherwise) {
    if (r->status != ML_OK) return 0;
    char key[96];
    snprintf(key, sizeof key, "%s.%s", r->architecture, name);
    double value = otherwise;
    int status = ml_meta_float(r->weights, key, 0, &value);
    if (status != ML_OK && !(status == ML_E_NOT_FOUND && otherwise > 0)) {
        r->status = ml_error(ML_E_FORMAT, "%s: the metadata lack a number %s", ml_weights_path(r->weights), key);
    } else if (!(value > 0) || !isfinite(value)) {
        r->status = ml_error(ML_E_FORMAT, "%s: %s is %g, but must be above 0", ml_weights_path(r->weights), key, value);
    }
    return value;
}

static int read_architecture(const ml_weights *w, char out[32]) {
    const char *name;
    int64_t bytes;
    if (ml_meta_string(w, "general.architecture", 0, &name, &bytes) != ML_OK) {
        return ml_error(ML_E_FORMAT, "%s: the metadata lack general.architecture", ml_weights_path(w));
    }
    snprintf(out, 32, "%.*s", (int)(bytes < 31 ? bytes : 31), name);
    if (strcmp(out, "gpt-oss") != 0 && strcmp(out, "llama") != 0) {
        return ml_error(ML_E_UNSUPPORTED, "%s: architecture '%s' is not one moonloom runs (gpt-oss, llama)",
                        ml_weights_path(w), out);
    }
    return ML_OK;
}

/* RoPE scaling: none, linear or YaRN. */
static void read_rope(reader *r, ml_config *c) {
    if (r->status != ML_OK) return;
    const char *type = "none";
    int64_t bytes = 4;
    char key[64];
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->architecture);
    int status = ml_meta_string(r->weights, key, 0, &type, &bytes);
    const int yarn = bytes == 4 && memcmp(type, "yarn", 4) == 0;
    const int linear = bytes == 6 && memcmp(type, "linear", 6) == 0;
    const int none = bytes == 4 && memcmp(type, "none", 4) == 0;
    if ((status != ML_OK && status != ML_E_NOT_FOUND) || !(yarn || linear || none)) {
        r->status = ml_error(ML_E_UNSUPPORTED, "%s: %s is not one moonloom knows (none, linear, yarn)",
                             ml_weights_path(r->weights), key);
        return;
    }
    c->rope_base = read_float(r, "rope.freq_base", 10000);
    c->rope_factor = none ? 1 : read_float(r, "rope.scaling.factor", 0);
    if (!yarn) return;
    c->rope_original = read_int(r, "rope.scaling.original_context_length", 1, INT32_MAX, 0);
    c->yarn_beta_fast = read_float(r, "rope.scaling.yarn_beta_fast", 32);
    c->yarn_beta_slow = read_float(r, "rope.scaling.yarn_beta_slow", 1);
}

static void read_feed_forward(reader *r, ml_config *c) {
    if (strcmp(r->architecture, "gpt-oss") == 0) {
        c->experts = read_int(r, "expert_count", 1, 4096, -1);
        c->experts_used = read_int(r, "expert_used_count", 1, c->experts, -1);
        c->ffn_width = read_int(r, "expert_feed_forward_length", 1, 1 << 22, -1);
        return;
    }
    const int32_t experts = read_int(r, "expert_count", 0, INT32_MAX, 0);
    if (experts > 0) {
        r->status = ml_error(ML_E_UNSUPPORTED, "%s: a llama model with %d experts is not one moonloom runs",
                             ml_weights_path(r->weights), experts);
    }
    c->ffn_width = read_int(r, "feed_forward_length", 1, 1 << 22, -1);
}

/* Sizes that must fit together. */
static int check(const ml_weights *w, const ml_config *c) {
    const char *path = ml_weights_path(w);
    if (c->heads % c->kv_heads != 0) {
        return ml_error(ML_E_FORMAT, "%s: %d query heads cannot share %d key/value heads", path, c->heads, c->kv_heads);
    }
    if (c->head_dim % 8 != 0 || c->head_dim > 256) {
        return ml_error(ML_E_UNSUPPORTED, "%s: heads of %d elements are not supported (a multiple of 8 up to 256)",
                        path, c->head_dim);
    }
    if (c->rope_dims > c->head_dim || c->rope_dims % 2 != 0) {
        return ml_error(ML_E_FORMAT, "%s: RoPE over %d of %d elements of a head", path, c->rope_dims, c->head_dim);
    }
    if (c->rope_original > 0 && c->rope_base <= 1) {
        return ml_error(ML_E_FORMAT, "%s: a RoPE base of %g cannot be scaled by YaRN", path, c->rope_base);
    }
    return ML_OK;
}

int ml_config_read(const ml_weights *w, ml_config *c) {
    memset(c, 0, sizeof *c);
    int status = read_architecture(w, c->architecture);
    if (status != ML_OK) return status;
    reader r = {w, c->architecture, ML_OK};
    c->layers = read_int(&r, "block_count", 1, 4096, -1);
    c->width = read_int(&r, "embedding_length", 1, 1 << 20, -1);
    c->heads = read_int(&r, "attention.head_count", 1, 4096, -1);
    c->kv_heads = read_int(&r, "attention.head_count_kv", 1, 4096, c->heads);
    c->head_dim = read_int(&r, "attention.key_length", 1, 1 << 16, r.status == ML_OK ? c->width / c->heads : 0);
    c->rope_dims = read_int(&r, "rope.dimension_count", 1, 1 << 16, c->head_dim);
    c->context = read_int(&r, "context_length", 1, INT32_MAX, -1);
    c->norm_epsilon = read_float(&r, "attention.layer_norm_rms_epsilon", 0);
    read_rope(&r, c);
    read_feed_forward(&r, c);
    if (strcmp(c->architecture, "gpt-oss") == 0) {
        c->window_period = 2;
        c->window = read_int(&r, "attention.sliding_window", 1, INT32_MAX, -1);
    }
    return r.status == ML_OK ? check(w, c) : r.status;
}
