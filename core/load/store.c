#include "load/store.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Git leaves a note in the place of a large file that was not fetched. */
static int check_fetched(const ml_mapping *file, const char *path) {
    static const char note[] = "version https://git-";
    if (file->size < sizeof note - 1 || memcmp(file->data, note, sizeof note - 1) != 0) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s is a Git LFS pointer, not the file itself; run `git lfs pull`", path);
}

int ml_store_map(ml_weights *weights, const char *path) {
    int status =
        ml_grow((void **)&weights->files, &weights->file_capacity, weights->file_count + 1, sizeof *weights->files);
    if (status) return status;
    ml_mapping *file = &weights->files[weights->file_count];
    status = ml_mapping_open(path, file);
    if (status) return status;
    weights->file_count++;
    ml_memory_note(ML_MEMORY_MAPPED, (int64_t)file->size);
    return check_fetched(file, path);
}

int ml_store_add(ml_weights *weights, const char *name, size_t bytes, ml_entry **entry) {
    const size_t number = weights->names.count;
    int status = ml_grow((void **)&weights->entries, &weights->entry_capacity, number + 1, sizeof *weights->entries);
    if (!status) status = ml_names_add(&weights->names, name, bytes);
    if (status) return status;
    *entry = &weights->entries[number];
    **entry = (ml_entry){
        .info = {.name = weights->names.list[number], .shape = {1, 1, 1, 1}, .file = (int)weights->file_count - 1}};
    return ML_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const int64_t left = (*(const ml_tensor_info *const *)a)->offset,
                  right = (*(const ml_tensor_info *const *)b)->offset;
    return (left > right) - (left < right);
}

/* No byte belongs to two of the tensors from `first` on: else an offset is wrong, and the model would run on the
 * numbers of another tensor. */
static int check_apart(const ml_weights *weights, const char *path, size_t first) {
    const size_t count = weights->names.count - first;
    const ml_tensor_info **sorted = ml_calloc(count, sizeof *sorted);
    if (!sorted) return ML_E_MEMORY;
    for (size_t i = 0; i < count; i++) sorted[i] = &weights->entries[first + i].info;
    qsort(sorted, count, sizeof *sorted, compare_offsets);
    int status = ML_OK;
    for (size_t i = 1; i < count && status == ML_OK; i++) {
        const ml_tensor_info *info = sorted[i], *before = sorted[i - 1];
        if (info->offset - before->offset >= before->bytes) continue;
        status = ml_error(ML_E_FORMAT, "%s is damaged: tensor %.200s begins at byte %lld, inside %.200s", path,
                          info->name, (long long)info->offset, before->name);
    }
    free(sorted);
    return status;
}

int ml_store_place(ml_weights *weights, const char *path, size_t first, uint64_t begin) {
    const ml_mapping *file = &weights->files[weights->file_count - 1];
    const uint64_t room = begin <= file->size ? file->size - begin : 0;
    for (size_t i = first; i < weights->names.count; i++) {
        ml_tensor_info *info = &weights->entries[i].info;
        if ((uint64_t)info->offset > room || (uint64_t)info->bytes > room - (uint64_t)info->offset) {
            return ml_error(ML_E_FORMAT,
                            "%s is cut short or damaged: tensor %.200s needs %lld bytes at byte %llu, but the file "
                            "has %zu",
                            path, info->name, (long long)info->bytes,
                            (unsigned long long)begin + (unsigned long long)info->offset, file->size);
        }
        info->offset += (int64_t)begin;
        weights->entries[i].data = file->data + info->offset;
    }
    return check_apart(weights, path, first);
}

void ml_store_stop_prefault(ml_weights *weights) {
    ml_prefault_stop(weights->prefault);
    weights->prefault = NULL;
}

void ml_store_clear(ml_weights *weights) {
    ml_store_stop_prefault(weights);
    for (size_t i = 0; i < weights->file_count; i++) {
        ml_mapping *file = &weights->files[i];
        ml_memory_note(ML_MEMORY_MAPPED, -(int64_t)(file->size - file->copied));
        ml_memory_note(ML_MEMORY_COPIED, -(int64_t)file->copied);
        ml_mapping_close(file);
    }
    weights->file_count = 0;
    ml_metadata_clear(&weights->metadata);
    ml_names_clear(&weights->names);
    free(weights->entries);
    weights->entries = NULL;
    weights->entry_capacity = 0;
}
