#include "kv/cache.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kv/bytes/spill.h"
#include "kv/compact.h"
#include "kv/demote.h"
#include "kv/policy.h"
#include "kv/prefix.h"
#include "kv/promote.h"
#include "kv/quantise.h"
#include "kv/sequence.h"
#include "kv/victims.h"

#include <stdlib.h>
#include <string.h>

/* ---- room ---- */

/* Gives up the sequence that was used least recently. 0 if there is none that may be. */
static int evict(ml_cache *cache) {
    ml_sequence *s = cache->places.evict ? ml_victims_sequence(cache) : NULL;
    if (!s) return 0;
    const int64_t tokens = s->length;
    ml_sequence_release(cache, s);
    *s = (ml_sequence){.used = 1, .evicted = tokens};
    ml_pages_changed(cache);
    return 1;
}

/* Makes some room in the pool; see victims.c for who goes first. 0 if there is nothing left to do. */
static int reclaim(ml_cache *cache, int how_far) {
    if (ml_demote_some(cache)) return 1;
    return cache->places.memory > 0 && how_far == ML_RECLAIM_SEQUENCES && evict(cache);
}

/* ---- the object ---- */

/* Copies the shape, with what it points to. */
static int copy_shape(ml_cache *cache, const ml_shape *shape) {
    int64_t *windows = ml_calloc((size_t)shape->layers, sizeof *windows);
    char *architecture = strdup(shape->architecture), *name = strdup(shape->name), *file = strdup(shape->file);
    cache->shape = *shape;
    cache->shape.windows = windows;
    cache->shape.architecture = architecture;
    cache->shape.name = name;
    cache->shape.file = file;
    cache->shape.release = NULL; /* not before all is there */
    if (!windows) return ML_E_MEMORY;
    if (!architecture || !name || !file) return ml_error(ML_E_MEMORY, "out of memory: making a cache");
    for (int32_t l = 0; l < shape->layers; l++) {
        windows[l] = shape->windows[l];
        if (windows[l] > cache->window) cache->window = windows[l];
    }
    return ML_OK;
}

static void free_shape(ml_shape *shape) {
    if (shape->release) shape->release(shape->model);
    free((void *)shape->windows);
    free((void *)shape->architecture);
    free((void *)shape->name);
    free((void *)shape->file);
}

/* What a cache of a shape begins with. */
static int fill_cache(ml_cache *cache) {
    const size_t layers = (size_t)cache->shape.layers;
    int status = ml_pool_create(0, &cache->pool);
    cache->plain = ml_calloc(1, ml_format_size(cache->shape.kv_heads));
    cache->traffic = ml_calloc(layers * ML_LEVELS, sizeof *cache->traffic);
    cache->absent_pages = ml_calloc(layers, sizeof *cache->absent_pages);
    if (status == ML_OK && !(cache->plain && cache->traffic && cache->absent_pages)) status = ML_E_MEMORY;
    if (status != ML_OK) return status;
    ml_format_lay_out(cache->plain, cache->dtype, cache->shape.kv_heads, cache->shape.head_dim, 0, NULL, NULL);
    return ml_pool_size(cache->pool, cache->plain->bytes);
}

int ml_cache_make(const ml_shape *shape, int dtype, ml_cache **out) {
    if (dtype != ML_BF16 && dtype != ML_F32) {
        return ml_error(ML_E_ARGUMENT, "a cache stores bf16 or f32, not dtype %d", dtype);
    }
    ml_cache *cache = ml_calloc(1, sizeof *cache);
    if (!cache) return ML_E_MEMORY;
    cache->reclaim = reclaim;
    cache->quiesce = ml_promote_halt;
    cache->dtype = dtype;
    cache->vector_bytes = (int64_t)shape->head_dim * ml_dtype_bytes(dtype);
    cache->rotated = 1;
    ml_pages_changed(cache);
    int status = copy_shape(cache, shape);
    if (status == ML_OK) status = fill_cache(cache);
    if (status != ML_OK) {
        ml_cache_free(cache);
        return status;
    }
    cache->shape.release = shape->release;
    *out = cache;
    return ML_OK;
}

const void *ml_cache_model(const ml_cache *cache) {
    return cache->shape.model;
}

void ml_cache_free(ml_cache *cache) {
    if (!cache) return;
    ml_prefixes_free(cache);
    for (size_t i = 0; i < cache->count; i++) ml_sequence_release(cache, &cache->sequences[i]);
    while (cache->slabs) {
        ml_slab *slab = cache->slabs;
        cache->slabs = slab->next;
        free(slab);
    }
    ml_promote_free(cache);
    ml_page_close_porters(cache);
    ml_spill_release(cache->spill);
    ml_pool_free(cache->pool);
    ml_policy_free(cache);
    free(cache->plain);
    free(cache->traffic);
    free(cache->absent_pages);
    free(cache->sequences);
    free_shape(&cache->shape);
    free(cache);
}

int ml_cache_dtype(const ml_cache *cache) {
    return cache->dtype;
}

int64_t ml_cache_bytes(const ml_cache *cache) {
    return cache->bytes_used;
}

void ml_cache_memory(const ml_cache *cache, ml_pool_info *out) {
    ml_pool_stats(cache->pool, out);
    if (out->used_peak < cache->used_peak) out->used_peak = cache->used_peak;
    if (out->reserved_peak < cache->reserved_peak) out->reserved_peak = cache->reserved_peak;
}

/* ---- sequences ---- */

int ml_sequence_create(ml_cache *cache, int32_t *sequence) {
    size_t number = 0;
    while (number < cache->count && cache->sequences[number].used) number++;
    if (number == cache->count) {
        void *block = cache->sequences;
        int status = ml_grow(&block, &cache->capacity, number + 1, sizeof *cache->sequences);
        cache->sequences = block;
        if (status != ML_OK) return status;
        cache->count++;
    }
    cache->sequences[number] = (ml_sequence){.used = 1};
    *sequence = (int32_t)number;
    return ML_OK;
}

/* The sequence of that number if `position` lies in it, else NULL; `verb` is for the sentence. */
static ml_sequence *sequence_at(const ml_cache *cache, int32_t number, int64_t position, const char *verb) {
    ml_sequence *sequence = ml_sequence_find(cache, number);
    if (sequence && (position < 0 || position > sequence->length)) {
        ml_error(ML_E_ARGUMENT, "cannot %s sequence %d at position %lld: it has %lld tokens", verb, number,
                 (long long)position, (long long)sequence->length);
        return NULL;
    }
    return sequence;
}

int ml_sequence_fork(ml_cache *cache, int32_t sequence, int64_t position, int32_t *out) {
    if (!sequence_at(cache, sequence, position, "fork")) return ML_E_ARGUMENT;
    int32_t number;
    int status = ml_sequence_create(cache, &number);
    if (status != ML_OK) return status;
    const ml_sequence *from = &cache->sequences[sequence];
    ml_sequence *to = &cache->sequences[number];
    status = ml_sequence_share(cache, to, from->pages, from->ids, position);
    if (status != ML_OK) {
        ml_sequence_release(cache, to);
        return status;
    }
    to->sound = position < from->sound ? position : from->sound;
    to->isa = from->isa;
    ml_sequence_use(cache, to); /* a branch just made must not be given up as one that never was used */
    *out = number;
    return ML_OK;
}

/* Drops the tokens from `position` on; with `keep`, full pages of them stay known as prefixes. */
static int rewind_to(ml_cache *cache, int32_t sequence, int64_t position, int keep) {
    ml_sequence *s = sequence_at(cache, sequence, position, "rewind");
    if (!s) return ML_E_ARGUMENT;
    const int64_t pages = (position + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS; /* that stay, as a whole or in part */
    if (keep && pages < s->length / ML_PAGE_TOKENS) ml_prefix_keep(cache, s, 0);
    ml_sequence_cut(cache, s, position);
    ml_prefix_settle(cache);
    ml_pages_changed(cache);
    return ML_OK;
}

int ml_sequence_rewind(ml_cache *cache, int32_t sequence, int64_t position) {
    return rewind_to(cache, sequence, position, 1);
}

int ml_sequence_forget(ml_cache *cache, int32_t sequence, int64_t position) {
    return rewind_to(cache, sequence, position, 0);
}

int ml_sequence_free(ml_cache *cache, int32_t sequence) {
    if (sequence < 0 || (size_t)sequence >= cache->count) {
        return ml_error(ML_E_ARGUMENT, "the cache has no sequence %d", sequence);
    }
    ml_sequence *s = &cache->sequences[sequence];
    ml_prefix_keep(cache, s, 1);
    ml_sequence_release(cache, s);
    ml_prefix_settle(cache);
    ml_pages_changed(cache);
    return ML_OK;
}

/* ---- the places ---- */

/* Whether places contradict themselves. */
static int check_places(const ml_places *places) {
    if (places->memory < 0 || places->disk < 0) {
        return ml_error(ML_E_ARGUMENT, "budgets are 0 bytes or more, not %lld and %lld", (long long)places->memory,
                        (long long)places->disk);
    }
    if (places->window != ML_LEVEL_HOT && places->window != ML_LEVEL_COLD && places->window != ML_LEVEL_DISK) {
        return ml_error(ML_E_ARGUMENT, "pages that left the window do not go to level %d", places->window);
    }
    if (places->window == ML_LEVEL_DISK && !places->spill) {
        return ml_error(ML_E_ARGUMENT, "pages go to disk only where there is a folder for the spill file");
    }
    return ML_OK;
}

/* Staging areas for the budget. What the cache has may lie scattered over more memory than that: moved together it
 * leaves room. */
static int open_staging(ml_cache *cache) {
    int status = cache->places.memory ? ml_promote_fits(cache, ML_PIECE_PAGES) : ML_OK;
    if (status != ML_OK) return status;
    status = ml_promote_open(cache, ML_PIECE_PAGES);
    return status == ML_E_MEMORY && ml_compact(cache) == ML_OK ? ml_promote_open(cache, ML_PIECE_PAGES) : status;
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
    return status == ML_OK && resized ? open_staging(cache) : status;
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
    for (size_t i = 0; i < cache->count; i++) cache->sequences[i].windowed = 0;
    return ML_OK;
}

/* ---- settling ---- */

/* Gives back to the system what is above a budget that became smaller. */
static int shrink(ml_cache *cache) {
    ml_pool_info info;
    cache->shrinks = 0;
    ml_pool_trim(cache->pool);
    ml_pool_stats(cache->pool, &info);
    if (info.budget == 0 || info.reserved <= info.budget) return ML_OK;
    int status;
    while ((status = ml_compact(cache)) == ML_E_MEMORY && cache->reclaim(cache, ML_RECLAIM_SEQUENCES)) {
    }
    return status;
}

int ml_cache_settle(ml_cache *cache) {
    const int interrupted = ml_quantise(cache);
    ml_demote(cache);
    if (cache->shrinks) {
        int status = shrink(cache);
        if (status != ML_OK) return status;
    }
    if (cache->spill_failed) {
        cache->spill_failed = 0;
        return ml_error(ML_E_IO, "%s; pages stay in memory until the places are set again", cache->spill_problem);
    }
    return interrupted ? ml_error(ML_E_INTERRUPTED, "interrupted") : ML_OK;
}
