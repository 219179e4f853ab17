#include "kv/demote.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/budget.h"
#include "kv/bytes/spill.h"
#include "kv/page.h"
#include "kv/prefix.h"
#include "kv/quantise.h"
#include "kv/sequence.h"
#include "kv/victims.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUND = 16 /* pages that are packed at once */
};

static int has_disk(const ml_cache *cache) {
    return cache->spill && !cache->spill_broken;
}

/* Pages on their way down together. */
typedef struct demotion {
    ml_cache *cache;
    int place;                 /* ML_LEVEL_COLD or ML_LEVEL_DISK */
    int count, demoted, stuck; /* of the list; of all lists before; 1: there is no room below */
    int64_t saved;             /* bytes that the list will save, roughly */
    ml_page *pages[ROUND];
    size_t sizes[ROUND]; /* packed; 0: not */
    uint8_t *packed;     /* {ROUND, bound}, from the first page on */
    size_t bound;
} demotion;

static void pack_pages(void *arg, int64_t begin, int64_t end, int thread) {
    demotion *w = arg;
    for (int64_t i = begin; i < end; i++) {
        const ml_page *page = w->pages[i];
        w->sizes[i] = page->packed_bytes;
        if (page->packed || page->spill) continue;
        w->sizes[i] = ml_pack(w->cache->porters[thread].packer, page->data, (size_t)page->format->bytes,
                              ml_format_element(page->format), w->packed + (size_t)i * w->bound);
    }
}

/* Writes a record of the page. 0 if the disk has no room for it. */
static int write_record(ml_cache *cache, ml_page *page, const uint8_t *packed, size_t bytes) {
    if (!has_disk(cache)) return 0;
    if (cache->places.disk > 0 && ml_spill_bytes(cache->spill) + (int64_t)bytes > cache->places.disk) return 0;
    if (ml_spill_write(cache->spill, packed, bytes, &page->record, &page->record_hash) != ML_OK) {
        cache->spill_broken = 1;
        cache->spill_failed = 1;
        snprintf(cache->spill_problem, sizeof cache->spill_problem, "%s", ml_last_error());
        return 0;
    }
    page->spill = cache->spill;
    page->packed_bytes = (uint32_t)bytes;
    return 1;
}

/* Puts one page down; it stays where it is if there is no room below. */
static void put_down(demotion *w, ml_page *page, const uint8_t *packed, size_t bytes) {
    ml_cache *cache = w->cache;
    const int64_t before = ml_page_held(page);
    const int level = ml_page_level(page);
    void *blob = NULL;
    if (!page->spill && w->place == ML_LEVEL_DISK) write_record(cache, page, packed, bytes);
    if (!page->spill && !page->packed) {
        if (ml_pool_take(cache->pool, (int64_t)bytes, &blob) != ML_OK) {
            w->stuck = 1;
            return;
        }
        memcpy(blob, packed, bytes);
        page->packed_bytes = (uint32_t)bytes;
        page->packed = blob;
    } else if (page->spill && page->packed) {
        ml_pool_give(cache->pool, page->packed, page->packed_bytes);
        page->packed = NULL;
    }
    if (page->data) {
        ml_pool_give(cache->pool, page->data, page->format->bytes);
        page->data = NULL;
        cache->absent_pages[page->layer]++;
    }
    ml_page_count(cache, page, ml_page_held(page) - before);
    if (ml_page_level(page) == level) return;
    ml_page_traffic(cache, page->layer, ml_page_level(page))->demoted++;
    w->demoted++;
}

/* Forgets prefixes until the pages of the list are within the budget of the disk, as far as that helps. */
static void make_disk_room(const demotion *w) {
    ml_cache *cache = w->cache;
    int64_t bytes = 0;
    for (int i = 0; i < w->count; i++) bytes += w->pages[i]->spill ? 0 : (int64_t)w->sizes[i];
    while (cache->disk_kept > 0 && ml_spill_bytes(cache->spill) + bytes > cache->places.disk) ml_prefix_forget(cache);
}

/* Puts the pages of the list down and empties it. */
static void flush(demotion *w) {
    if (w->count == 0) return;
    ml_parallel(w->count, 1, pack_pages, w);
    if (w->place == ML_LEVEL_DISK && w->cache->places.disk > 0) make_disk_room(w);
    for (int i = 0; i < w->count; i++) {
        ml_page *page = w->pages[i];
        page->queued--;
        if (w->sizes[i] > 0 && page->references > 1) { /* else it was forgotten just now */
            put_down(w, page, page->packed ? page->packed : w->packed + (size_t)i * w->bound, w->sizes[i]);
        }
        ml_page_release(w->cache, page);
    }
    w->count = 0;
    w->saved = 0;
}

static void finish(demotion *w) {
    flush(w);
    free(w->packed);
    w->packed = NULL;
    if (w->demoted) ml_pages_changed(w->cache);
}

static int begin(demotion *w) {
    if (w->packed) return ML_OK;
    w->cache->quiesce(w->cache);
    w->bound = ml_packed_bound(ml_page_largest(w->cache));
    int status = ml_page_porters(w->cache);
    if (status == ML_OK) w->packed = ml_alloc_aligned(ROUND, w->bound);
    return w->packed ? ML_OK : ML_E_MEMORY;
}

/* Lists a page and holds it, if it lies above the place: 1 if so. */
static int add(demotion *w, ml_page *page) {
    const int goes = page->data || (w->place == ML_LEVEL_DISK && page->packed);
    if (!goes || page->queued || page->staged || begin(w) != ML_OK) return 0;
    ml_page_hold(w->cache, page);
    page->queued++;
    w->pages[w->count++] = page;
    w->saved += w->place == ML_LEVEL_DISK ? ml_page_held(page) : page->format->bytes / 16;
    if (w->count == ROUND) flush(w);
    return 1;
}

/* ---- what left the window ---- */

/* Puts the pages of a sequence down that left the window of their layer. */
static void settle_window(demotion *w, ml_sequence *sequence) {
    const ml_cache *cache = w->cache;
    int64_t least = INT64_MAX;
    for (int32_t l = 0; l < cache->shape.layers; l++) {
        if (cache->shape.windows[l] <= 0) continue;
        int64_t end = ml_sequence_first_seen(cache, sequence, l);
        const int64_t settled = ml_quantise_end(cache, sequence, l);
        if (end > settled) end = settled; /* the others wait until they are quantised */
        for (int64_t page = sequence->windowed; page < end; page++) {
            add(w, sequence->pages[page * cache->shape.layers + l]);
        }
        if (end < least) least = end;
    }
    if (least != INT64_MAX && least > sequence->windowed) sequence->windowed = least;
}

/* ---- what is over the budget ---- */

/* Lists the pages of a class until `more` bytes are within the budget. 1 if that is enough, or nothing more can go. */
static int demote_class(demotion *w, int64_t more, ml_victim_class which) {
    ml_cache *cache = w->cache;
    ml_victim *list;
    const size_t count = ml_victims_pages(cache, which, &list);
    int enough = 0;
    for (size_t i = 0; i < count && !enough; i++) {
        if (!add(w, list[i].page) || (!w->stuck && ml_budget_excess(cache, more) > w->saved)) continue;
        flush(w);
        enough = w->stuck || ml_budget_excess(cache, more) <= 0;
    }
    flush(w);
    free(list);
    return enough || w->stuck || ml_budget_excess(cache, more) <= 0;
}

/* Puts pages of sequences down until `more` bytes are within the budget, or all are down. Returns how many. */
static int demote_sequences(ml_cache *cache, int64_t more) {
    const int disk = has_disk(cache);
    demotion w = {.cache = cache, .place = disk ? ML_LEVEL_DISK : ML_LEVEL_COLD};
    int enough = ml_budget_excess(cache, more) <= 0;
    for (int which = disk ? ML_VICTIMS_COLD : ML_VICTIMS_OUTSIDE; which < ML_VICTIM_CLASSES && !enough; which++) {
        enough = demote_class(&w, more, (ml_victim_class)which);
    }
    finish(&w);
    return w.demoted;
}

/* Lists pages that only prefixes show, those used least recently first, until `more` bytes are within the budget, but
 * fewer than a full list: what puts that down may forget prefixes. */
static void list_kept(demotion *w, int64_t more) {
    const ml_cache *cache = w->cache;
    const int64_t wanted = ml_budget_excess(cache, more);
    const ml_prefix *at = NULL;
    for (ml_page *const *pages; (pages = ml_prefix_pages(cache, &at));) {
        for (int32_t l = 0; l < cache->shape.layers; l++) {
            ml_page *page = pages[l], *origin = page->origin;
            if (w->count > ROUND - 3 || w->saved >= wanted) return;
            if (page->references != page->kept) continue;
            add(w, page);
            if (origin && origin->references == 1) add(w, origin);
        }
    }
}

/* Puts pages that only prefixes show on the disk. Returns how many. */
static int demote_kept(ml_cache *cache, int64_t more) {
    demotion w = {.cache = cache, .place = ML_LEVEL_DISK};
    for (int before = -1;
         w.demoted > before && cache->bytes_kept > 0 && has_disk(cache) && ml_budget_excess(cache, more) > 0;) {
        before = w.demoted;
        list_kept(&w, more);
        flush(&w);
    }
    finish(&w);
    return w.demoted;
}

void ml_demote_for(ml_cache *cache, int64_t bytes) {
    demote_kept(cache, bytes);
    while (ml_budget_excess(cache, bytes) > 0 && cache->bytes_kept > 0 && ml_prefix_forget(cache)) {
    }
    if (ml_budget_excess(cache, bytes) > 0) demote_sequences(cache, bytes);
}

int ml_demote_some(ml_cache *cache) {
    /* There may be room, but in pieces that are too small: more has to go, until some lie together. */
    const int64_t room = -ml_budget_excess(cache, 0), more = cache->places.memory / 8 + (room > 0 ? room : 0);
    if (demote_kept(cache, more) > 0) return 1;
    if (cache->bytes_kept > 0 && ml_prefix_forget(cache)) return 1;
    return cache->places.memory > 0 && demote_sequences(cache, more) > 0;
}

void ml_demote(ml_cache *cache) {
    if (cache->places.window != ML_LEVEL_HOT) {
        const int disk = cache->places.window == ML_LEVEL_DISK && has_disk(cache);
        demotion w = {.cache = cache, .place = disk ? ML_LEVEL_DISK : ML_LEVEL_COLD};
        for (size_t i = 0; i < cache->count; i++) {
            if (cache->sequences[i].used) settle_window(&w, &cache->sequences[i]);
        }
        finish(&w);
    }
    ml_demote_for(cache, 0);
}
