/* The places of a cache, and how pages are put down: what left the window, and what is over the budget. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/place.h"
#include "kv/prefix.h"
#include "kv/spill.h"
#include "kv/stream.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUND = 16 /* pages that are packed at once */
};

/* ---- the places ---- */

static int check_places(const ml_places *places) {
    if (places->memory < 0 || places->disk < 0) {
        return ml_error(ML_E_ARGUMENT, "budgets are 0 bytes or more, not %lld and %lld", (long long)places->memory,
                        (long long)places->disk);
    }
    if (places->window != ML_PLACE_MEMORY && places->window != ML_PLACE_COLD && places->window != ML_PLACE_DISK) {
        return ml_error(ML_E_ARGUMENT, "there is no place %d for what left the window", places->window);
    }
    if (places->window == ML_PLACE_DISK && !places->spill) {
        return ml_error(ML_E_ARGUMENT, "pages go to disk only where there is a folder for the spill file");
    }
    return ML_OK;
}

/* Gives the cache the places and the spill file (NULL: none). */
static int set_places(ml_cache *cache, const ml_places *places, ml_spill *spill) {
    const int resized = places->memory != cache->places.memory;
    cache->spill = spill;
    cache->spill_broken = 0;
    cache->places = *places;
    cache->places.spill = NULL;
    cache->shrinks = cache->shrinks || resized;
    int status = ml_pool_budget(cache->pool, places->memory);
    return status == ML_OK && resized ? ml_stream_open(cache, ML_PIECE_PAGES) : status;
}

int ml_cache_places(ml_cache *cache, const ml_places *places) {
    const ml_places before = cache->places;
    const int broken = cache->spill_broken;
    ml_spill *old = cache->spill, *spill = NULL;
    int status = check_places(places);
    if (status != ML_OK) return status;
    const int same = places->spill && old && !broken && strcmp(places->spill, ml_spill_path(old)) == 0;
    if (places->spill && !same) status = ml_spill_create(places->spill, &spill);
    if (status != ML_OK) return status;
    status = set_places(cache, places, same ? old : spill);
    if (status != ML_OK) { /* all is as before */
        cache->places = before;
        cache->spill = old;
        cache->spill_broken = broken;
        ml_pool_budget(cache->pool, before.memory);
        ml_spill_release(spill);
        return status;
    }
    if (!same) ml_spill_release(old); /* it stays as long as there are pages in it */
    for (size_t i = 0; i < cache->count; i++) cache->sequences[i].windowed = cache->sequences[i].lowered = 0;
    return ML_OK;
}

/* ---- the budget ---- */

/* What the cache has of the pool, with what rounding loses. */
static int64_t in_use(const ml_cache *cache) {
    ml_pool_info info;
    ml_pool_stats(cache->pool, &info);
    return info.used + info.lost;
}

/* A part of the budget goes for blocks of the pool that are not full. */
static int64_t limit_of(const ml_cache *cache) {
    return cache->places.memory - cache->places.memory / 8;
}

/* Less than the limit by what a few tokens need: else what comes back would be put down again at once. */
int64_t ml_place_spare(const ml_cache *cache) {
    if (cache->places.memory == 0) return INT64_MAX;
    const int64_t limit = limit_of(cache), room = 2 * (int64_t)cache->layers * cache->plain->bytes,
                  margin = room < limit / 8 ? room : limit / 8;
    return limit - margin - in_use(cache);
}

static int64_t excess(const ml_cache *cache, int64_t more) {
    return cache->places.memory == 0 ? 0 : in_use(cache) + more - limit_of(cache);
}

/* ---- putting pages down ---- */

static int has_disk(const ml_cache *cache) {
    return cache->spill && !cache->spill_broken;
}

typedef struct lowering {
    ml_cache *cache;
    int place; /* ML_PLACE_COLD or ML_PLACE_DISK */
    int count, lowered, stuck;
    int64_t saved; /* bytes that the list will save, roughly */
    ml_page *pages[ROUND];
    size_t sizes[ROUND]; /* packed; 0: not */
    uint8_t *packed;     /* {ROUND, bound}, from the first page on */
    size_t bound;
} lowering;

static void pack_pages(void *arg, int64_t begin, int64_t end, int thread) {
    lowering *w = arg;
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
static void put_down(lowering *w, ml_page *page, const uint8_t *packed, size_t bytes) {
    ml_cache *cache = w->cache;
    const int64_t before = ml_page_held(page);
    const int level = ml_page_level(page);
    void *blob = NULL;
    if (!page->spill && w->place == ML_PLACE_DISK) write_record(cache, page, packed, bytes);
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
    ml_cache_traffic(cache, page->layer, ml_page_level(page))->lowered++;
    w->lowered++;
}

/* Forgets prefixes until the pages of the list are within the budget of the disk, as far as that helps. */
static void make_disk_room(const lowering *w) {
    ml_cache *cache = w->cache;
    int64_t bytes = 0;
    for (int i = 0; i < w->count; i++) bytes += w->pages[i]->spill ? 0 : (int64_t)w->sizes[i];
    while (cache->disk_kept > 0 && ml_spill_bytes(cache->spill) + bytes > cache->places.disk) ml_prefix_forget(cache);
}

/* Puts the pages of the list down and empties it. */
static void flush(lowering *w) {
    if (w->count == 0) return;
    ml_parallel(w->count, 1, pack_pages, w);
    if (w->place == ML_PLACE_DISK && w->cache->places.disk > 0) make_disk_room(w);
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

static void finish(lowering *w) {
    flush(w);
    free(w->packed);
    w->packed = NULL;
    if (w->lowered) ml_cache_changed(w->cache);
}

static int begin(lowering *w) {
    if (w->packed) return ML_OK;
    w->cache->quiesce(w->cache);
    w->bound = ml_packed_bound(ml_place_largest(w->cache));
    int status = ml_place_porters(w->cache);
    if (status == ML_OK) w->packed = ml_alloc_aligned(ROUND, w->bound);
    return w->packed ? ML_OK : ML_E_MEMORY;
}

/* Lists a page and holds it, if it lies above the place: 1 if so. */
static int add(lowering *w, ml_page *page) {
    const int goes = page->data || (w->place == ML_PLACE_DISK && page->packed);
    if (!goes || page->queued || page->staged || begin(w) != ML_OK) return 0;
    ml_page_hold(w->cache, page);
    page->queued++;
    w->pages[w->count++] = page;
    w->saved += w->place == ML_PLACE_DISK ? ml_page_held(page) : page->format->bytes / 16;
    if (w->count == ROUND) flush(w);
    return 1;
}

/* ---- what left the window ---- */

/* The first page that the window of a row after the sequence's end shows in `layer`; 0 without a window. */
static int64_t first_in_window(const ml_cache *cache, const ml_sequence *sequence, int32_t layer) {
    const int64_t window = cache->model->layers[layer].window;
    return window > 0 && sequence->length >= window ? (sequence->length + 1 - window) / ML_PAGE_TOKENS : 0;
}

/* Pages that will be quantised wait for that. */
static int64_t first_to_quantise(const ml_cache *cache, const ml_sequence *sequence, int32_t layer) {
    if (!cache->goal || cache->goal[layer]->plain) return INT64_MAX;
    const int64_t hot = sequence->length - cache->hot_tokens;
    return hot > 0 ? hot / ML_PAGE_TOKENS : 0;
}

static void settle_window(lowering *w, ml_sequence *sequence) {
    const ml_cache *cache = w->cache;
    int64_t least = INT64_MAX;
    for (int32_t l = 0; l < cache->layers; l++) {
        if (cache->model->layers[l].window <= 0) continue;
        int64_t end = first_in_window(cache, sequence, l);
        if (end > first_to_quantise(cache, sequence, l)) end = first_to_quantise(cache, sequence, l);
        for (int64_t page = sequence->windowed; page < end; page++) add(w, sequence->pages[page * cache->layers + l]);
        if (end < least) least = end;
    }
    if (least != INT64_MAX && least > sequence->windowed) sequence->windowed = least;
}

/* ---- what is over the budget ---- */

/* The sequence that was used least recently after (used_at, number), in that order; NULL after the last. */
static ml_sequence *next_used(const ml_cache *cache, const ml_sequence *after) {
    ml_sequence *next = NULL;
    for (size_t i = 0; i < cache->count; i++) {
        ml_sequence *s = &cache->sequences[i];
        if (!s->used || s->page_count == 0) continue;
        if (after && (s->used_at < after->used_at || (s->used_at == after->used_at && s <= after))) continue;
        if (!next || s->used_at < next->used_at) next = s;
    }
    return next;
}

/* What goes first: cold pages, which nobody reads, then what is behind the windows, then what is in them. */
enum { COLD_ONES, BEHIND, ALL, PASSES };

/* Lists full pages of a sequence, the oldest first, until `more` bytes are within the budget. 1 if that is enough, or
 * nothing more can go. */
static int lower_sequence(lowering *w, ml_sequence *sequence, int64_t more, int pass) {
    const ml_cache *cache = w->cache;
    const int64_t full = sequence->length / ML_PAGE_TOKENS;
    for (int64_t page = pass == BEHIND ? sequence->lowered : 0; page < full; page++) {
        int left = 0;
        for (int32_t l = 0; l < cache->layers; l++) {
            const int windowed = cache->model->layers[l].window > 0;
            if (pass == COLD_ONES && !sequence->pages[page * cache->layers + l]->packed) continue;
            if (pass != ALL && windowed && page >= first_in_window(cache, sequence, l)) {
                left = 1;
                continue;
            }
            if (!add(w, sequence->pages[page * cache->layers + l]) || excess(cache, more) > w->saved) continue;
            flush(w);
            if (w->stuck || excess(cache, more) <= 0) return 1;
        }
        if (w->stuck) return 1;
        if (!left && pass == BEHIND && page == sequence->lowered) sequence->lowered++;
    }
    return 0;
}

/* Puts pages down until `more` bytes are within the budget, or all are down. Returns how many. */
static int lower_all(ml_cache *cache, int64_t more) {
    const int disk = has_disk(cache);
    lowering w = {.cache = cache, .place = disk ? ML_PLACE_DISK : ML_PLACE_COLD};
    int enough = excess(cache, more) <= 0;
    for (size_t i = 0; cache->raised && i < cache->count; i++) cache->sequences[i].lowered = 0;
    cache->raised = 0;
    for (int pass = disk ? COLD_ONES : BEHIND; pass < PASSES && !enough; pass++) {
        ml_sequence *s = NULL;
        while (!enough && (s = next_used(cache, s))) enough = lower_sequence(&w, s, more, pass);
        flush(&w);
        enough = enough || excess(cache, more) <= 0;
    }
    finish(&w);
    return w.lowered;
}

/* Lists pages that only prefixes show, those used least recently first, until `more` bytes are within the budget, but
 * fewer than a full list: what puts that down may forget prefixes. */
static void list_kept(lowering *w, int64_t more) {
    const ml_cache *cache = w->cache;
    const int64_t wanted = excess(cache, more);
    const ml_prefix *at = NULL;
    for (ml_page *const *pages; (pages = ml_prefix_pages(cache, &at));) {
        for (int32_t l = 0; l < cache->layers; l++) {
            ml_page *page = pages[l], *origin = page->origin;
            if (w->count > ROUND - 3 || w->saved >= wanted) return;
            if (page->references != page->kept) continue;
            add(w, page);
            if (origin && origin->references == 1) add(w, origin);
        }
    }
}

/* Puts such pages on the disk. Returns how many. */
static int lower_kept(ml_cache *cache, int64_t more) {
    lowering w = {.cache = cache, .place = ML_PLACE_DISK};
    for (int before = -1; w.lowered > before && cache->bytes_kept > 0 && has_disk(cache) && excess(cache, more) > 0;) {
        before = w.lowered;
        list_kept(&w, more);
        flush(&w);
    }
    finish(&w);
    return w.lowered;
}

void ml_place_prepare(ml_cache *cache, int64_t bytes) {
    lower_kept(cache, bytes);
    while (excess(cache, bytes) > 0 && cache->bytes_kept > 0 && ml_prefix_forget(cache)) {
    }
    if (excess(cache, bytes) > 0) lower_all(cache, bytes);
}

/* Gives up the sequence that was used least recently, but none of the pass under way. 0 if there is no other. */
static int evict(ml_cache *cache) {
    ml_sequence *s = next_used(cache, NULL);
    if (!cache->places.evict || !s || s->used_at == cache->tick) return 0;
    const int64_t tokens = s->length;
    ml_sequence_release(cache, s);
    *s = (ml_sequence){.used = 1, .evicted = tokens};
    cache->evictions++;
    ml_cache_changed(cache);
    return 1;
}

int ml_place_room(ml_cache *cache, int how_far) {
    /* There may be room, but in pieces that are too small: more has to go, until some lie together. */
    const int64_t room = -excess(cache, 0), more = cache->places.memory / 8 + (room > 0 ? room : 0);
    if (lower_kept(cache, more) > 0) return 1;
    if (cache->bytes_kept > 0 && ml_prefix_forget(cache)) return 1;
    if (cache->places.memory == 0) return 0;
    return lower_all(cache, more) > 0 || (how_far == ML_RECLAIM_SEQUENCES && evict(cache));
}

void ml_place_lower(ml_cache *cache) {
    if (cache->places.window != ML_PLACE_MEMORY) {
        const int disk = cache->places.window == ML_PLACE_DISK && has_disk(cache);
        lowering w = {.cache = cache, .place = disk ? ML_PLACE_DISK : ML_PLACE_COLD};
        for (size_t i = 0; i < cache->count; i++) {
            if (cache->sequences[i].used) settle_window(&w, &cache->sequences[i]);
        }
        finish(&w);
    }
    ml_place_prepare(cache, 0);
}

/* Gives back to the system what is above a budget that became smaller. */
static int shrink(ml_cache *cache) {
    ml_pool_info info;
    cache->shrinks = 0;
    ml_pool_trim(cache->pool);
    ml_pool_stats(cache->pool, &info);
    if (info.budget == 0 || info.reserved <= info.budget) return ML_OK;
    int status;
    while ((status = ml_place_move(cache)) == ML_E_MEMORY && cache->reclaim(cache, ML_RECLAIM_SEQUENCES)) {
    }
    return status;
}

int ml_place_settle(ml_cache *cache) {
    ml_place_lower(cache);
    if (cache->shrinks) {
        int status = shrink(cache);
        if (status != ML_OK) return status;
    }
    if (!cache->spill_failed) return ML_OK;
    cache->spill_failed = 0;
    return ml_error(ML_E_IO, "%s; pages stay in memory until the places are set again", cache->spill_problem);
}
