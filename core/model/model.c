/* Finds the weights that the architecture names in an opened file, and checks every shape. */
#include "model/model.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"
#include "load/weights.h"
#include "model/config.h"
#include "model/sketch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding tensors ---- */

enum { NAME_LENGTH = 96 };

/* The name of a tensor: `format` with the layer's number, or as it is when `layer` is negative. */
static void name_tensor(char name[NAME_LENGTH], int layer, const char *suffix) {
    if (layer < 0) {
        snprintf(name, NAME_LENGTH, "%s", suffix);
    } else {
        snprintf(name, NAME_LENGTH, "blk.%d.%s", layer, suffix);
    }
}

static int has_tensor(const ml_model *model, int layer, const char *suffix) {
    char name[NAME_LENGTH];
    int64_t index;
    name_tensor(name, layer, suffix);
    return ml_weights_find(model->weights, name, &index) == ML_OK;
}

static void print_shape(char *out, size_t size, const int64_t *shape, int ndim) {
    size_t used = (size_t)snprintf(out, size, "{");
    for (int i = 0; i < ndim && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    }
    if (used < size) snprintf(out + used, size - used, "}");
}

/* Finds a tensor and checks its shape, which has `ndim` dimensions. */
static int find_tensor(const ml_model *model, int layer, const char *suffix, const int64_t *shape, int ndim,
                       ml_tensor_info *info, const uint8_t **data) {
    char name[NAME_LENGTH];
    int64_t index;
    name_tensor(name, layer, suffix);
    const char *path = ml_weights_path(model->weights);
    if (ml_weights_find(model->weights, name, &index) != ML_OK) {
        return ml_error(ML_E_FORMAT, "%s: tensor %s is missing", path, name);
    }
    int status = ml_weights_info(model->weights, index, info);
    if (status != ML_OK) return status;
    if (info->ndim != ndim || memcmp(info->shape, shape, sizeof *shape * (size_t)ndim) != 0) {
        char is[96], needed[96];
        print_shape(is, sizeof is, info->shape, info->ndim);
        print_shape(needed, sizeof needed, shape, ndim);
        return ml_error(ML_E_FORMAT, "%s: tensor %s has shape %s, but %s is needed", path, name, is, needed);
    }
    if (!ml_kernels_get()->decode_row[info->dtype]) {
        const char *dtype = ml_dtype_name(info->dtype);
        return ml_error(ML_E_UNSUPPORTED, "%s: tensor %s is stored as %s, which is no type for weights", path, name,
                        dtype ? dtype : "an unknown type");
    }
    *data = ml_weights_data(model->weights, index);
    return ML_OK;
}

/* A matrix {rows, columns}, or {experts, rows, columns} of which `out` is the first. */
static int find_matrix(const ml_model *model, int layer, const char *suffix, const int64_t *shape, int ndim,
                       ml_matrix *out) {
    const int64_t rows = shape[ndim - 2], cols = shape[ndim - 1];
    ml_tensor_info info;
    const uint8_t *data = NULL;
    int status = find_tensor(model, layer, suffix, shape, ndim, &info, &data);
    if (status != ML_OK) return status;
    *out = (ml_matrix){
        .data = data, .rows = rows, .cols = cols, .stride = ml_row_bytes(info.dtype, cols), .dtype = info.dtype};
    return ML_OK;
}

/* A vector {n}, or {experts, n}: points into the file where that holds aligned f32, else into a decoded copy. */
static int find_vector(ml_model *model, int layer, const char *suffix, const int64_t *shape, int ndim,
                       const float **out) {
    ml_tensor_info info;
    const uint8_t *data = NULL;
    int status = find_tensor(model, layer, suffix, shape, ndim, &info, &data);
    if (status != ML_OK) return status;
    if (info.dtype == ML_F32 && (uintptr_t)data % _Alignof(float) == 0) {
        *out = (const float *)(const void *)data;
        return ML_OK;
    }
    const int64_t n = shape[ndim - 1], rows = ndim > 1 ? shape[0] : 1, bytes = ml_row_bytes(info.dtype, n);
    void *block = model->copies;
    status = ml_grow(&block, &model->copy_capacity, model->copy_count + 1, sizeof *model->copies);
    model->copies = block;
    if (status != ML_OK) return status;
    float *copy = ml_calloc((size_t)(rows * n), sizeof *copy);
    if (!copy) return ML_E_MEMORY;
    model->copies[model->copy_count++] = copy;
    for (int64_t r = 0; r < rows; r++) ml_kernels_get()->decode_row[info.dtype](data + r * bytes, copy + r * n, n);
    *out = copy;
    return ML_OK;
}

/* ---- layers ---- */

static int64_t size_of(const ml_config *c, int size) {
    switch (size) {
    case ML_WIDTH:
        return c->width;
    case ML_HEADS:
        return c->heads;
    case ML_HEAD_DIM:
        return c->head_dim;
    case ML_QUERIES:
        return (int64_t)c->heads * c->head_dim;
    case ML_KEYS:
        return (int64_t)c->kv_heads * c->head_dim;
    case ML_FFN:
        return c->ffn_width;
    default:
        return c->experts;
    }
}

/* Bytes of a bound tensor that one token reads: of experts those that it uses, of vectors as they lie in memory. */
static int64_t bytes_read(const ml_config *c, const ml_arch_tensor *tensor, const void *field, const int64_t *shape,
                          int ndim) {
    const ml_matrix *matrix = field;
    const int is_matrix = tensor->kind == ML_MATRIX;
    const int64_t used = ndim > 1 + is_matrix ? c->experts_used : 1;
    return used * (is_matrix ? matrix->rows * matrix->stride : shape[ndim - 1] * (int64_t)sizeof(float));
}

static int bind_tensor(ml_model *m, int32_t l, const ml_arch_tensor *tensor) {
    if (tensor->optional && !has_tensor(m, l, tensor->name)) return ML_OK;
    int64_t shape[3];
    int ndim = 0;
    while (ndim < 3 && tensor->shape[ndim] != ML_NONE) {
        shape[ndim] = size_of(&m->config, tensor->shape[ndim]);
        ndim++;
    }
    void *field = (uint8_t *)&m->layers[l] + tensor->place;
    int status = tensor->kind == ML_MATRIX ? find_matrix(m, l, tensor->name, shape, ndim, field)
                                           : find_vector(m, l, tensor->name, shape, ndim, field);
    if (status == ML_OK) m->bytes_per_token += bytes_read(&m->config, tensor, field, shape, ndim);
    return status;
}

static int bind_layer(ml_model *m, int32_t l) {
    for (const ml_arch_tensor *tensor = m->arch->tensors; tensor->name; tensor++) {
        int status = bind_tensor(m, l, tensor);
        if (status != ML_OK) return status;
    }
    m->layers[l].window = m->arch->window ? m->arch->window(&m->config, l) : 0;
    return ML_OK;
}

/* ---- the whole ---- */

/* The vocabulary is what the embedding has rows for. */
static int read_vocabulary(ml_model *m) {
    int64_t index;
    ml_tensor_info info;
    if (ml_weights_find(m->weights, "token_embd.weight", &index) != ML_OK) {
        return ml_error(ML_E_FORMAT, "%s: tensor token_embd.weight is missing", ml_weights_path(m->weights));
    }
    int status = ml_weights_info(m->weights, index, &info);
    m->config.vocabulary = info.shape[0];
    if (status == ML_OK && (info.shape[0] < 1 || info.shape[0] > INT32_MAX)) {
        status = ml_error(ML_E_FORMAT, "%s: token_embd.weight has %lld rows", ml_weights_path(m->weights),
                          (long long)info.shape[0]);
    }
    return status;
}

/* Embedding, head and the norm before it. */
static int bind_ends(ml_model *m) {
    const ml_config *c = &m->config;
    const int tied = m->arch->tied_head && !has_tensor(m, -1, "output.weight");
    int status = read_vocabulary(m);
    if (status != ML_OK) return status;
    const int64_t rows[] = {c->vocabulary, c->width};
    if ((status = find_matrix(m, -1, "token_embd.weight", rows, 2, &m->embedding)) != ML_OK ||
        (status = find_matrix(m, -1, tied ? "token_embd.weight" : "output.weight", rows, 2, &m->head)) != ML_OK) {
        return status;
    }
    m->bytes_per_token += m->head.rows * m->head.stride + m->embedding.stride + c->width * (int64_t)sizeof(float);
    return find_vector(m, -1, "output_norm.weight", rows + 1, 1, &m->output_norm);
}

/* The part of a tensor's name behind "blk.<layer>.", or NULL if it belongs to none of `layers` layers. */
static const char *layer_suffix(const char *name, int32_t layers) {
    if (strncmp(name, "blk.", 4) != 0) return NULL;
    char *end;
    const long layer = strtol(name + 4, &end, 10);
    return *end == '.' && layer >= 0 && layer < layers ? end + 1 : NULL;
}

static int is_known(const ml_model *m, const char *name) {
    static const char *const others[] = {"token_embd.weight", "output.weight", "output_norm.weight"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0) return 1;
    if (ml_rope_divides(&m->config, name)) return 1;
    const char *suffix = layer_suffix(name, m->config.layers);
    for (const ml_arch_tensor *tensor = m->arch->tensors; suffix && tensor->name; tensor++)
        if (strcmp(suffix, tensor->name) == 0) return 1;
    return 0;
}

/* A tensor that nothing here reads belongs to a model that computes something else: its output would be wrong, and
 * need not look so. */
static int check_names(const ml_model *m) {
    for (int64_t i = 0; i < ml_weights_count(m->weights); i++) {
        ml_tensor_info info;
        int status = ml_weights_info(m->weights, i, &info);
        if (status != ML_OK) return status;
        if (is_known(m, info.name)) continue;
        return ml_error(ML_E_UNSUPPORTED, "%s: a %s model of %d layers has no tensor %s: moonloom would leave it out",
                        ml_weights_path(m->weights), m->arch->name, m->config.layers, info.name);
    }
    return ML_OK;
}

static int bind(ml_model *m) {
    int status = bind_ends(m);
    for (int32_t l = 0; status == ML_OK && l < m->config.layers; l++) status = bind_layer(m, l);
    return status == ML_OK ? check_names(m) : status;
}

/* ---- the object ---- */

int ml_model_create(ml_weights *weights, ml_model **out) {
    int status = ml_kernels_ready();
    if (status != ML_OK) return status;
    ml_model *model = ml_calloc(1, sizeof *model);
    if (!model) return ML_E_MEMORY;
    atomic_init(&model->references, 1);
    ml_weights_retain(weights);
    model->weights = weights;
    status = ml_config_read(weights, &model->arch, &model->config);
    if (status != ML_OK) goto failed;
    model->layers = ml_calloc((size_t)model->config.layers, sizeof *model->layers);
    if (!model->layers) {
        status = ML_E_MEMORY;
        goto failed;
    }
    if ((status = bind(model)) != ML_OK ||
        (status = ml_rope_prepare(&model->rope, model->arch, &model->config, weights)) != ML_OK)
        goto failed;
    *out = model;
    return ML_OK;
failed:
    ml_model_free(model);
    return status;
}

void ml_model_retain(ml_model *model) {
    atomic_fetch_add(&model->references, 1);
}

void ml_model_free(ml_model *model) {
    if (!model || atomic_fetch_sub(&model->references, 1) != 1) return;
    for (size_t i = 0; i < model->copy_count; i++) free(model->copies[i]);
    free(model->copies);
    ml_sketch_free(model->sketch);
    free(model->layers);
    ml_rope_release(&model->rope);
    ml_weights_free(model->weights);
    free(model);
}

void ml_model_config(const ml_model *model, ml_config *out) {
    *out = model->config;
}

int64_t ml_model_window(const ml_model *model, int32_t layer) {
    return layer >= 0 && layer < model->config.layers ? model->layers[layer].window : 0;
}

int64_t ml_model_bytes_per_token(const ml_model *model) {
    return model->bytes_per_token;
}
