/* The model's sizes, from the metadata of its file. */
#include "model/config.h"

#include "base/error.h"
#include "model/architectures.h"
#include "model/rope.h"

#include <stdio.h>
#include <string.h>

static int find_architecture(const ml_weights *w, const ml_arch **out) {
    const char *name;
    int64_t bytes;
    if (ml_meta_string(w, "general.architecture", 0, &name, &bytes) != ML_OK) {
        return ml_error(ML_E_FORMAT, "%s: the metadata lack general.architecture", ml_weights_path(w));
    }
    *out = ml_arch_find(name, (size_t)bytes);
    if (*out) return ML_OK;
    char known[256];
    ml_arch_names(known, sizeof known);
    return ml_error(ML_E_UNSUPPORTED, "%s: architecture '%.*s' is not one moonloom runs (%s)", ml_weights_path(w),
                    (int)(bytes < 31 ? bytes : 31), name, known);
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
    if (c->rope_scaling == ML_ROPE_YARN && c->rope_base <= 1) {
        return ml_error(ML_E_FORMAT, "%s: a RoPE base of %g cannot be scaled by YaRN", path, c->rope_base);
    }
    return ML_OK;
}

int ml_config_read(const ml_weights *w, const ml_arch **arch, ml_config *c) {
    memset(c, 0, sizeof *c);
    int status = find_architecture(w, arch);
    if (status != ML_OK) return status;
    snprintf(c->architecture, sizeof c->architecture, "%s", (*arch)->name);
    ml_keys keys = {w, c->architecture, ML_OK};
    c->layers = ml_keys_int(&keys, "block_count", 1, 4096, -1);
    c->width = ml_keys_int(&keys, "embedding_length", 1, 1 << 20, -1);
    c->heads = ml_keys_int(&keys, "attention.head_count", 1, 4096, -1);
    c->kv_heads = ml_keys_int(&keys, "attention.head_count_kv", 1, 4096, c->heads);
    c->head_dim =
        ml_keys_int(&keys, "attention.key_length", 1, 1 << 16, keys.status == ML_OK ? c->width / c->heads : 0);
    c->rope_dims = ml_keys_int(&keys, "rope.dimension_count", 1, 1 << 16, c->head_dim);
    c->context = ml_keys_int(&keys, "context_length", 1, INT32_MAX, -1);
    c->norm_epsilon = ml_keys_positive(&keys, "attention.layer_norm_rms_epsilon", 0);
    ml_rope_read(&keys, c);
    (*arch)->read(&keys, c);
    return keys.status == ML_OK ? check(w, c) : keys.status;
}
