#include "kv/cache.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kv/place.h"
#include "kv/prefix.h"
#include "kv/stream.h"
#include "model/model.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void ml_cache_changed(ml_cache *cache) {
    static atomic_ullong last;
    cache->quiesce(cache);
    cache->epoch = atomic_fetch_add(&last, 1) + 1;
}

int ml_cache_create(ml_model *model, int dtype, ml_cache **out) {
    if (dtype != ML_BF16 && dtype != ML_F32) {
        return ml_error(ML_E_ARGUMENT, "a cache stores bf16 or f32, not dtype %d", dtype);
    }
    ml_cache *cache = ml_calloc(1, sizeof *cache);
    if (!cache) return ML_E_MEMORY;
    cache->reclaim = ml_place_room;
    cache->quiesce = ml_stream_halt;
    ml_cache_changed(cache);
    cache->model = model;
    cache->dtype = dtype;
    cache->layers = model->config.layers;
    cache->kv_heads = model->config.kv_heads;
    cache->head_dim = model->config.head_dim;
    cache->vector_bytes = (int64_t)cache->head_dim * ml_dtype_bytes(dtype);
    cache->rotated = 1;
    for (int32_t l = 0; l < cache->layers; l++) {
        if (model->layers[l].window > cache->window) cache->window = model->layers[l].window;
    }
    ml_model_retain(model);
    int status = ml_pool_create(0, &cache->pool);
    cache->plain = ml_calloc(1, ml_format_size(cache->kv_heads));
    cache->traffic = ml_calloc((size_t)cache->layers * ML_LEVELS, sizeof *cache->traffic);
    cache->absent_pages = ml_calloc((size_t)cache->layers, sizeof *cache->absent_pages);
    if (status == ML_OK && !(cache->plain && cache->traffic && cache->absent_pages)) status = ML_E_MEMORY;
    if (status == ML_OK) {
        ml_format_lay_out(cache->plain, dtype, cache->kv_heads, cache->head_dim, 0, NULL, NULL);
        status = ml_pool_size(cache->pool, cache->plain->bytes);
    }
    if (status != ML_OK) {
        ml_cache_free(cache);
        return status;
    }
    *out = cache;
    return ML_OK;
}

void ml_cache_free(ml_cache *cache) {
    if (!cache) return;
    ml_prefixes_free(cache);
    for (size_t i = 0; i < cache->count; i++) ml_sequence_free(cache, (int32_t)i);
    while (cache->slabs) {
        ml_slab *slab = cache->slabs;
        cache->slabs = slab->next;
        free(slab);
    }
    ml_place_close(cache);
    ml_pool_free(cache->pool);
    ml_cache_forget_policy(cache);
    free(cache->plain);
    free(cache->traffic);
    free(cache->absent_pages);
    free(cache->sequences);
    ml_model_free(cache->model);
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

/* ---- pages ---- */

/* Adds a slab of descriptors. */
static int add_slab(ml_cache *cache) {
    ml_slab *slab = ml_calloc(1, sizeof *slab);
    if (!slab) return ML_E_MEMORY;
    for (size_t i = ML_SLAB_PAGES; i-- > 0;) {
        slab->pages[i].next = cache->free_pages;
        cache->free_pages = &slab->pages[i];
    }
    slab->next = cache->slabs;
    cache->slabs = slab;
    return ML_OK;
}

uint8_t *ml_page_room(ml_cache *cache, int64_t bytes, int how_far) {
    void *data;
    while (ml_pool_take(cache->pool, bytes, &data) != ML_OK) {
        if (cache->reclaim(cache, how_far)) continue;
        return ml_pool_take(cache->pool, bytes, &data) == ML_OK ? data : NULL; /* tells again what is wrong */
    }
    return data;
}

ml_page *ml_page_take(ml_cache *cache, const ml_format *format, int32_t layer) {
    if (!cache->free_pages && add_slab(cache) != ML_OK) return NULL;
    uint8_t *data = ml_page_room(cache, format->bytes, ML_RECLAIM_SEQUENCES);
    if (!data) return NULL;
    ml_page *page = cache->free_pages;
    cache->free_pages = page->next;
    *page = (ml_page){.references = 1, .format = format, .data = data, .layer = layer, .written = ML_PAGE_TOKENS};
    cache->pages_used++;
    cache->bytes_used += format->bytes;
    if (!format->plain) cache->warm_pages++;
    return page;
}

void ml_page_count_kept(ml_cache *cache, const ml_page *page, int sign) {
    cache->bytes_kept += sign * ml_page_held(page);
    cache->disk_kept += page->spill ? sign * (int64_t)page->packed_bytes : 0;
}

void ml_page_hold(ml_cache *cache, ml_page *page) {
    if (page->references++ == page->kept) ml_page_count_kept(cache, page, -1);
}

void ml_page_release(ml_cache *cache, ml_page *page) {
    if (--page->references > 0) {
        if (page->references == page->kept) ml_page_count_kept(cache, page, 1);
        return;
    }
    if (page->origin) ml_page_release(cache, page->origin);
    cache->bytes_used -= ml_page_held(page);
    ml_page_empty(cache, page);
    page->next = cache->free_pages;
    cache->free_pages = page;
    cache->pages_used--;
    if (!page->format->plain) cache->warm_pages--;
}

void ml_page_replace(ml_cache *cache, ml_page *page, const ml_format *format, uint8_t *data) {
    cache->quiesce(cache);
    ml_page_forget_copy(page);
    ml_page_count(cache, page, format->bytes - page->format->bytes);
    cache->warm_pages += page->format->plain - format->plain;
    ml_pool_give(cache->pool, page->data, page->format->bytes);
    page->format = format;
    page->data = data;
}

void ml_page_count(ml_cache *cache, const ml_page *page, int64_t change) {
    cache->bytes_used += change;
    if (page->references == page->kept) cache->bytes_kept += change;
}

static size_t pages_for(int64_t tokens) {
    return (size_t)((tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS);
}

/* Drops the pages that none of the first `tokens` tokens needs. */
static void trim(ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    const size_t keep = pages_for(tokens), layers = (size_t)cache->layers;
    for (size_t i = keep * layers; i < sequence->page_count * layers; i++) ml_page_release(cache, sequence->pages[i]);
    if (keep < sequence->page_count) sequence->page_count = keep;
}

/* ---- sequences ---- */

ml_sequence *ml_cache_sequence(const ml_cache *cache, int32_t number) {
    if (number < 0 || (size_t)number >= cache->count || !cache->sequences[number].used) {
        ml_error(ML_E_ARGUMENT, "the cache has no sequence %d", number);
        return NULL;
    }
    if (cache->sequences[number].evicted > 0) {
        ml_error(ML_E_MEMORY,
                 "sequence %d was given up to make room: its %lld tokens were used least recently, and the cache was "
                 "full; close it",
                 number, (long long)cache->sequences[number].evicted);
        return NULL;
    }
    return &cache->sequences[number];
}

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
    ml_sequence *sequence = ml_cache_sequence(cache, number);
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
        ml_sequence_free(cache, number);
        return status;
    }
    to->sound = position < from->sound ? position : from->sound;
    to->isa = from->isa;
    to->used_at = ++cache->tick; /* a branch just made must not be given up as one that never was used */
    *out = number;
    return ML_OK;
}

/* Room for the ids and pages of `tokens` tokens, and the ids of the whole last page: only a new page may ask for
 * memory.
 */
static int grow_sequence(const ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    void *ids = sequence->ids, *pages = sequence->pages;
    int status = ml_grow(&ids, &sequence->ids_capacity, pages_for(tokens) * ML_PAGE_TOKENS, sizeof *sequence->ids);
    sequence->ids = ids;
    if (status != ML_OK) return status;
    status = ml_grow(&pages, &sequence->capacity, pages_for(tokens) * (size_t)cache->layers, sizeof(ml_page *));
    sequence->pages = pages;
    return status;
}

int ml_sequence_share(ml_cache *cache, ml_sequence *sequence, ml_page *const *pages, const int32_t *ids,
                      int64_t tokens) {
    int status = grow_sequence(cache, sequence, sequence->length + tokens);
    if (status != ML_OK) return status;
    const size_t pointers = pages_for(tokens) * (size_t)cache->layers;
    ml_page **slots = sequence->pages + sequence->page_count * (size_t)cache->layers;
    for (size_t i = 0; i < pointers; i++) {
        slots[i] = pages[i];
        ml_page_hold(cache, pages[i]);
    }
    if (tokens) memcpy(sequence->ids + sequence->length, ids, (size_t)tokens * sizeof *ids);
    sequence->page_count += pages_for(tokens);
    sequence->length += tokens;
    return ML_OK;
}

void ml_sequence_append(ml_sequence *sequence, int32_t id, int whole) {
    const char *isa = ml_kernels_numbers();
    if (sequence->sound == 0) sequence->isa = isa;
    if (whole && sequence->sound == sequence->length && sequence->isa == isa) sequence->sound++;
    sequence->ids[sequence->length++] = id;
}

int64_t ml_sequence_sound(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    const int64_t pages = (s->length + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * cache->layers;
    for (int64_t i = 0; i < pages; i++) {
        if (!s->pages[i]->format->plain || s->pages[i]->origin) return 0;
    }
    return s->sound;
}

const int32_t *ml_sequence_ids(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    return s ? s->ids : NULL;
}

/* Drops the tokens from `position` on; with `keep`, full pages of them stay known as prefixes. */
static int rewind_to(ml_cache *cache, int32_t sequence, int64_t position, int keep) {
    ml_sequence *s = sequence_at(cache, sequence, position, "rewind");
    if (!s) return ML_E_ARGUMENT;
    if (keep && pages_for(position) < (size_t)(s->length / ML_PAGE_TOKENS)) ml_prefix_keep(cache, s, 0);
    s->length = position;
    if (s->sound > position) s->sound = position;
    if (s->settled > position / ML_PAGE_TOKENS) s->settled = position / ML_PAGE_TOKENS;
    if (s->lowered > position / ML_PAGE_TOKENS) s->lowered = position / ML_PAGE_TOKENS;
    const int64_t seen = position > cache->window ? (position - cache->window) / ML_PAGE_TOKENS : 0;
    if (s->windowed > seen) s->windowed = seen; /* what is in the window again will leave it again */
    trim(cache, s, position);
    ml_prefix_settle(cache);
    ml_cache_changed(cache);
    return ML_OK;
}

int ml_sequence_rewind(ml_cache *cache, int32_t sequence, int64_t position) {
    return rewind_to(cache, sequence, position, 1);
}

int ml_sequence_forget(ml_cache *cache, int32_t sequence, int64_t position) {
    return rewind_to(cache, sequence, position, 0);
}

void ml_sequence_release(ml_cache *cache, ml_sequence *sequence) {
    trim(cache, sequence, 0);
    free(sequence->pages);
    free(sequence->ids);
    *sequence = (ml_sequence){0};
}

int ml_sequence_free(ml_cache *cache, int32_t sequence) {
    if (sequence < 0 || (size_t)sequence >= cache->count) {
        return ml_error(ML_E_ARGUMENT, "the cache has no sequence %d", sequence);
    }
    ml_sequence *s = &cache->sequences[sequence];
    ml_prefix_keep(cache, s, 1);
    ml_sequence_release(cache, s);
    ml_prefix_settle(cache);
    ml_cache_changed(cache);
    return ML_OK;
}

int64_t ml_sequence_length(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    return s ? s->length : ML_E_ARGUMENT;
}

/* ---- room, writing, reading ---- */

/* Makes the page in `slot` one that only this sequence shows, and plain: it is about to be written from token `keep`
 * on. What was quantised is decoded, and remembers the codes: when the page is quantised again, they come back. */
static int open_page(ml_cache *cache, ml_sequence *sequence, size_t slot, int32_t keep) {
    ml_page *page = sequence->pages[slot];
    if (page->references > 1 || !page->format->plain) {
        ml_page *own = ml_page_take(cache, cache->plain, page->layer);
        if (!own) return ML_E_MEMORY;
        int status = ml_page_raise(cache, page, ML_RECLAIM_SEQUENCES);
        if (status != ML_OK) {
            ml_page_release(cache, own);
            return status;
        }
        ml_page_convert(page->format, page->data, cache->plain, own->data, NULL, 0);
        own->origin = page->format->plain ? page->origin : page;
        own->frozen = page->format->plain ? page->frozen : keep;
        if (own->origin) ml_page_hold(cache, own->origin);
        ml_page_release(cache, page);
        sequence->pages[slot] = page = own;
    }
    int status = ml_page_raise(cache, page, ML_RECLAIM_SEQUENCES);
    if (status != ML_OK) return status;
    ml_page_forget_copy(page);
    if (page->frozen > keep) page->frozen = keep;
    if (page->origin && page->frozen == 0) {
        ml_page_release(cache, page->origin);
        page->origin = NULL;
    }
    return ML_OK;
}

/* Appends a page of zeros to every layer, or to none. */
static int append_pages(ml_cache *cache, ml_sequence *sequence) {
    const size_t layers = (size_t)cache->layers;
    ml_page **pages = sequence->pages + sequence->page_count * layers;
    for (size_t l = 0; l < layers; l++) {
        pages[l] = ml_page_take(cache, cache->plain, (int32_t)l);
        if (!pages[l]) {
            while (l-- > 0) ml_page_release(cache, pages[l]);
            return ML_E_MEMORY;
        }
        memset(pages[l]->data, 0, (size_t)cache->plain->bytes);
        pages[l]->written = 0;
    }
    sequence->page_count++;
    return ML_OK;
}

/* Bytes of one element, and of all keys or all values of one head in a page. */
static int64_t element_bytes(const ml_cache *cache) {
    return ml_dtype_bytes(cache->dtype);
}

static int64_t side_bytes(const ml_cache *cache) {
    return cache->vector_bytes * ML_PAGE_TOKENS;
}

/* Zeroes tokens [first, last) of a page, in every head. */
static void clear_tokens(const ml_cache *cache, ml_page *page, int64_t first, int64_t last) {
    const int64_t size = element_bytes(cache), side = side_bytes(cache),
                  rows = (int64_t)cache->kv_heads * cache->head_dim;
    for (int64_t row = 0; row < rows; row++) {
        memset(page->data + (row * ML_PAGE_TOKENS + first) * size, 0, (size_t)((last - first) * size));
    }
    for (int64_t head = cache->kv_heads; head < 2 * (int64_t)cache->kv_heads; head++) {
        memset(page->data + head * side + first * cache->vector_bytes, 0,
               (size_t)((last - first) * cache->vector_bytes));
    }
}

/* Tokens [first, last) will be written, or stay zero where a pass leaves out the layer. Most are zero already. */
static void blank_tokens(const ml_cache *cache, ml_page *page, int64_t first, int64_t last) {
    if (page->written > first) clear_tokens(cache, page, first, page->written < last ? page->written : last);
    if (page->written < last) page->written = (int32_t)last;
}

void ml_cache_unreserve(ml_cache *cache, ml_sequence *sequence) {
    ml_cache_changed(cache);
    trim(cache, sequence, sequence->length);
}

int ml_cache_reserve(ml_cache *cache, ml_sequence *sequence, int64_t count) {
    const size_t layers = (size_t)cache->layers;
    const int64_t begin = sequence->length, end = begin + count;
    ml_cache_unreserve(cache, sequence); /* of a pass that was given up */
    sequence->used_at = cache->tick;
    const size_t fresh_pages = pages_for(end) - pages_for(begin) + 1; /* the last one may have to be copied */
    ml_place_prepare(cache, (int64_t)(fresh_pages * layers) * cache->plain->bytes);
    int status = grow_sequence(cache, sequence, end);
    for (int64_t token = begin; status == ML_OK && token < end;) {
        const size_t page = (size_t)(token / ML_PAGE_TOKENS);
        const int64_t page_begin = (int64_t)page * ML_PAGE_TOKENS;
        const int64_t last = end - page_begin < ML_PAGE_TOKENS ? end - page_begin : ML_PAGE_TOKENS;
        const int fresh = page == sequence->page_count;
        if (fresh) status = append_pages(cache, sequence);
        for (size_t l = 0; status == ML_OK && l < layers; l++) {
            const size_t slot = page * layers + l;
            if (!fresh) status = open_page(cache, sequence, slot, (int32_t)(token - page_begin));
            if (status == ML_OK) blank_tokens(cache, sequence->pages[slot], token - page_begin, last);
        }
        token = page_begin + last;
    }
    if (status != ML_OK) ml_cache_unreserve(cache, sequence);
    return status;
}

ml_page *const *ml_cache_place(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position) {
    return &sequence->pages[(size_t)(position / ML_PAGE_TOKENS) * (size_t)cache->layers + (size_t)layer];
}

const ml_page *ml_cache_page(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position) {
    return *ml_cache_place(cache, sequence, layer, position);
}

void ml_cache_write(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position,
                    const float *keys, const float *values) {
    const int64_t dim = cache->head_dim, count = cache->kv_heads * dim, token = position % ML_PAGE_TOKENS;
    uint8_t *page = ml_cache_page(cache, sequence, layer, position)->data;
    uint8_t *value = page + cache->kv_heads * side_bytes(cache) + token * cache->vector_bytes;
    if (cache->dtype == ML_F32) {
        float *column = (float *)(void *)page + token;
        for (int64_t i = 0; i < count; i++) column[i * ML_PAGE_TOKENS] = keys[i];
    } else {
        uint16_t *column = (uint16_t *)(void *)page + token;
        for (int64_t i = 0; i < count; i++) column[i * ML_PAGE_TOKENS] = ml_f32_to_bf16(keys[i]);
    }
    for (int64_t i = 0; i < count; i += dim, value += side_bytes(cache)) {
        if (cache->dtype == ML_F32) {
            memcpy(value, values + i, (size_t)cache->vector_bytes);
        } else {
            ml_kernels_get()->to_bf16(values + i, (uint16_t *)(void *)value, dim);
        }
    }
}

void ml_cache_read(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position, int32_t head,
                   ml_attend *work) {
    const ml_page *page = ml_cache_page(cache, sequence, layer, position);
    ml_page_show(page->format, page->data, head, work);
}
