/* Filling sequences from saved sessions, and checking all of their pages. */

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/demote.h"
#include "kv/file/saved.h"
#include "kv/policy.h"
#include "kv/sequence.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND = 64 }; /* pages that are read together, roughly */

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
    ml_saved_damaged(saved, "page %u of layer %u is damaged (bytes %lld to %lld)", entry->page, entry->layer,
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
    if (h->info.layers == cache->shape.layers && h->kv_heads == cache->shape.kv_heads &&
        h->head_dim == cache->shape.head_dim && h->info.dtype == cache->dtype) {
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
    const size_t heads = (size_t)cache->shape.kv_heads, all = (size_t)cache->shape.layers * heads;
    uint8_t *bits = ml_calloc(2 * all, 1);
    if (!bits) return ML_E_MEMORY;
    for (size_t l = 0; l < (size_t)cache->shape.layers; l++) {
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
    if (part->format_count > 1 && !ml_policy_rotate(cache, part->rotated)) {
        return ml_error(ML_E_UNSUPPORTED, "%.200s does not fit the cache: its keys are turned otherwise", saved->path);
    }
    for (uint32_t i = 0; i < part->format_count; i++) {
        const uint8_t *bits = part->formats + (size_t)i * 2 * (size_t)cache->shape.kv_heads;
        formats[i] = ml_policy_format(cache, part->rotated, bits, bits + cache->shape.kv_heads);
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
    ml_demote_for(cache, bytes);
    int status = take_pages(r, cache);
    if (status == ML_OK) status = read_entries(r);
    if (status == ML_OK) status = give_pages(r, cache, sequence, tokens);
    for (int64_t i = 0; i < r->end - r->first; i++) {
        if (r->pages[i]) ml_page_release(cache, r->pages[i]);
        r->pages[i] = NULL;
    }
    ml_demote(cache);
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
    const size_t room =
        ROUND + 2 * (size_t)cache->shape.layers; /* of a round: a page of tokens may begin at the last */
    r->pages = ml_calloc(room, sizeof(ml_page *));
    r->shown = ml_calloc(room, sizeof(ml_page *));
    r->formats = ml_calloc(r->saved->policy.format_count, sizeof *r->formats);
    r->threads = ml_threads_count();
    r->packers = ml_calloc((size_t)r->threads, sizeof *r->packers);
    if (!r->pages || !r->shown || !r->formats || !r->packers) return ML_E_MEMORY;
    int status = match_formats(r->saved, cache, r->formats);
    for (int i = 0; status == ML_OK && i < r->threads; i++) {
        status = ml_packer_create(ml_page_largest(cache), &r->packers[i]);
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
    const int64_t vocabulary = cache->shape.vocabulary;
    for (int64_t i = 0; i < tokens; i++) {
        if (ids[i] >= 0 && ids[i] < vocabulary) continue;
        return ml_error(ML_E_UNSUPPORTED,
                        "%.200s cannot be restored: token %lld of it is %d, outside the vocabulary of %lld",
                        saved->path, (long long)i, ids[i], (long long)vocabulary);
    }
    return ML_OK;
}

int ml_saved_load(ml_saved *saved, ml_cache *cache, int32_t sequence, int64_t tokens) {
    ml_sequence *s = ml_sequence_find(cache, sequence);
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
    ml_sequence_use(cache, s); /* it must not be given up for itself */
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
    ml_pages_changed(cache);
    return status;
}
