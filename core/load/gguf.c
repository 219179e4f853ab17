/* A GGUF file: header, metadata, tensor infos, data; and the parts of a split one. */
#include "load/gguf.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/gguf_metadata.h"
#include "load/gguf_reader.h"
#include "load/gguf_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_ALIGNMENT = 32, MIN_ALIGNMENT = 8 };

static const char MAGIC[4] = {'G', 'G', 'U', 'F'};

int ml_gguf_recognise(const uint8_t *data, size_t size) {
    return size >= sizeof MAGIC && memcmp(data, MAGIC, sizeof MAGIC) == 0;
}

static int take_header(ml_gguf_reader *r, uint64_t *tensors, uint64_t *pairs) {
    uint32_t version = 0;
    if (!ml_gguf_recognise(r->data, r->size)) {
        return ml_error(ML_E_FORMAT, "%s is not a GGUF file: it does not begin with the bytes \"GGUF\"", r->path);
    }
    r->at = sizeof MAGIC;
    snprintf(r->what, sizeof r->what, "the header");
    int status = ml_gguf_take_u32(r, &version);
    if (status) return status;
    if (version && (version & 0xffff) == 0) {
        return ml_error(ML_E_UNSUPPORTED, "%s is a big-endian GGUF file; convert it to little-endian", r->path);
    }
    if (version < 2 || version > 3) {
        return ml_error(ML_E_UNSUPPORTED, "%s is GGUF version %u; moonloom reads versions 2 and 3", r->path, version);
    }
    status = ml_gguf_take_u64(r, tensors);
    if (!status) status = ml_gguf_take_u64(r, pairs);
    if (status) return status;
    snprintf(r->what, sizeof r->what, "the number of tensors");
    status = ml_gguf_check_count(r, *tensors, ML_GGUF_MIN_TENSOR);
    if (status) return status;
    snprintf(r->what, sizeof r->what, "the number of metadata pairs");
    return ml_gguf_check_count(r, *pairs, ML_GGUF_MIN_PAIR);
}

/* The integer of an optional key, or `otherwise`. */
static int read_optional(const char *path, const ml_metadata *metadata, const char *key, int64_t otherwise,
                         int64_t *out) {
    const ml_meta *meta = ml_metadata_find(metadata, key);
    *out = otherwise;
    if (!meta || (!meta->is_array && ml_value_int(meta, 0, out))) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s is damaged: %s is no integer", path, key);
}

/* The next multiple of `alignment`, a power of two. */
static uint64_t round_up(uint64_t at, uint64_t alignment) {
    return (at + alignment - 1) & ~(alignment - 1);
}

/* Reads the file that was mapped last, whose data begins at the next multiple of the alignment. */
static int read_file(ml_weights *weights, const char *path, ml_metadata *metadata) {
    const ml_mapping *file = &weights->files[weights->file_count - 1];
    size_t first = weights->names.count;
    ml_gguf_reader r = {.path = path, .data = file->data, .size = file->size};
    uint64_t tensors = 0, pairs = 0;
    int64_t alignment = 0;
    double t0 = ml_time_now();
    int status = take_header(&r, &tensors, &pairs);
    double t1 = ml_time_now();
    if (!status) status = ml_gguf_take_metadata(&r, pairs, metadata);
    if (!status) status = read_optional(path, metadata, "general.alignment", DEFAULT_ALIGNMENT, &alignment);
    double t2 = ml_time_now();
    if (status) return status;
    if (alignment < MIN_ALIGNMENT || (alignment & (alignment - 1))) {
        return ml_error(ML_E_FORMAT, "%s is damaged: general.alignment is %lld, which is no power of two from %d on",
                        path, (long long)alignment, MIN_ALIGNMENT);
    }
    status = ml_gguf_take_tensors(&r, tensors, (uint64_t)alignment, weights);
    if (!status) status = ml_store_place(weights, path, first, round_up(r.at, (uint64_t)alignment));
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
    int status = ml_store_map(weights, path);
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
    ml_store_clear(weights);
    for (said.number = 0; !status && said.number < said.count; said.number++) {
        ml_metadata own = {0};
        part_ending(path + stem, said.number, said.count);
        status = read_part(weights, path, said, said.number ? &own : &weights->metadata);
        ml_metadata_clear(&own);
    }
    if (!status && said.tensors >= 0 && said.tensors != (int64_t)weights->names.count) {
        status = ml_error(ML_E_FORMAT, "%s: the parts hold %zu tensors together, but should hold %lld", weights->path,
                          weights->names.count, (long long)said.tensors);
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
