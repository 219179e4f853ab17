/* Reading saved sessions. Nothing in the file is trusted: see kv/saved.h for what it should be. */
#include "kv/saved.h"

#include "base/error.h"
#include "base/mapping.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/packed.h"
#include "kv/place.h"
#include "model/model.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUND = 64 }; /* pages that are read together, roughly */

struct ml_saved {
    char *path;
    ml_mapping file;
    ml_saved_header header;
    int64_t text_at, policy_at, pages_at, index_at; /* in the file; the ids are at ML_SAVED_HEADER */
    int text_whole;
    ml_saved_policy_part policy;
    ml_saved_entry *entries; /* {page_count}; worth nothing where the index is damaged */
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

/* ---- pages ---- */

typedef struct reading {
    ml_saved *saved;
    int64_t first, end;        /* entries that are read together */
    ml_page **pages;           /* {end - first}: to be filled; NULL: only checksums are compared */
    ml_page **shown;           /* those of them that are not origins */
    const ml_format **formats; /* {format_count}: as the cache has them */
    ml_packer **packers;       /* {threads} */
    int threads;
    atomic_llong bad; /* the first entry that is damaged, or `end` */
} reading;

static int page_whole(const reading *r, int64_t i, int thread) {
    const ml_saved_entry *entry = &r->saved->entries[i];
    const uint8_t *packed = r->saved->file.data + r->saved->offsets[i];
    if (ml_hash(packed, entry->packed, 0) != entry->hash) return 0;
    if (!r->pages) return 1;
    const ml_page *page = r->pages[i - r->first];
    return ml_unpack(r->packers[thread], packed, entry->packed, ml_format_element(page->format), page->data,
                     entry->bytes) == ML_OK;
}

static void read_pages(void *arg, int64_t begin, int64_t end, int thread) {
    reading *r = arg;
    for (int64_t i = r->first + begin; i < r->first + end; i++) {
        if (page_whole(r, i, thread)) continue;
        long long first = atomic_load(&r->bad);
        while (i < first && !atomic_compare_exchange_weak(&r->bad, &first, i)) {
        }
    }
}

static int read_entries(reading *r) {
    ml_saved *saved = r->saved;
    atomic_init(&r->bad, r->end);
    ml_parallel(r->end - r->first, 4, read_pages, r);
    const int64_t bad = atomic_load(&r->bad);
    if (bad == r->end) return ML_OK;
    const ml_saved_entry *entry = &saved->entries[bad];
    damaged(saved, "page %u of layer %u is damaged (bytes %lld to %lld)", entry->page, entry->layer,
            (long long)saved->offsets[bad], (long long)(saved->offsets[bad] + entry->packed - 1));
    return ml_error(ML_E_FORMAT, "%s", saved->damage);
}

int ml_saved_check(ml_saved *saved) {
    if (saved->damage[0]) return ml_error(ML_E_FORMAT, "%s", saved->damage);
    reading r = {.saved = saved, .end = saved->header.info.page_count};
    return read_entries(&r);
}

/* Whether the session is of a model of these sizes, and whole as far as is known. */
static int check_shape(const ml_saved *saved, const ml_cache *cache) {
    const ml_saved_header *h = &saved->header;
    if (saved->damage[0]) return ml_error(ML_E_FORMAT, "%s", saved->damage);
    if (h->info.layers == cache->layers && h->kv_heads == cache->kv_heads && h->head_dim == cache->head_dim &&
        h->info.dtype == cache->dtype) {
        return ML_OK;
    }
    return ml_error(ML_E_UNSUPPORTED, "%.200s does not fit the cache: its pages differ", saved->path);
}

int ml_saved_policy(const ml_saved *saved, ml_cache *cache, int *set) {
    const ml_saved_policy_part *part = &saved->policy;
    int status = check_shape(saved, cache);
    if (status != ML_OK) return status;
    *set = part->set;
    if (!part->set) return ML_OK;
    const size_t heads = (size_t)cache->kv_heads, all = (size_t)cache->layers * heads;
    uint8_t *bits = ml_calloc(2 * all, 1);
    if (!bits) return ML_E_MEMORY;
    for (size_t l = 0; l < (size_t)cache->layers; l++) {
        const uint8_t *format = part->formats + ml_get_u32(part->goals + 4 * l) * 2 * heads;
        memcpy(bits + l * heads, format, heads);
        memcpy(bits + all + l * heads, format + heads, heads);
    }
    const ml_policy policy = {part->hot_tokens, part->first_tokens, bits, bits + all, part->rotated};
    status = ml_cache_policy(cache, &policy);
    free(bits);
    return status;
}

/* The formats of the file as the cache has them, {format_count}. */
static int match_formats(const ml_saved *saved, ml_cache *cache, const ml_format **formats) {
    const ml_saved_policy_part *part = &saved->policy;
    if (part->format_count > 1 && part->rotated != cache->rotated) {
        if (cache->warm_pages > 0 || cache->goal) {
            return ml_error(ML_E_UNSUPPORTED, "%.200s does not fit the cache: its keys are turned otherwise",
                            saved->path);
        }
        cache->rotated = part->rotated;
    }
    for (uint32_t i = 0; i < part->format_count; i++) {
        const uint8_t *bits = part->formats + (size_t)i * 2 * (size_t)cache->kv_heads;
        formats[i] = ml_cache_format(cache, part->rotated, bits, bits + cache->kv_heads);
        if (!formats[i]) return ML_E_MEMORY;
    }
    return ML_OK;
}

/* Takes empty pages for the entries. On failure some of them may be taken. */
static int take_pages(reading *r, ml_cache *cache) {
    for (int64_t i = r->first; i < r->end; i++) {
        const ml_saved_entry *entry = &r->saved->entries[i];
        const ml_format *format = r->formats[entry->format];
        if (entry->bytes != format->bytes) {
            return ml_error(ML_E_UNSUPPORTED, "%.200s does not fit the cache: page %u of layer %u has %u bytes",
                            r->saved->path, entry->page, entry->layer, entry->bytes);
        }
        r->pages[i - r->first] = ml_page_take(cache, format, (int32_t)entry->layer);
        if (!r->pages[i - r->first]) return ML_E_MEMORY;
    }
    return ML_OK;
}

/* Hangs origins on their pages and gives the sequence the rest; `tokens` of all pages up to these. */
static int give_pages(reading *r, ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    int64_t shown = 0;
    for (int64_t i = 0; i < r->end - r->first; i++) {
        ml_page *page = r->pages[i];
        const uint32_t frozen = r->saved->entries[r->first + i].frozen;
        if (frozen > 0) {
            r->pages[i] = NULL; /* its page holds it */
            r->shown[shown - 1]->origin = page;
            r->shown[shown - 1]->frozen = (int32_t)frozen;
        } else {
            r->shown[shown++] = page;
        }
    }
    const int64_t from = sequence->length;
    return ml_sequence_share(cache, sequence, r->shown, ml_saved_ids(r->saved) + from, tokens - from);
}

/* Reads the entries as the next pages of the sequence. What does not fit into memory with them is put down. */
static int read_round(reading *r, ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    int64_t bytes = 0;
    for (int64_t i = r->first; i < r->end; i++) bytes += r->formats[r->saved->entries[i].format]->bytes;
    ml_place_prepare(cache, bytes);
    int status = take_pages(r, cache);
    if (status == ML_OK) status = read_entries(r);
    if (status == ML_OK) status = give_pages(r, cache, sequence, tokens);
    for (int64_t i = 0; i < r->end - r->first; i++) {
        if (r->pages[i]) ml_page_release(cache, r->pages[i]);
        r->pages[i] = NULL;
    }
    ml_place_lower(cache);
    return status;
}

/* The end of the entries from r->first on that are read together: whole pages of tokens, at least one, and a small part
 * of the budget. */
static int64_t end_of_round(const reading *r, const ml_cache *cache, int64_t count) {
    const ml_saved_entry *entries = r->saved->entries;
    const int64_t most = cache->places.memory > 0 ? cache->places.memory / 16 : INT64_MAX;
    int64_t end = r->first, bytes = 0;
    do {
        bytes += r->formats[entries[end++].format]->bytes;
    } while (end < count && ((end - r->first < ROUND && bytes < most) || entries[end].page == entries[end - 1].page));
    return end;
}

static int read_session(reading *r, ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    const ml_saved *saved = r->saved;
    const int64_t pages = (tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS, all = saved->header.info.page_count;
    int64_t count = 0;
    while (count < all && saved->entries[count].page < pages) count++;
    int status = ML_OK;
    while (status == ML_OK && r->end < count) {
        if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
        r->first = r->end;
        r->end = end_of_round(r, cache, count);
        const int64_t reached = (int64_t)(saved->entries[r->end - 1].page + 1) * ML_PAGE_TOKENS;
        status = read_round(r, cache, sequence, reached < tokens ? reached : tokens);
    }
    return status;
}

static int open_reading(reading *r, ml_cache *cache) {
    const size_t room = ROUND + 2 * (size_t)cache->layers; /* of a round: a page of tokens may begin at the last */
    r->pages = ml_calloc(room, sizeof(ml_page *));
    r->shown = ml_calloc(room, sizeof(ml_page *));
    r->formats = ml_calloc(r->saved->policy.format_count, sizeof *r->formats);
    r->threads = ml_threads_count();
    r->packers = ml_calloc((size_t)r->threads, sizeof *r->packers);
    if (!r->pages || !r->shown || !r->formats || !r->packers) return ML_E_MEMORY;
    int status = match_formats(r->saved, cache, r->formats);
    for (int i = 0; status == ML_OK && i < r->threads; i++) {
        status = ml_packer_create(ml_place_largest(cache), &r->packers[i]);
    }
    return status;
}

static void close_reading(reading *r) {
    for (int i = 0; r->packers && i < r->threads; i++) ml_packer_free(r->packers[i]);
    free(r->packers);
    free(r->formats);
    free(r->shown);
    free(r->pages);
}

/* Else whoever reads the sequence, or the tree of the cache, would meet tokens that do not exist. */
static int check_ids(const ml_saved *saved, const ml_cache *cache, int64_t tokens) {
    const int32_t *ids = ml_saved_ids(saved);
    const int64_t vocabulary = cache->model->config.vocabulary;
    for (int64_t i = 0; i < tokens; i++) {
        if (ids[i] >= 0 && ids[i] < vocabulary) continue;
        return ml_error(ML_E_UNSUPPORTED,
                        "%.200s cannot be restored: token %lld of it is %d, outside the vocabulary of %lld",
                        saved->path, (long long)i, ids[i], (long long)vocabulary);
    }
    return ML_OK;
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
    int status = check_shape(saved, cache);
    if (status == ML_OK) status = check_ids(saved, cache, tokens);
    if (status != ML_OK) return status;
    reading r = {.saved = saved};
    ml_sequence_release(cache, s); /* pages that a pass reserved and did not commit */
    s->used = 1;
    s->used_at = ++cache->tick; /* it must not be given up for itself */
    status = open_reading(&r, cache);
    if (status == ML_OK) status = read_session(&r, cache, s, tokens);
    close_reading(&r);
    if (status == ML_OK) {
        s->isa = ml_kernels_numbers();
        s->sound = ml_saved_sound(saved) < tokens ? ml_saved_sound(saved) : tokens;
    } else {
        ml_sequence_release(cache, s);
        s->used = 1;
    }
    ml_cache_changed(cache);
    return status;
}
