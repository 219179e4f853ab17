/* Opening saved sessions. Nothing in the file is trusted: see kv/file/header.h for what it should be. */
#include "kv/file/saved.h"

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ml_saved_damaged(ml_saved *saved, const char *format, ...) {
    if (saved->damage[0]) return;
    va_list args;
    va_start(args, format);
    const int length = snprintf(saved->damage, sizeof saved->damage, "%.200s: ", saved->path);
    vsnprintf(saved->damage + length, sizeof saved->damage - (size_t)length, format, args);
    va_end(args);
}

static void part_damaged(ml_saved *saved, const char *part, int64_t first, int64_t bytes) {
    ml_saved_damaged(saved, "%s is damaged (bytes %lld to %lld)", part, (long long)first,
                     (long long)(first + bytes - 1));
}

/* Whether the sizes of a header fit together, and where they put the parts. */
static int lay_out(ml_saved *saved) {
    const ml_saved_header *h = &saved->header;
    const ml_saved_info *info = &h->info;
    const int64_t most = INT64_C(1) << 48; /* of each size: sums and products below stay in range */
    if (info->tokens < 1 || info->tokens > INT32_MAX || info->sound < 0 || info->sound > info->tokens ||
        info->text_bytes < 0 || info->text_bytes > most || info->packed_bytes < 0 || info->packed_bytes > most ||
        info->layers < 1 || info->layers > 65536 || (info->dtype != ML_BF16 && info->dtype != ML_F32) ||
        h->kv_heads < 1 || h->kv_heads > 65536 || h->policy_bytes < 0 || h->policy_bytes > most) {
        return 0;
    }
    const int64_t pages = (info->tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * info->layers;
    if (info->page_count < pages || info->page_count > 2 * pages) return 0;
    saved->text_at = ML_SAVED_HEADER + info->tokens * 4;
    saved->policy_at = saved->text_at + info->text_bytes;
    saved->pages_at = saved->policy_at + h->policy_bytes;
    saved->index_at = saved->pages_at + info->packed_bytes;
    return info->bytes == saved->index_at + info->page_count * ML_SAVED_ENTRY + ML_SAVED_HEADER;
}

/* Takes the header, or the trailer if that is damaged. */
static int read_header(ml_saved *saved) {
    const uint8_t *data = saved->file.data;
    const size_t size = saved->file.size;
    uint32_t version = 0, end_version = 0;
    if (size < 2 * ML_SAVED_HEADER) {
        return ml_error(ML_E_FORMAT, "%s is no saved session: it has only %zu bytes", saved->path, size);
    }
    const uint8_t *trailer = data + size - ML_SAVED_HEADER;
    const int begins = ml_saved_is_header(data, &version), ends = ml_saved_is_header(trailer, &end_version);
    if (ml_saved_get_header(data, &saved->header)) {
        if (saved->header.info.bytes > (int64_t)size) {
            ml_saved_damaged(saved, "it is cut short: %zu of %lld bytes are there", size,
                             (long long)saved->header.info.bytes);
        } else if (memcmp(data, trailer, ML_SAVED_HEADER) != 0) {
            part_damaged(saved, "the trailer", (int64_t)size - ML_SAVED_HEADER, ML_SAVED_HEADER);
        }
    } else if (ml_saved_get_header(trailer, &saved->header)) {
        part_damaged(saved, "the header", 0, ML_SAVED_HEADER);
    } else if (!begins && !ends) {
        return ml_error(ML_E_FORMAT, "%s is no saved session", saved->path);
    } else if (begins && version != ML_SAVED_VERSION) {
        return ml_error(ML_E_UNSUPPORTED, "%s is of version %u of the format; this moonloom reads version %d",
                        saved->path, version, ML_SAVED_VERSION);
    } else {
        return ml_error(ML_E_FORMAT, "%s: the header is damaged (bytes 0 to %d), and so is the trailer", saved->path,
                        ML_SAVED_HEADER - 1);
    }
    if (lay_out(saved)) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s: the header contradicts itself", saved->path);
}

static int has(const ml_saved *saved, int64_t end) {
    return end <= (int64_t)saved->file.size;
}

/* Reads the index: a page of each layer after the other, each perhaps followed by its origin, which fill the place of
 * the pages exactly. 0 if it is not so. */
static int read_index(ml_saved *saved) {
    const ml_saved_header *h = &saved->header;
    const int64_t count = h->info.page_count,
                  pages = (h->info.tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * h->info.layers;
    const uint8_t *index = saved->file.data + saved->index_at;
    int64_t at = saved->pages_at, next = 0;
    if (ml_hash(index, count * ML_SAVED_ENTRY, 0) != h->index_hash) return 0;
    for (int64_t i = 0; i < count; i++) {
        ml_saved_entry *entry = &saved->entries[i];
        ml_saved_get_entry(index + i * ML_SAVED_ENTRY, entry);
        saved->offsets[i] = at;
        at += entry->packed;
        if (entry->frozen == 0) next++;
        const int64_t page = next - 1;
        if (page < 0 || page >= pages || entry->layer != page % h->info.layers ||
            entry->page != page / h->info.layers || entry->format >= saved->policy.format_count ||
            at > saved->index_at) {
            return 0;
        }
        if (entry->frozen > 0 &&
            (entry->frozen > ML_PAGE_TOKENS || entry->format == 0 || entry[-1].frozen > 0 || entry[-1].format != 0)) {
            return 0;
        }
    }
    return next == pages && at == saved->index_at;
}

static int read_parts(ml_saved *saved) {
    const ml_saved_info *info = &saved->header.info;
    const uint8_t *data = saved->file.data;
    if (!has(saved, saved->text_at) || ml_hash(data + ML_SAVED_HEADER, info->tokens * 4, 0) != saved->header.ids_hash) {
        return ml_error(ML_E_FORMAT, "%s: the token ids are damaged (bytes %d to %lld): it cannot be restored",
                        saved->path, ML_SAVED_HEADER, (long long)saved->text_at - 1);
    }
    saved->text_whole =
        has(saved, saved->pages_at) && ml_hash(data + saved->text_at, info->text_bytes, 0) == saved->header.text_hash;
    if (!saved->text_whole) part_damaged(saved, "the text", saved->text_at, info->text_bytes);
    if (!has(saved, saved->pages_at) ||
        ml_hash(data + saved->policy_at, saved->header.policy_bytes, 0) != saved->header.policy_hash ||
        !ml_saved_get_policy(data + saved->policy_at, &saved->header, &saved->policy)) {
        part_damaged(saved, "the policy", saved->policy_at, saved->header.policy_bytes);
        return ML_OK; /* and so nothing is known about the pages */
    }
    const int64_t index_bytes = info->page_count * ML_SAVED_ENTRY;
    if (has(saved, saved->index_at + index_bytes)) {
        saved->entries = ml_calloc((size_t)info->page_count, sizeof *saved->entries);
        saved->offsets = ml_calloc((size_t)info->page_count, sizeof *saved->offsets);
        if (!saved->entries || !saved->offsets) return ML_E_MEMORY;
        if (read_index(saved)) return ML_OK;
    }
    part_damaged(saved, "the index", saved->index_at, index_bytes);
    return ML_OK;
}

int ml_saved_open(const char *path, ml_saved **out) {
    ml_saved *saved = ml_calloc(1, sizeof *saved);
    if (!saved) return ML_E_MEMORY;
    saved->path = strdup(path);
    int status = saved->path ? ml_mapping_open(path, &saved->file) : ml_error(ML_E_MEMORY, "out of memory");
    if (status == ML_OK) {
        ml_mapping_release(&saved->file); /* a store holds more of them than a process may have descriptors */
        status = read_header(saved);
    }
    if (status == ML_OK) status = read_parts(saved);
    if (status != ML_OK) {
        ml_saved_free(saved);
        return status;
    }
    *out = saved;
    return ML_OK;
}

void ml_saved_free(ml_saved *saved) {
    if (!saved) return;
    ml_mapping_close(&saved->file);
    free(saved->entries);
    free(saved->offsets);
    free(saved->path);
    free(saved);
}

void ml_saved_describe(const ml_saved *saved, ml_saved_info *out) {
    *out = saved->header.info;
    out->policy = saved->policy.set;
}

int64_t ml_saved_sound(const ml_saved *saved) {
    const ml_saved_info *info = &saved->header.info;
    const int same = strcmp(ml_kernels_numbers(), info->isa) == 0 && strcmp(ml_version(), info->version) == 0;
    return same ? info->sound : 0;
}

const int32_t *ml_saved_ids(const ml_saved *saved) {
    return (const int32_t *)(const void *)(saved->file.data + ML_SAVED_HEADER);
}

const char *ml_saved_text(const ml_saved *saved) {
    return saved->text_whole ? (const char *)saved->file.data + saved->text_at : NULL;
}

const char *ml_saved_damage(const ml_saved *saved) {
    return saved->damage[0] ? saved->damage : NULL;
}

int ml_saved_fits(const ml_saved *saved, const ml_identity *identity) {
    const ml_saved_info *info = &saved->header.info;
    if (memcmp(info->identity.tokenizer, identity->tokenizer, sizeof identity->tokenizer) != 0) {
        return ml_error(ML_E_UNSUPPORTED, "%.200s was saved with another tokenizer, that of %s (%s)", saved->path,
                        info->name, info->file);
    }
    if (memcmp(info->identity.model, identity->model, sizeof identity->model) != 0) {
        return ml_error(ML_E_UNSUPPORTED, "%.200s was saved with another model, %s (%s)", saved->path, info->name,
                        info->file);
    }
    return ML_OK;
}
