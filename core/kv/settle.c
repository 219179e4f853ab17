/* The policy of a cache, and how it is applied. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/place.h"

#include <stdlib.h>
#include <string.h>

/* ---- the policy ---- */

void ml_cache_forget_policy(ml_cache *cache) {
    for (size_t i = 0; i < cache->format_count; i++) free(cache->formats[i]);
    free(cache->formats);
    free(cache->goal);
}

const ml_format *ml_cache_format(ml_cache *cache, int rotated, const uint8_t *key_bits, const uint8_t *value_bits) {
    ml_format *format = ml_calloc(1, ml_format_size(cache->kv_heads));
    if (!format) return NULL;
    ml_format_lay_out(format, cache->dtype, cache->kv_heads, cache->head_dim, rotated, key_bits, value_bits);
    const ml_format *known = format->plain ? cache->plain : NULL;
    for (size_t i = 0; !known && i < cache->format_count; i++) {
        if (ml_format_same(cache->formats[i], format)) known = cache->formats[i];
    }
    if (known) {
        free(format);
        return known;
    }
    void *list = cache->formats;
    int status = ml_grow(&list, &cache->format_capacity, cache->format_count + 1, sizeof *cache->formats);
    cache->formats = list;
    if (status == ML_OK) status = ml_pool_size(cache->pool, format->bytes);
    if (status != ML_OK) {
        free(format);
        return NULL;
    }
    cache->formats[cache->format_count++] = format;
    return format;
}

static int check_bits(const ml_cache *cache, const uint8_t *bits, const char *what) {
    for (int32_t i = 0; bits && i < cache->layers * cache->kv_heads; i++) {
        if (bits[i] == 16 || bits[i] == 8 || bits[i] == 4) continue;
        return ml_error(ML_E_ARGUMENT, "%s of layer %d, head %d are 16, 8 or 4, not %d", what, i / cache->kv_heads,
                        i % cache->kv_heads, bits[i]);
    }
    return ML_OK;
}

int ml_cache_policy(ml_cache *cache, const ml_policy *policy) {
    const int64_t most = INT64_C(1) << 48; /* so that sums of them stay in range; a saved session has no more */
    if (policy->hot_tokens < 0 || policy->hot_tokens > most || policy->first_tokens < 0 ||
        policy->first_tokens > most) {
        return ml_error(ML_E_ARGUMENT, "hot_tokens and first_tokens are 0 to 2^48, not %lld and %lld",
                        (long long)policy->hot_tokens, (long long)policy->first_tokens);
    }
    const int rotated = policy->rotate != 0;
    if (rotated != cache->rotated && cache->warm_pages > 0) {
        return ml_error(ML_E_ARGUMENT, "rotation cannot change while %lld pages are quantised",
                        (long long)cache->warm_pages);
    }
    int status = check_bits(cache, policy->key_bits, "key_bits");
    if (status == ML_OK) status = check_bits(cache, policy->value_bits, "value_bits");
    if (status != ML_OK) return status;
    const ml_format **goal = ml_calloc((size_t)cache->layers, sizeof *goal);
    if (!goal) return ML_E_MEMORY;
    for (int32_t l = 0; l < cache->layers; l++) {
        const int32_t at = l * cache->kv_heads;
        goal[l] = ml_cache_format(cache, rotated, policy->key_bits ? policy->key_bits + at : NULL,
                                  policy->value_bits ? policy->value_bits + at : NULL);
        if (!goal[l]) {
            free(goal);
            return ML_E_MEMORY;
        }
    }
    free(cache->goal);
    cache->goal = goal;
    cache->rotated = rotated;
    cache->hot_tokens = policy->hot_tokens;
    cache->first_tokens = policy->first_tokens;
    for (size_t i = 0; i < cache->count; i++) cache->sequences[i].settled = cache->sequences[i].windowed = 0;
    return ML_OK;
}

int ml_cache_read_policy(const ml_cache *cache, ml_policy *out, uint8_t *bits) {
    const size_t heads = (size_t)cache->kv_heads, all = (size_t)cache->layers * heads;
    if (!cache->goal) return 0;
    for (size_t i = 0; i < 2 * all; i++) {
        const size_t values = i >= all, at = i - values * all;
        bits[i] = (uint8_t)cache->goal[at / heads]->sides[values * heads + at % heads].bits;
    }
    *out = (ml_policy){cache->hot_tokens, cache->first_tokens, bits, bits + all, cache->rotated};
    return 1;
}

int64_t ml_cache_page_bytes(const ml_cache *cache, int32_t layer, int plain) {
    if (layer < 0 || layer >= cache->layers) return ml_error(ML_E_ARGUMENT, "the cache has no layer %d", layer);
    return plain || !cache->goal ? cache->plain->bytes : cache->goal[layer]->bytes;
}

void ml_cache_pages(const ml_cache *cache, int64_t *pages, int64_t *quantised) {
    *pages = cache->pages_used;
    *quantised = cache->warm_pages;
}

/* ---- applying it ---- */

enum {
    ROUND = 64, /* pages that are worked on at once: so much more memory is needed for a while */
    RUN = 64    /* of a layer that are quantised one after the other: so they lie side by side, and attention needs few
                   translations of addresses */
};

typedef struct demotion {
    ml_page *page, *origin; /* origin: has the codes of its frozen tokens, or NULL */
    const ml_format *format;
    uint8_t *data;
    int done;
} demotion;

typedef struct settle_work {
    ml_cache *cache;
    int count, changed, full; /* full: there is no memory for more */
    int interrupted;
    demotion list[ROUND];
} settle_work;

static void convert_pages(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    settle_work *work = arg;
    for (int64_t i = begin; i < end; i++) {
        demotion *d = &work->list[i];
        d->done = ml_page_convert(d->page->format, d->page->data, d->format, d->data,
                                  d->origin ? d->origin->data : NULL, d->origin ? d->page->frozen : 0);
    }
}

/* Converts the pages of the list and empties it. */
static void convert_list(settle_work *work) {
    ml_cache *cache = work->cache;
    if (work->count == 0) return;
    ml_parallel(work->count, 1, convert_pages, work);
    for (int i = 0; i < work->count; i++) {
        demotion *d = &work->list[i];
        ml_page *page = d->page;
        page->queued--;
        if (d->origin) d->origin->queued--;
        if (!d->done) {
            ml_pool_give(cache->pool, d->data, d->format->bytes);
            continue;
        }
        ml_page_replace(cache, page, d->format, d->data);
        ml_cache_traffic(cache, page->layer, ML_LEVEL_WARM)->lowered++;
        if (page->origin) ml_page_release(cache, page->origin);
        page->origin = NULL;
        page->frozen = 0;
        work->changed = 1;
    }
    work->count = 0;
}

/* Brings a page into memory, to stay there while it is queued. Without room for it, what is on the list makes some:
 * that is not worth a sequence. */
static int fetch(settle_work *work, ml_page *page) {
    page->queued++;
    int status = ml_page_raise(work->cache, page, ML_RECLAIM_PAGES);
    if (status == ML_E_MEMORY && work->count > 0) {
        convert_list(work);
        status = ml_page_raise(work->cache, page, ML_RECLAIM_PAGES);
    }
    if (status == ML_OK) return ML_OK;
    page->queued--;
    work->full |= status == ML_E_MEMORY;
    return status;
}

/* Room for what a page becomes, likewise. */
static uint8_t *make_room(settle_work *work, const ml_format *format) {
    uint8_t *data = ml_page_room(work->cache, format->bytes, ML_RECLAIM_PAGES);
    if (!data && work->count > 0) {
        convert_list(work);
        data = ml_page_room(work->cache, format->bytes, ML_RECLAIM_PAGES);
    }
    work->full |= !data;
    return data;
}

/* Whether a page of that format becomes one of the format `goal`: only to be smaller. */
static int shrinks(const ml_format *format, const ml_format *goal) {
    return format->bytes > goal->bytes;
}

/* Puts a page on the list, from wherever it lies: what becomes of it must not depend on that. One that cannot be read
 * stays as it is; who needs it is told. */
static void add_page(settle_work *work, ml_page *page, const ml_format *format) {
    if (page->queued || !shrinks(page->format, format)) return;
    if (!page->data && ml_interrupt_pending()) work->interrupted = 1;
    if (work->interrupted || fetch(work, page) != ML_OK) return;
    ml_page *origin = page->origin && page->origin->format == format ? page->origin : NULL;
    const int ready = !origin || fetch(work, origin) == ML_OK;
    uint8_t *data = ready ? make_room(work, format) : NULL;
    if (data) {
        work->list[work->count++] = (demotion){page, origin, format, data, 0};
        if (work->count == ROUND) convert_list(work);
    } else {
        page->queued--;
        if (origin && ready) origin->queued--;
    }
}

/* The first page that the policy has not been applied to yet, but may be once the sequence is longer. */
static int64_t first_due(const ml_cache *cache, const ml_sequence *sequence) {
    const int64_t first = (cache->first_tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS;
    return sequence->settled > first ? sequence->settled : first;
}

/* The page after the last one that the policy no longer keeps plain. */
static int64_t end_due(const ml_cache *cache, const ml_sequence *sequence) {
    const int64_t cold = sequence->length - cache->hot_tokens;
    return cold > 0 ? cold / ML_PAGE_TOKENS : 0;
}

/* Whether a settle would quantise one of the pages [first, end) of the sequence. */
static int changes_pages(const ml_cache *cache, const ml_sequence *sequence, int64_t first, int64_t end) {
    for (int64_t i = first * cache->layers; i < end * cache->layers; i++) {
        if (shrinks(sequence->pages[i]->format, cache->goal[i % cache->layers])) return 1;
    }
    return 0;
}

int64_t ml_sequence_certain(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    int lossy = 0;
    for (int32_t l = 0; cache->goal && l < cache->layers; l++) lossy |= shrinks(cache->plain, cache->goal[l]);
    if (!lossy) return INT64_MAX;
    const int64_t first = first_due(cache, s), end = end_due(cache, s), next = first > end ? first : end;
    if (changes_pages(cache, s, first, end)) return 1;
    return (next + 1) * ML_PAGE_TOKENS + cache->hot_tokens - s->length;
}

static void settle_sequence(settle_work *work, ml_sequence *sequence) {
    const ml_cache *cache = work->cache;
    const int64_t last = end_due(cache, sequence);
    int64_t page = first_due(cache, sequence);
    while (page < last) {
        const int64_t end = last - page < RUN ? last : page + RUN;
        for (int64_t i = 0; i < cache->layers * (end - page) && !work->full && !work->interrupted; i++) {
            const int64_t layer = i / (end - page), at = page + i % (end - page);
            add_page(work, sequence->pages[at * cache->layers + layer], cache->goal[layer]);
        }
        if (work->full || work->interrupted) break;
        page = end;
    }
    if (page > sequence->settled) sequence->settled = page;
}

int ml_cache_settle(ml_cache *cache) {
    settle_work work = {.cache = cache};
    for (size_t i = 0; cache->goal && i < cache->count && !work.full && !work.interrupted; i++) {
        if (cache->sequences[i].used) settle_sequence(&work, &cache->sequences[i]);
    }
    convert_list(&work);
    if (work.changed) ml_cache_changed(cache);
    int status = ml_place_settle(cache);
    return status == ML_OK && work.interrupted ? ml_error(ML_E_INTERRUPTED, "interrupted") : status;
}
