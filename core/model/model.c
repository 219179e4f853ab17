/* Finds the weights of gpt-oss and llama in an opened file and checks every shape. */
#include "model/model.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"
#include "load/weights.h"
#include "model/sketch.h"

#include <stdarg.h>
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

/* A matrix {rows, cols}, or {experts, rows, cols} of which `out` is the first and `step` the distance in bytes. */
static int find_matrix(const ml_model *model, int layer, const char *suffix, int64_t experts, int64_t rows,
                       int64_t cols, ml_matrix *out, int64_t *step) {
    const int64_t shape[] = {experts, rows, cols};
    const int skip = experts == 0;
    ml_tensor_info info;
    const uint8_t *data = NULL;
    int status = find_tensor(model, layer, suffix, shape + skip, 3 - skip, &info, &data);
    if (status != ML_OK) return status;
    *out = (ml_matrix){
        .data = data, .rows = rows, .cols = cols, .stride = ml_row_bytes(info.dtype, cols), .dtype = info.dtype};
    *step = out->stride * rows;
    return ML_OK;
}

/* A vector {n}, or {experts, n}: points into the file where that holds aligned f32, else into a decoded copy. */
static int find_vector(ml_model *model, int layer, const char *suffix, int64_t experts, int64_t n, const float **out) {
    const int64_t shape[] = {experts, n};
    const int skip = experts == 0;
    ml_tensor_info info;
    const uint8_t *data = NULL;
    int status = find_tensor(model, layer, suffix, shape + skip, 2 - skip, &info, &data);
    if (status != ML_OK) return status;
    if (info.dtype == ML_F32 && (uintptr_t)data % _Alignof(float) == 0) {
        *out = (const float *)(const void *)data;
        return ML_OK;
    }
    const int64_t rows = experts ? experts : 1, bytes = ml_row_bytes(info.dtype, n);
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

/* The same for a vector that llama-type files may leave out. */
static int find_optional_vector(ml_model *model, int layer, const char *suffix, int64_t n, const float **out) {
    return has_tensor(model, layer, suffix) ? find_vector(model, layer, suffix, 0, n, out) : ML_OK;
}

/* ---- layers ---- */

static int bind_attention(ml_model *m, int l, ml_layer *layer) {
    const ml_config *c = &m->config;
    const int64_t d = c->width, queries = (int64_t)c->heads * c->head_dim, keys = (int64_t)c->kv_heads * c->head_dim;
    int64_t step;
    int status;
    if ((status = find_vector(m, l, "attn_norm.weight", 0, d, &layer->attn_norm)) != ML_OK ||
        (status = find_matrix(m, l, "attn_q.weight", 0, queries, d, &layer->attn_q, &step)) != ML_OK ||
        (status = find_matrix(m, l, "attn_k.weight", 0, keys, d, &layer->attn_k, &step)) != ML_OK ||
        (status = find_matrix(m, l, "attn_v.weight", 0, keys, d, &layer->attn_v, &step)) != ML_OK ||
        (status = find_matrix(m, l, "attn_output.weight", 0, d, queries, &layer->attn_output, &step)) != ML_OK) {
        return status;
    }
    if (c->experts) {
        if ((status = find_vector(m, l, "attn_q.bias", 0, queries, &layer->q_bias)) != ML_OK ||
            (status = find_vector(m, l, "attn_k.bias", 0, keys, &layer->k_bias)) != ML_OK ||
            (status = find_vector(m, l, "attn_v.bias", 0, keys, &layer->v_bias)) != ML_OK ||
            (status = find_vector(m, l, "attn_output.bias", 0, d, &layer->output_bias)) != ML_OK) {
            return status;
        }
        return find_vector(m, l, "attn_sinks.weight", 0, c->heads, &layer->sinks);
    }
    if ((status = find_optional_vector(m, l, "attn_q.bias", queries, &layer->q_bias)) != ML_OK ||
        (status = find_optional_vector(m, l, "attn_k.bias", keys, &layer->k_bias)) != ML_OK ||
        (status = find_optional_vector(m, l, "attn_v.bias", keys, &layer->v_bias)) != ML_OK) {
        return status;
    }
    return find_optional_vector(m, l, "attn_output.bias", d, &layer->output_bias);
}

static int bind_experts(ml_model *m, int l, ml_layer *layer) {
    const int64_t d = m->config.width, f = m->config.ffn_width, e = m->config.experts;
    int64_t step;
    int status;
    if ((status = find_vector(m, l, "post_attention_norm.weight", 0, d, &layer->ffn_norm)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_gate_inp.weight", 0, e, d, &layer->router, &step)) != ML_OK ||
        (status = find_vector(m, l, "ffn_gate_inp.bias", 0, e, &layer->router_bias)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_gate_exps.weight", e, f, d, &layer->gate, &layer->gate_step)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_up_exps.weight", e, f, d, &layer->up, &layer->up_step)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_down_exps.weight", e, d, f, &layer->down, &layer->down_step)) != ML_OK ||
        (status = find_vector(m, l, "ffn_gate_exps.bias", e, f, &layer->gate_bias)) != ML_OK ||
        (status = find_vector(m, l, "ffn_up_exps.bias", e, f, &layer->up_bias)) != ML_OK) {
        return status;
    }
    return find_vector(m, l, "ffn_down_exps.bias", e, d, &layer->down_bias);
}

static int bind_dense(ml_model *m, int l, ml_layer *layer) {
    const int64_t d = m->config.width, f = m->config.ffn_width;
    int status;
    if ((status = find_vector(m, l, "ffn_norm.weight", 0, d, &layer->ffn_norm)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_gate.weight", 0, f, d, &layer->gate, &layer->gate_step)) != ML_OK ||
        (status = find_matrix(m, l, "ffn_up.weight", 0, f, d, &layer->up, &layer->up_step)) != ML_OK) {
        return status;
    }
    return find_matrix(m, l, "ffn_down.weight", 0, d, f, &layer->down, &layer->down_step);
}

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

static int bind(ml_model *m) {
    const ml_config *c = &m->config;
    int64_t step;
    int status;
    /* Only llama-type files share one matrix between embedding and head. */
    const char *head = !c->experts && !has_tensor(m, -1, "output.weight") ? "token_embd.weight" : "output.weight";
    if ((status = read_vocabulary(m)) != ML_OK ||
        (status = find_matrix(m, -1, "token_embd.weight", 0, c->vocabulary, c->width, &m->embedding, &step)) != ML_OK ||
        (status = find_matrix(m, -1, head, 0, c->vocabulary, c->width, &m->head, &step)) != ML_OK ||
        (status = find_vector(m, -1, "output_norm.weight", 0, c->width, &m->output_norm)) != ML_OK) {
        return status;
    }
    for (int32_t l = 0; l < c->layers; l++) {
        ml_layer *layer = &m->layers[l];
        if ((status = bind_attention(m, l, layer)) != ML_OK) return status;
        if ((status = c->experts ? bind_experts(m, l, layer) : bind_dense(m, l, layer)) != ML_OK) return status;
        const int slides = c->window_period > 0 && l % c->window_period != c->window_period - 1;
        layer->window = slides ? c->window : 0;
    }
    return ML_OK;
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
    status = ml_config_read(weights, &model->config);
    if (status != ML_OK) goto failed;
    model->clamped_swiglu = model->rope_halves = strcmp(model->config.architecture, "gpt-oss") == 0;
    model->layers = ml_calloc((size_t)model->config.layers, sizeof *model->layers);
    if (!model->layers) {
        status = ML_E_MEMORY;
        goto failed;
    }
    if ((status = bind(model)) != ML_OK || (status = ml_rope_prepare(model)) != ML_OK) goto failed;
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
    free(model->rope_frequencies);
    ml_weights_free(model->weights);
    free(model);
}

void ml_model_config(const ml_model *model, ml_config *out) {
    *out = model->config;
}

static int64_t matrix_bytes(const ml_matrix *m) {
    return m->rows * m->stride;
}

int64_t ml_model_bytes_per_token(const ml_model *model) {
    const ml_config *c = &model->config;
    const int64_t d = c->width, used = c->experts ? c->experts_used : 1;
    int64_t bytes = matrix_bytes(&model->head) + model->embedding.stride + d * 4;
    for (int32_t l = 0; l < c->layers; l++) {
        const ml_layer *layer = &model->layers[l];
        bytes += matrix_bytes(&layer->attn_q) + matrix_bytes(&layer->attn_k) + matrix_bytes(&layer->attn_v) +
                 matrix_bytes(&layer->attn_output) + 2 * d * 4;
        bytes += used * (matrix_bytes(&layer->gate) + matrix_bytes(&layer->up) + matrix_bytes(&layer->down));
        if (!c->experts) continue;
        bytes += matrix_bytes(&layer->router) + (c->experts + c->heads) * 4 +
                 (layer->attn_q.rows + layer->attn_k.rows + layer->attn_v.rows + d) * 4 +
                 used * (2 * (int64_t)c->ffn_width + d) * 4;
    }
    return bytes;
}
