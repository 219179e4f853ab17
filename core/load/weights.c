/* Opening, and questions about tensors; the format's loader has filled in the answers. Metadata: metadata.c. */
#include "load/weights.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/loaders.h"
#include "load/store.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

int ml_weights_open(const char *path, ml_weights **out) {
    if (!path || !out) return ml_error(ML_E_ARGUMENT, "ml_weights_open: a path and a place for the result are needed");
    ml_weights *weights = ml_calloc(1, sizeof *weights);
    if (!weights) return ML_E_MEMORY;
    atomic_init(&weights->references, 1);
    weights->path = strdup(path);
    int status = weights->path ? ML_OK : ml_error(ML_E_MEMORY, "out of memory: opening %s", path);
    double began = ml_time_now();
    if (!status) status = ml_store_map(weights, path);
    if (!status) status = ml_loader_find(path, &weights->files[0], &weights->loader);
    weights->timings[0] = ml_time_now() - began;
    if (!status) status = weights->loader->load(weights);
    if (status) {
        ml_weights_free(weights);
        return status;
    }
    *out = weights;
    return ML_OK;
}

void ml_weights_retain(ml_weights *weights) {
    atomic_fetch_add_explicit(&weights->references, 1, memory_order_relaxed);
}

void ml_weights_free(ml_weights *weights) {
    if (!weights || atomic_fetch_sub_explicit(&weights->references, 1, memory_order_acq_rel) != 1) return;
    ml_store_clear(weights);
    free(weights->files);
    free(weights->path);
    free(weights);
}

const char *ml_weights_path(const ml_weights *weights) {
    return weights->path;
}

const uint8_t *ml_weights_data(const ml_weights *weights, int64_t index) {
    return weights->entries[index].data;
}

int ml_weights_vocabulary(const ml_weights *weights, ml_vocabulary *out) {
    *out = (ml_vocabulary){
        .path = weights->path, .bos = -1, .unknown = -1, .ends = {-1, -1, -1}, .add_bos = -1, .add_space = -1};
    return weights->loader->vocabulary(weights, out);
}

void ml_weights_timings(const ml_weights *weights, double out[3]) {
    memcpy(out, weights->timings, sizeof weights->timings);
}

int64_t ml_weights_bytes(const ml_weights *weights) {
    int64_t bytes = 0;
    for (size_t i = 0; i < weights->file_count; i++) bytes += (int64_t)weights->files[i].size;
    return bytes;
}

void ml_weights_prefault(ml_weights *weights) {
    if (!weights->prefault) weights->prefault = ml_prefault_start(weights->files, weights->file_count);
}

int ml_weights_copy(ml_weights *weights, int64_t *copied) {
    if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
    ml_store_stop_prefault(weights);
    *copied = 0;
    for (size_t i = 0; i < weights->file_count; i++) {
        ml_mapping *file = &weights->files[i];
        const size_t before = file->copied;
        if (before < file->size) {
            int status = ml_mapping_copy(file, weights->path);
            const int64_t more = (int64_t)(file->copied - before);
            ml_memory_note(ML_MEMORY_MAPPED, -more);
            ml_memory_note(ML_MEMORY_COPIED, more);
            *copied += (int64_t)file->copied;
            return status;
        }
        *copied += (int64_t)file->size;
    }
    return ML_OK;
}

int64_t ml_weights_count(const ml_weights *weights) {
    return (int64_t)weights->names.count;
}

int ml_weights_info(const ml_weights *weights, int64_t index, ml_tensor_info *out) {
    if (index < 0 || index >= ml_weights_count(weights)) {
        return ml_error(ML_E_ARGUMENT, "%s has tensors 0 to %lld, not %lld", weights->path,
                        (long long)ml_weights_count(weights) - 1, (long long)index);
    }
    *out = weights->entries[index].info;
    return ML_OK;
}

int ml_weights_find(const ml_weights *weights, const char *name, int64_t *index) {
    int64_t found = ml_names_find(&weights->names, name);
    if (found < 0) return ml_error(ML_E_NOT_FOUND, "%s has no tensor %.200s", weights->path, name);
    *index = found;
    return ML_OK;
}

static void release(void *weights) {
    ml_weights_free(weights);
}

int ml_weights_tensor(ml_weights *weights, int64_t index, ml_tensor **out) {
    ml_tensor_info info;
    int status = ml_weights_info(weights, index, &info);
    if (status) return status;
    if (!ml_dtype_block(info.dtype)) {
        return ml_error(ML_E_UNSUPPORTED, "%s: tensor %.200s is of type %s, which moonloom cannot compute with",
                        weights->path, info.name, info.type);
    }
    ml_weights_retain(weights);
    return ml_tensor_wrap((void *)weights->entries[index].data, info.dtype, info.ndim, info.shape, 0, weights, release,
                          out);
}
