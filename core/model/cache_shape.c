/* What a cache has to know of a model. */
#include "base/memory.h"
#include "kv/cache.h"
#include "load/weights.h"
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

static void release_model(const void *model) {
    ml_model_free((ml_model *)model);
}

/* The name that the file of a model gives it, as a string of its own; "" where it has none. */
static char *name_of(const ml_model *model) {
    const char *text = "";
    int64_t bytes = 0;
    if (ml_meta_string(model->weights, "general.name", 0, &text, &bytes) != ML_OK) bytes = 0;
    char *name = ml_calloc((size_t)bytes + 1, 1);
    if (name) memcpy(name, text, (size_t)bytes);
    return name;
}

int ml_cache_create(ml_model *model, int dtype, ml_cache **out) {
    const ml_config *c = &model->config;
    int64_t *windows = ml_calloc((size_t)c->layers, sizeof *windows);
    char *name = name_of(model);
    int status = windows && name ? ML_OK : ML_E_MEMORY;
    for (int32_t l = 0; windows && l < c->layers; l++) windows[l] = model->layers[l].window;
    if (status == ML_OK) {
        const ml_shape shape = {
            .layers = c->layers,
            .kv_heads = c->kv_heads,
            .head_dim = c->head_dim,
            .windows = windows,
            .vocabulary = c->vocabulary,
            .architecture = c->architecture,
            .name = name,
            .file = ml_weights_path(model->weights),
            .model = model,
            .release = release_model,
        };
        status = ml_cache_make(&shape, dtype, out);
    }
    if (status == ML_OK) ml_model_retain(model);
    free(windows);
    free(name);
    return status;
}
