#include "kv/quantise.h"

#include "base/error.h"
#include "base/threads.h"
#include "kv/sequence.h"

enum {
    ROUND = 64, /* pages that are worked on at once: so much more memory is needed for a while */
    RUN = 64    /* of a layer that are quantised one after the other: so they lie side by side, and attention needs few
                   translations of addresses */
};

/* A page that becomes one of another format. */
typedef struct change {
    ml_page *page, *origin; /* origin: has the codes of its frozen tokens, or NULL */
    const ml_format *format;
    uint8_t *data;
    int done;
} change;

typedef struct quantise_work {
    ml_cache *cache;
    int count, changed, full; /* full: there is no memory for more */
    int interrupted;
    change list[ROUND];
} quantise_work;

static void convert_pages(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    quantise_work *work = arg;
    for (int64_t i = begin; i < end; i++) {
        change *d = &work->list[i];
        d->done = ml_page_convert(d->page->format, d->page->data, d->format, d->data,
                                  d->origin ? d->origin->data : NULL, d->origin ? d->page->frozen : 0);
    }
}

/* Converts the pages of the list and empties it. */
static void convert_list(quantise_work *work) {
    ml_cache *cache = work->cache;
    if (work->count == 0) return;
    ml_parallel(work->count, 1, convert_pages, work);
    for (int i = 0; i < work->count; i++) {
        change *d = &work->list[i];
        ml_page *page = d->page;
        page->queued--;
        if (d->origin) d->origin->queued--;
        if (!d->done) {
            ml_pool_give(cache->pool, d->data, d->format->bytes);
            continue;
        }
        ml_page_replace(cache, page, d->format, d->data);
        ml_page_traffic(cache, page->layer, ML_LEVEL_WARM)->demoted++;
        if (page->origin) ml_page_release(cache, page->origin);
        page->origin = NULL;
        page->frozen = 0;
        work->changed = 1;
    }
    work->count = 0;
}

/* Brings a page into memory, to stay there while it is queued. Without room for it, what is on the list makes some:
 * that is not worth a sequence. */
static int fetch(quantise_work *work, ml_page *page) {
    page->queued++;
    int status = ml_page_promote(work->cache, page, ML_RECLAIM_PAGES);
    if (status == ML_E_MEMORY && work->count > 0) {
        convert_list(work);
        status = ml_page_promote(work->cache, page, ML_RECLAIM_PAGES);
    }
    if (status == ML_OK) return ML_OK;
    page->queued--;
    work->full |= status == ML_E_MEMORY;
    return status;
}

/* Room for what a page becomes. Without any, what is on the list makes some, as in fetch(). */
static uint8_t *make_room(quantise_work *work, const ml_format *format) {
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
static void add_page(quantise_work *work, ml_page *page, const ml_format *format) {
    if (page->queued || !shrinks(page->format, format)) return;
    if (!page->data && ml_interrupt_pending()) work->interrupted = 1;
    if (work->interrupted || fetch(work, page) != ML_OK) return;
    ml_page *origin = page->origin && page->origin->format == format ? page->origin : NULL;
    const int ready = !origin || fetch(work, origin) == ML_OK;
    uint8_t *data = ready ? make_room(work, format) : NULL;
    if (data) {
        work->list[work->count++] = (change){page, origin, format, data, 0};
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

int64_t ml_quantise_end(const ml_cache *cache, const ml_sequence *sequence, int32_t layer) {
    return cache->goal && shrinks(cache->plain, cache->goal[layer]) ? end_due(cache, sequence) : INT64_MAX;
}

/* Whether a settle would quantise one of the pages [first, end) of the sequence. */
static int changes_pages(const ml_cache *cache, const ml_sequence *sequence, int64_t first, int64_t end) {
    for (int64_t i = first * cache->shape.layers; i < end * cache->shape.layers; i++) {
        if (shrinks(sequence->pages[i]->format, cache->goal[i % cache->shape.layers])) return 1;
    }
    return 0;
}

int64_t ml_sequence_certain(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    int lossy = 0;
    for (int32_t l = 0; cache->goal && l < cache->shape.layers; l++) lossy |= shrinks(cache->plain, cache->goal[l]);
    if (!lossy) return INT64_MAX;
    const int64_t first = first_due(cache, s), end = end_due(cache, s), next = first > end ? first : end;
    if (changes_pages(cache, s, first, end)) return 1;
    return (next + 1) * ML_PAGE_TOKENS + cache->hot_tokens - s->length;
}

/* Applies the policy to the pages of a sequence that it has not been applied to. */
static void quantise_sequence(quantise_work *work, ml_sequence *sequence) {
    const ml_cache *cache = work->cache;
    const int64_t last = end_due(cache, sequence);
    int64_t page = first_due(cache, sequence);
    while (page < last) {
        const int64_t end = last - page < RUN ? last : page + RUN;
        for (int64_t i = 0; i < cache->shape.layers * (end - page) && !work->full && !work->interrupted; i++) {
            const int64_t layer = i / (end - page), at = page + i % (end - page);
            add_page(work, sequence->pages[at * cache->shape.layers + layer], cache->goal[layer]);
        }
        if (work->full || work->interrupted) break;
        page = end;
    }
    if (page > sequence->settled) sequence->settled = page;
}

int ml_quantise(ml_cache *cache) {
    quantise_work work = {.cache = cache};
    for (size_t i = 0; cache->goal && i < cache->count && !work.full && !work.interrupted; i++) {
        if (cache->sequences[i].used) quantise_sequence(&work, &cache->sequences[i]);
    }
    convert_list(&work);
    if (work.changed) ml_pages_changed(cache);
    return work.interrupted;
}
