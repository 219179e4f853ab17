/* Reading saved sessions. Nothing in the file is trusted: see kv/saved.h for what it should be. */
#include "kv/saved.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/packed.h"
#include "load/mapping.h"
#include "model/model.h"
#include "tensor/dtype.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct ml_saved {
    char *path;
    ml_mapping file;
    ml_saved_header header;
    int64_t text_at, pages_at, index_at; /* in the file; the ids are at ML_SAVED_HEADER */
    int text_whole;
    ml_saved_entry *entries; /* {page_count}; NULL where the index is damaged */
    int64_t *offsets;        /* {page_count}: of each page in the file */
    char damage[400];        /* a sentence, or "" */
};

/* Remembers the first thing that is wrong. */
static void __attribute__((format(printf, 2, 3))) damaged(ml_saved *saved, const char *format, ...) {
    if (saved->damage[0]) return;
    va_list args;
    va_start(args, format);
    const int length = snprintf(saved->damage, sizeof saved->damage, "%.200s: ", saved->path);
    vsnprintf(saved->damage + length, sizeof saved->damage - (size_t)length, format, args);
    va_end(args);
}

static void part_damaged(ml_saved *saved, const char *part, int64_t first, int64_t bytes) {
    damaged(saved, "%s is damaged (bytes %lld to %lld)", part, (long long)first, (long long)(first + bytes - 1));
}

/* ---- opening ---- */

/* Whether the sizes of a header fit together, and where they put the parts. */
static int lay_out(ml_saved *saved) {
    const ml_saved_header *h = &saved->header;
    const ml_saved_info *info = &h->info;
    const int64_t most = INT64_C(1) << 48; /* of each size: sums and products below stay in range */
    if (info->tokens < 1 || info->tokens > INT32_MAX || info->sound < 0 || info->sound > info->tokens ||
        info->text_bytes < 0 || info->text_bytes > most || info->packed_bytes < 0 || info->packed_bytes > most ||
        info->layers < 1 || info->layers > 65536 || (info->dtype != ML_BF16 && info->dtype != ML_F32) ||
        info->page_count != (info->tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * info->layers) {
        return 0;
    }
    saved->text_at = ML_SAVED_HEADER + info->tokens * 4;
    saved->pages_at = saved->text_at + info->text_bytes;
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
            damaged(saved, "it is cut short: %zu of %lld bytes are there", size, (long long)saved->header.info.bytes);
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

/* Reads the index: entries in order, which fill the place of the pages exactly. 0 if it is not so. */
static int read_index(ml_saved *saved) {
    const ml_saved_header *h = &saved->header;
    const int64_t count = h->info.page_count;
    const uint8_t *index = saved->file.data + saved->index_at;
    int64_t at = saved->pages_at;
    if (ml_hash(index, count * ML_SAVED_ENTRY, 0) != h->index_hash) return 0;
    for (int64_t i = 0; i < count; i++) {
        ml_saved_entry *entry = &saved->entries[i];
        ml_saved_get_entry(index + i * ML_SAVED_ENTRY, entry);
        saved->offsets[i] = at;
        at += entry->packed;
        if (entry->layer != i % h->info.layers || entry->page != i / h->info.layers || at > saved->index_at) return 0;
    }
    return at == saved->index_at;
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
    if (status == ML_OK) status = read_header(saved);
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

/* ---- pages ---- */

typedef struct reading {
    ml_saved *saved;
    ml_sequence *sequence; /* whose pages are filled; NULL: only checksums are compared */
    ml_packer **packers;   /* {threads} */
    atomic_llong bad;      /* the first page that is damaged, or the number of pages */
} reading;

static int page_whole(const reading *r, int64_t i, int thread) {
    const ml_saved_entry *entry = &r->saved->entries[i];
    const uint8_t *packed = r->saved->file.data + r->saved->offsets[i];
    if (ml_hash(packed, entry->packed, 0) != entry->hash) return 0;
    if (!r->sequence) return 1;
    const size_t element = (size_t)ml_dtype_bytes(r->saved->header.info.dtype);
    return ml_unpack(r->packers[thread], packed, entry->packed, element, r->sequence->pages[i]->data, entry->bytes) ==
           ML_OK;
}

static void read_pages(void *arg, int64_t begin, int64_t end, int thread) {
    reading *r = arg;
    for (int64_t i = begin; i < end; i++) {
        if (page_whole(r, i, thread)) continue;
        long long first = atomic_load(&r->bad);
        while (i < first && !atomic_compare_exchange_weak(&r->bad, &first, i)) {
        }
    }
}

static int read_all(reading *r, int64_t pages) {
    ml_saved *saved = r->saved;
    atomic_init(&r->bad, pages);
    ml_parallel(pages, 4, read_pages, r);
    const int64_t bad = atomic_load(&r->bad);
    if (bad == pages) return ML_OK;
    const ml_saved_entry *entry = &saved->entries[bad];
    damaged(saved, "page %u of layer %u is damaged (bytes %lld to %lld)", entry->page, entry->layer,
            (long long)saved->offsets[bad], (long long)(saved->offsets[bad] + entry->packed - 1));
    return ml_error(ML_E_FORMAT, "%s", saved->damage);
}

int ml_saved_check(ml_saved *saved) {
    if (saved->damage[0]) return ml_error(ML_E_FORMAT, "%s", saved->damage);
    reading r = {.saved = saved};
    return read_all(&r, saved->header.info.page_count);
}

/* Whether the pages are those of the cache. */
static int check_shape(const ml_saved *saved, const ml_cache *cache, int64_t pages) {
    const ml_saved_header *h = &saved->header;
    int fits = h->info.layers == cache->layers && h->kv_heads == cache->kv_heads && h->head_dim == cache->head_dim &&
               h->info.dtype == cache->dtype;
    for (int64_t i = 0; fits && i < pages; i++) {
        fits = saved->entries[i].format == ML_SAVED_PLAIN && saved->entries[i].bytes == cache->plain->bytes;
    }
    return fits ? ML_OK : ml_error(ML_E_UNSUPPORTED, "%.200s does not fit the cache: its pages differ", saved->path);
}

/* Fills the pages of the sequence, which has them. */
static int fill(reading *r, int64_t pages) {
    const int threads = ml_threads_count();
    r->packers = ml_calloc((size_t)threads, sizeof *r->packers);
    int status = r->packers ? ML_OK : ML_E_MEMORY;
    for (int i = 0; status == ML_OK && i < threads; i++) {
        status = ml_packer_create(r->saved->entries[0].bytes, &r->packers[i]);
    }
    if (status == ML_OK) status = read_all(r, pages);
    for (int i = 0; r->packers && i < threads; i++) ml_packer_free(r->packers[i]);
    free(r->packers);
    return status;
}

int ml_saved_load(ml_saved *saved, ml_cache *cache, int32_t sequence, int64_t tokens) {
    ml_sequence *s = ml_cache_sequence(cache, sequence);
    const ml_saved_info *info = &saved->header.info;
    if (!s) return ML_E_ARGUMENT;
    if (s->length > 0) return ml_error(ML_E_ARGUMENT, "only an empty sequence can be filled from a file");
    if (tokens < 1 || tokens > info->tokens) {
        return ml_error(ML_E_ARGUMENT, "%.200s has tokens 1 to %lld, not %lld", saved->path, (long long)info->tokens,
                        (long long)tokens);
    }
    if (saved->damage[0]) return ml_error(ML_E_FORMAT, "%s", saved->damage);
    const int64_t pages = (tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * info->layers;
    int status = check_shape(saved, cache, pages);
    if (status == ML_OK) status = ml_cache_reserve(cache, s, tokens);
    if (status == ML_OK) {
        reading r = {.saved = saved, .sequence = s};
        status = fill(&r, pages);
    }
    if (status != ML_OK) {
        ml_sequence_rewind(cache, sequence, 0);
        return status;
    }
    memcpy(s->ids, ml_saved_ids(saved), (size_t)tokens * sizeof *s->ids);
    s->length = tokens;
    s->isa = ml_kernels_numbers();
    s->sound = ml_saved_sound(saved) < tokens ? ml_saved_sound(saved) : tokens;
    ml_cache_changed(cache);
    return ML_OK;
}
