/* GGUF v2 and v3 (ggml-org/ggml, docs/gguf.md): header, metadata, tensor infos, data; split files as llama.cpp's
 * gguf-split names them. One pass over the mapped file; every length is checked against what is left of it. */
#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "load/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "moonloom reads numbers from little-endian files in place and needs a little-endian machine"
#endif

enum {
    MAX_NAME = 65535,      /* longest metadata key that the specification allows */
    MAX_DEPTH = 8,         /* arrays within arrays */
    MIN_KEY_BYTES = 14,    /* smallest metadata pair: length, one letter, type, one byte */
    MIN_TENSOR_BYTES = 25, /* smallest tensor info: length, one letter, dims, type, offset */
    DEFAULT_ALIGNMENT = 32,
    MIN_ALIGNMENT = 8
};

/* Types of ggml that moonloom does not compute with: their sizes are known, so a file that holds some can be listed. */
static const struct {
    int dtype, block, bytes;
    const char *name;
} foreign[] = {
    {9, 32, 36, "q8_1"},      {15, 256, 292, "q8_k"}, {16, 256, 66, "iq2_xxs"}, {17, 256, 74, "iq2_xs"},
    {18, 256, 98, "iq3_xxs"}, {19, 256, 50, "iq1_s"}, {21, 256, 110, "iq3_s"},  {22, 256, 82, "iq2_s"},
    {29, 256, 56, "iq1_m"},   {34, 256, 54, "tq1_0"}, {35, 256, 66, "tq2_0"},
};

/* A place in a mapped file. */
typedef struct reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    char what[256]; /* what is being read, for the sentence about it */
} reader;

static int take(reader *r, uint64_t bytes, const uint8_t **out) {
    if (bytes > r->size - r->at) {
        return ml_error(ML_E_FORMAT, "%s is cut short or damaged: %s needs %llu bytes at byte %zu, and %zu are left",
                        r->path, r->what, (unsigned long long)bytes, r->at, r->size - r->at);
    }
    *out = r->data + r->at;
    r->at += (size_t)bytes;
    return ML_OK;
}

static int take_u32(reader *r, uint32_t *out) {
    const uint8_t *bytes = NULL;
    int status = take(r, 4, &bytes);
    if (!status) memcpy(out, bytes, 4);
    return status;
}

static int take_u64(reader *r, uint64_t *out) {
    const uint8_t *bytes = NULL;
    int status = take(r, 8, &bytes);
    if (!status) memcpy(out, bytes, 8);
    return status;
}

/* `count` things of at least `least` bytes each must fit in what is left. */
static int check_count(const reader *r, uint64_t count, size_t least) {
    if (count <= (r->size - r->at) / least) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s is damaged: %s says %llu items follow byte %zu, but only %zu bytes are left",
                    r->path, r->what, (unsigned long long)count, r->at, r->size - r->at);
}

/* A key or a tensor name: 1 to MAX_NAME bytes, no control characters. */
static int take_name(reader *r, const char **name, size_t *bytes) {
    uint64_t length = 0;
    const uint8_t *text = NULL;
    int status = take_u64(r, &length);
    if (!status && (length == 0 || length > MAX_NAME)) {
        return ml_error(ML_E_FORMAT, "%s is damaged: the name of %s has %llu bytes (at byte %zu)", r->path, r->what,
                        (unsigned long long)length, r->at - 8);
    }
    if (!status) status = take(r, length, &text);
    if (status) return status;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f) {
            return ml_error(ML_E_FORMAT, "%s is damaged: the name of %s holds a control character (at byte %zu)",
                            r->path, r->what, r->at - (size_t)length + i);
        }
    }
    *name = (const char *)text;
    *bytes = (size_t)length;
    return ML_OK;
}

/* ---- metadata ---- */

/* Walks over the meta->count strings from meta->data on and notes where some begin. */
static int take_strings(reader *r, ml_meta *meta) {
    const size_t begin = r->at, count = (size_t)meta->count;
    meta->places = ml_calloc(count / ML_PLACE_STEP + 1, sizeof *meta->places);
    if (!meta->places) return ML_E_MEMORY;
    for (size_t i = 0; i < count; i++) {
        if (i % ML_PLACE_STEP == 0) {
            if (r->at - begin > UINT32_MAX) {
                return ml_error(ML_E_UNSUPPORTED, "%s: %s is over 4 GiB of strings", r->path, r->what);
            }
            meta->places[i / ML_PLACE_STEP] = (uint32_t)(r->at - begin);
        }
        uint64_t length = 0;
        const uint8_t *text = NULL;
        int status = take_u64(r, &length);
        if (!status) status = take(r, length, &text);
        if (status) return status;
    }
    meta->bytes = r->at - begin;
    return ML_OK;
}

/* Walks over `count` items of a fixed size. */
static int take_plain(reader *r, uint64_t count, int stored) {
    const uint8_t *items = NULL;
    int status = check_count(r, count, ml_stored_bytes(stored));
    if (!status) status = take(r, count * ml_stored_bytes(stored), &items);
    if (status || stored != ML_STORED_BOOL) return status;
    for (uint64_t i = 0; i < count; i++) {
        if (items[i] > 1) return ml_error(ML_E_FORMAT, "%s is damaged: %s is neither true nor false", r->path, r->what);
    }
    return ML_OK;
}

static int take_array(reader *r, int depth, ml_meta *meta);

/* Walks over `count` arrays; what is in them is checked and otherwise left alone. */
static int take_arrays(reader *r, uint64_t count, int depth) {
    if (depth == MAX_DEPTH) {
        return ml_error(ML_E_UNSUPPORTED, "%s: %s nests arrays more than %d deep", r->path, r->what, MAX_DEPTH);
    }
    for (uint64_t i = 0; i < count; i++) {
        ml_meta inner = {0};
        int status = take_array(r, depth + 1, &inner);
        free(inner.places);
        if (status) return status;
    }
    return ML_OK;
}

/* Type, count and items of an array. */
static int take_array(reader *r, int depth, ml_meta *meta) {
    uint32_t stored = 0;
    uint64_t count = 0;
    int status = take_u32(r, &stored);
    if (!status) status = take_u64(r, &count);
    if (status) return status;
    meta->is_array = 1;
    meta->stored = (int)stored;
    meta->data = r->data + r->at;
    size_t least = stored == ML_STORED_STRING ? 8 : stored == ML_STORED_ARRAY ? 12 : ml_stored_bytes((int)stored);
    if (least == 0) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s is an array of the unknown type %u (at byte %zu)", r->path,
                        r->what, stored, r->at - 12);
    }
    status = check_count(r, count, least);
    if (status) return status;
    meta->count = (int64_t)count;
    if (stored == ML_STORED_STRING) return take_strings(r, meta);
    if (stored == ML_STORED_ARRAY) return take_arrays(r, count, depth);
    return take_plain(r, count, (int)stored);
}

/* Type and value of a pair. */
static int take_value(reader *r, ml_meta *meta) {
    uint32_t stored = 0;
    int status = take_u32(r, &stored);
    if (status) return status;
    if (stored == ML_STORED_ARRAY) return take_array(r, 0, meta);
    *meta = (ml_meta){.stored = (int)stored, .count = 1, .data = r->data + r->at};
    if (stored == ML_STORED_STRING) {
        uint64_t length = 0;
        const uint8_t *text = NULL;
        status = take_u64(r, &length);
        return status ? status : take(r, length, &text);
    }
    if (ml_stored_bytes((int)stored)) return take_plain(r, 1, (int)stored);
    return ml_error(ML_E_FORMAT, "%s is damaged: %s has the unknown type %u (at byte %zu)", r->path, r->what, stored,
                    r->at - 4);
}

static int take_metadata(reader *r, uint64_t count, ml_metadata *metadata) {
    for (uint64_t i = 0; i < count; i++) {
        const char *key = NULL;
        size_t bytes = 0;
        snprintf(r->what, sizeof r->what, "metadata pair %llu", (unsigned long long)i);
        int status = take_name(r, &key, &bytes);
        if (!status) {
            status = ml_grow((void **)&metadata->values, &metadata->capacity, (size_t)i + 1, sizeof *metadata->values);
        }
        if (status) return status;
        metadata->values[i] = (ml_meta){0};
        snprintf(r->what, sizeof r->what, "metadata value %.*s", bytes < 200 ? (int)bytes : 200, key);
        status = ml_names_add(&metadata->keys, key, bytes);
        if (status == ML_E_FORMAT) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s is there twice", r->path, r->what);
        }
        if (!status) status = take_value(r, &metadata->values[i]);
        if (status) return status;
    }
    return ML_OK;
}

/* ---- tensors ---- */

/* Name, and bytes of `elements` elements in whole blocks, of any dtype whose size is known. */
static int measure(const reader *r, ml_tensor_info *info, int64_t elements) {
    int64_t block = ml_dtype_block(info->dtype), bytes = ml_dtype_bytes(info->dtype);
    info->type = ml_dtype_name(info->dtype);
    for (size_t i = 0; !block && i < sizeof foreign / sizeof *foreign; i++) {
        if (foreign[i].dtype != info->dtype) continue;
        block = foreign[i].block;
        bytes = foreign[i].bytes;
        info->type = foreign[i].name;
    }
    if (!block) {
        return ml_error(ML_E_UNSUPPORTED, "%s: %s has type %d, which moonloom does not know", r->path, r->what,
                        info->dtype);
    }
    int64_t row = info->shape[info->ndim - 1];
    if (row % block != 0) {
        return ml_error(ML_E_FORMAT,
                        "%s is damaged: %s has rows of %lld elements, which are no whole blocks of %lld (%s)", r->path,
                        r->what, (long long)row, (long long)block, info->type);
    }
    if (__builtin_mul_overflow(elements / block, bytes, &info->bytes)) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s is over 2^63 bytes", r->path, r->what);
    }
    return ML_OK;
}

/* Dimensions, innermost first in the file; `elements` receives their product. */
static int take_shape(reader *r, ml_tensor_info *info, int64_t *elements) {
    uint32_t ndim = 0;
    int status = take_u32(r, &ndim);
    if (status) return status;
    if (ndim > 4) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s has %u dimensions; 4 is the most there can be", r->path,
                        r->what, ndim);
    }
    info->ndim = ndim ? (int)ndim : 1; /* a scalar is a row of one element */
    for (int d = 0; d < 4; d++) info->shape[d] = 1;
    *elements = 1;
    for (int d = (int)ndim - 1; d >= 0; d--) {
        uint64_t extent = 0;
        status = take_u64(r, &extent);
        if (status) return status;
        if (extent == 0 || extent > INT64_MAX || __builtin_mul_overflow(*elements, (int64_t)extent, elements)) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s has a dimension of %llu", r->path, r->what,
                            (unsigned long long)extent);
        }
        info->shape[d] = (int64_t)extent;
    }
    return ML_OK;
}

/* One tensor info; info->offset is still counted from the start of the data section. */
static int take_tensor(reader *r, uint64_t alignment, ml_tensor_info *info) {
    int64_t elements = 0;
    uint32_t dtype = 0;
    uint64_t offset = 0;
    int status = take_shape(r, info, &elements);
    if (!status) status = take_u32(r, &dtype);
    if (!status) status = take_u64(r, &offset);
    if (status) return status;
    if (dtype > INT32_MAX || offset > INT64_MAX || offset % alignment != 0) {
        return ml_error(ML_E_FORMAT, "%s is damaged: %s has type %u and offset %llu, which is no multiple of %llu",
                        r->path, r->what, dtype, (unsigned long long)offset, (unsigned long long)alignment);
    }
    info->dtype = (int)dtype;
    info->offset = (int64_t)offset;
    return measure(r, info, elements);
}

static int take_tensors(reader *r, uint64_t count, uint64_t alignment, ml_weights *weights) {
    for (uint64_t i = 0; i < count; i++) {
        const char *name = NULL;
        size_t bytes = 0, number = weights->names.count;
        snprintf(r->what, sizeof r->what, "tensor %llu", (unsigned long long)i);
        int status = take_name(r, &name, &bytes);
        if (!status) {
            status = ml_grow((void **)&weights->entries, &weights->entry_capacity, number + 1, sizeof(ml_entry));
        }
        if (status) return status;
        snprintf(r->what, sizeof r->what, "tensor %.*s", bytes < 200 ? (int)bytes : 200, name);
        status = ml_names_add(&weights->names, name, bytes);
        if (status == ML_E_FORMAT) {
            return ml_error(ML_E_FORMAT, "%s is damaged: %s is there twice", r->path, r->what);
        }
        if (status) return status;
        ml_entry *entry = &weights->entries[number];
        *entry = (ml_entry){.info = {.name = weights->names.list[number], .file = (int)weights->file_count - 1}};
        status = take_tensor(r, alignment, &entry->info);
        if (status) return status;
    }
    return ML_OK;
}

/* The data section begins at the next multiple of the alignment: points the tensors from `first` on into it. */
static int place_tensors(const reader *r, size_t first, uint64_t alignment, ml_weights *weights) {
    uint64_t gap = (alignment - r->at % alignment) % alignment;
    uint64_t room = gap <= r->size - r->at ? r->size - r->at - gap : 0;
    for (size_t i = first; i < weights->names.count; i++) {
        ml_tensor_info *info = &weights->entries[i].info;
        if ((uint64_t)info->offset > room || (uint64_t)info->bytes > room - (uint64_t)info->offset) {
            return ml_error(ML_E_FORMAT,
                            "%s is cut short or damaged: tensor %.200s needs %lld bytes at byte %llu, but the file "
                            "has %zu",
                            r->path, info->name, (long long)info->bytes,
                            (unsigned long long)(r->at + gap) + (unsigned long long)info->offset, r->size);
        }
        info->offset += (int64_t)(r->at + gap);
        weights->entries[i].data = r->data + info->offset;
    }
    return ML_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const int64_t left = (*(const ml_tensor_info *const *)a)->offset,
                  right = (*(const ml_tensor_info *const *)b)->offset;
    return (left > right) - (left < right);
}

/* No byte belongs to two of the tensors from `first` on: else an offset is wrong, and the model would run on the
 * numbers of another tensor. */
static int check_apart(const reader *r, size_t first, const ml_weights *weights) {
    const size_t count = weights->names.count - first;
    const ml_tensor_info **sorted = ml_calloc(count, sizeof *sorted);
    if (!sorted) return ML_E_MEMORY;
    for (size_t i = 0; i < count; i++) sorted[i] = &weights->entries[first + i].info;
    qsort(sorted, count, sizeof *sorted, compare_offsets);
    int status = ML_OK;
    for (size_t i = 1; i < count && status == ML_OK; i++) {
        const ml_tensor_info *info = sorted[i], *before = sorted[i - 1];
        if (info->offset - before->offset >= before->bytes) continue;
        status = ml_error(ML_E_FORMAT, "%s is damaged: tensor %.200s begins at byte %lld, inside %.200s", r->path,
                          info->name, (long long)info->offset, before->name);
    }
    free(sorted);
    return status;
}

/* ---- a file ---- */

static int take_header(reader *r, uint64_t *tensors, uint64_t *pairs) {
    uint32_t magic, version = 0;
    snprintf(r->what, sizeof r->what, "the header");
    int status = take_u32(r, &magic);
    if (!status) status = take_u32(r, &version);
    if (status) return status;
    if (version && (version & 0xffff) == 0) {
        return ml_error(ML_E_UNSUPPORTED, "%s is a big-endian GGUF file; convert it to little-endian", r->path);
    }
    if (version < 2 || version > 3) {
        return ml_error(ML_E_UNSUPPORTED, "%s is GGUF version %u; moonloom reads versions 2 and 3", r->path, version);
    }
    status = take_u64(r, tensors);
    if (!status) status = take_u64(r, pairs);
    if (status) return status;
    snprintf(r->what, sizeof r->what, "the number of tensors");
    status = check_count(r, *tensors, MIN_TENSOR_BYTES);
    if (status) return status;
    snprintf(r->what, sizeof r->what, "the number of metadata pairs");
    return check_count(r, *pairs, MIN_KEY_BYTES);
}

/* The integer of an optional key, or `otherwise`. */
static int read_optional(const char *path, const ml_metadata *metadata, const char *key, int64_t otherwise,
                         int64_t *out) {
    const ml_meta *meta = ml_metadata_find(metadata, key);
    *out = otherwise;
    if (!meta || (!meta->is_array && ml_stored_int(meta, 0, out))) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s is damaged: %s is no integer", path, key);
}

/* Reads the file that was mapped last. */
static int read_file(ml_weights *weights, const char *path, ml_metadata *metadata) {
    const ml_mapping *file = &weights->files[weights->file_count - 1];
    size_t first = weights->names.count;
    reader r = {.path = path, .data = file->data, .size = file->size};
    uint64_t tensors = 0, pairs = 0;
    int64_t alignment = 0;
    double t0 = ml_time_now();
    int status = take_header(&r, &tensors, &pairs);
    double t1 = ml_time_now();
    if (!status) status = take_metadata(&r, pairs, metadata);
    if (!status) status = read_optional(path, metadata, "general.alignment", DEFAULT_ALIGNMENT, &alignment);
    double t2 = ml_time_now();
    if (status) return status;
    if (alignment < MIN_ALIGNMENT || (alignment & (alignment - 1))) {
        return ml_error(ML_E_FORMAT, "%s is damaged: general.alignment is %lld, which is no power of two from %d on",
                        path, (long long)alignment, MIN_ALIGNMENT);
    }
    status = take_tensors(&r, tensors, (uint64_t)alignment, weights);
    if (!status) status = place_tensors(&r, first, (uint64_t)alignment, weights);
    if (!status) status = check_apart(&r, first, weights);
    weights->timings[0] += t1 - t0;
    weights->timings[1] += t2 - t1;
    weights->timings[2] += ml_time_now() - t2;
    return status;
}

/* ---- split files ---- */

/* What a part says of itself; count is 1 for a file that is not split. */
typedef struct split {
    int64_t number, count, tensors; /* from 0; parts; tensors of all parts, or -1 if it does not say */
} split;

static int read_split(const char *path, const ml_metadata *metadata, split *out) {
    int status = read_optional(path, metadata, "split.count", 1, &out->count);
    if (!status) status = read_optional(path, metadata, "split.no", out->count > 1 ? -1 : 0, &out->number);
    if (!status) status = read_optional(path, metadata, "split.tensors.count", -1, &out->tensors);
    if (status) return status;
    if (out->count < 0 || out->count > 65535 || (out->count > 1 && (out->number < 0 || out->number >= out->count))) {
        return ml_error(ML_E_FORMAT, "%s is damaged: it says it is part %lld (from 0) of %lld", path,
                        (long long)out->number, (long long)out->count);
    }
    return ML_OK;
}

/* The ending that gguf-split gives a part. */
static void part_ending(char out[32], int64_t number, int64_t count) {
    snprintf(out, 32, "-%05d-of-%05d.gguf", (int)number + 1, (int)count);
}

/* Maps part `number` as one more file and reads it into `metadata`; it must agree with `said`. */
static int read_part(ml_weights *weights, const char *path, split said, ml_metadata *metadata) {
    split own = {0};
    int status = ml_weights_map(weights, path);
    if (status == ML_E_IO) {
        char reason[512];
        snprintf(reason, sizeof reason, "%s", ml_last_error());
        return ml_error(ML_E_IO, "part %lld of the %lld that the model is split into is missing: %s",
                        (long long)said.number + 1, (long long)said.count, reason);
    }
    if (!status) status = read_file(weights, path, metadata);
    if (!status) status = read_split(path, metadata, &own);
    if (status) return status;
    if (own.number != said.number || own.count != said.count || own.tensors != said.tensors) {
        return ml_error(ML_E_FORMAT,
                        "%s belongs to another model: it says it is part %lld of %lld with %lld tensors, not part %lld "
                        "of %lld with %lld",
                        path, (long long)own.number + 1, (long long)own.count, (long long)own.tensors,
                        (long long)said.number + 1, (long long)said.count, (long long)said.tensors);
    }
    return ML_OK;
}

/* Reads all parts in order, from the first on. `path` has room for an ending after `stem` bytes. */
static int read_parts(ml_weights *weights, char *path, size_t stem, split said) {
    int status = ML_OK;
    ml_weights_clear(weights);
    for (said.number = 0; !status && said.number < said.count; said.number++) {
        ml_metadata own = {0};
        part_ending(path + stem, said.number, said.count);
        status = read_part(weights, path, said, said.number ? &own : &weights->metadata);
        ml_metadata_clear(&own);
    }
    if (!status && said.tensors >= 0 && said.tensors != ml_weights_count(weights)) {
        status = ml_error(ML_E_FORMAT, "%s: the parts hold %lld tensors together, but should hold %lld", weights->path,
                          (long long)ml_weights_count(weights), (long long)said.tensors);
    }
    return status;
}

int ml_gguf_load(ml_weights *weights) {
    split said = {0};
    char ending[32];
    int status = read_file(weights, weights->path, &weights->metadata);
    if (!status) status = read_split(weights->path, &weights->metadata, &said);
    if (status || said.count <= 1) return status;
    part_ending(ending, said.number, said.count);
    size_t length = strlen(weights->path);
    if (length < strlen(ending) || strcmp(weights->path + length - strlen(ending), ending) != 0) {
        return ml_error(ML_E_FORMAT, "%s is part %lld of %lld, so its name has to end in %s; rename it", weights->path,
                        (long long)said.number + 1, (long long)said.count, ending);
    }
    char *path = ml_calloc(length + sizeof ending, 1);
    if (!path) return ML_E_MEMORY;
    size_t stem = length - strlen(ending);
    memcpy(path, weights->path, stem);
    status = read_parts(weights, path, stem, said);
    free(path);
    return status;
}
