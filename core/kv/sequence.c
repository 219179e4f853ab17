#include "kv/sequence.h"

#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

static size_t pages_for(int64_t tokens) {
    return (size_t)((tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS);
}

/* Drops the pages that none of the first `tokens` tokens needs. */
static void trim(ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    const size_t keep = pages_for(tokens), layers = (size_t)cache->shape.layers;
    for (size_t i = keep * layers; i < sequence->page_count * layers; i++) ml_page_release(cache, sequence->pages[i]);
    if (keep < sequence->page_count) sequence->page_count = keep;
}

/* ---- sequences ---- */

ml_sequence *ml_sequence_find(const ml_cache *cache, int32_t number) {
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

void ml_sequence_use(ml_cache *cache, ml_sequence *sequence) {
    sequence->used_at = ++cache->tick;
}

/* Room for the ids and pages of `tokens` tokens, and the ids of the whole last page: only a new page may ask for
 * memory. */
static int make_capacity(const ml_cache *cache, ml_sequence *sequence, int64_t tokens) {
    void *ids = sequence->ids, *pages = sequence->pages;
    int status = ml_grow(&ids, &sequence->ids_capacity, pages_for(tokens) * ML_PAGE_TOKENS, sizeof *sequence->ids);
    sequence->ids = ids;
    if (status != ML_OK) return status;
    status = ml_grow(&pages, &sequence->capacity, pages_for(tokens) * (size_t)cache->shape.layers, sizeof(ml_page *));
    sequence->pages = pages;
    return status;
}

int ml_sequence_share(ml_cache *cache, ml_sequence *sequence, ml_page *const *pages, const int32_t *ids,
                      int64_t tokens) {
    int status = make_capacity(cache, sequence, sequence->length + tokens);
    if (status != ML_OK) return status;
    const size_t pointers = pages_for(tokens) * (size_t)cache->shape.layers;
    ml_page **slots = sequence->pages + sequence->page_count * (size_t)cache->shape.layers;
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

void ml_sequence_cut(ml_cache *cache, ml_sequence *sequence, int64_t position) {
    sequence->length = position;
    if (sequence->sound > position) sequence->sound = position;
    if (sequence->settled > position / ML_PAGE_TOKENS) sequence->settled = position / ML_PAGE_TOKENS;
    const int64_t seen = position > cache->window ? (position - cache->window) / ML_PAGE_TOKENS : 0;
    if (sequence->windowed > seen) sequence->windowed = seen; /* what is in the window again will leave it again */
    trim(cache, sequence, position);
}

void ml_sequence_release(ml_cache *cache, ml_sequence *sequence) {
    trim(cache, sequence, 0);
    free(sequence->pages);
    free(sequence->ids);
    *sequence = (ml_sequence){0};
}

int64_t ml_sequence_sound(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    const int64_t pages = (s->length + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * cache->shape.layers;
    for (int64_t i = 0; i < pages; i++) {
        if (!s->pages[i]->format->plain || s->pages[i]->origin) return 0;
    }
    return s->sound;
}

const int32_t *ml_sequence_ids(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    return s ? s->ids : NULL;
}

int64_t ml_sequence_length(const ml_cache *cache, int32_t sequence) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    return s ? s->length : ML_E_ARGUMENT;
}

/* ---- room ---- */

/* Makes the page in `slot` one that only this sequence shows, and plain: it is about to be written from token `keep`
 * on. What was quantised is decoded, and remembers the codes: when the page is quantised again, they come back. */
static int open_page(ml_cache *cache, ml_sequence *sequence, size_t slot, int32_t keep) {
    ml_page *page = sequence->pages[slot];
    if (page->references > 1 || !page->format->plain) {
        ml_page *own = ml_page_take(cache, cache->plain, page->layer);
        if (!own) return ML_E_MEMORY;
        int status = ml_page_promote(cache, page, ML_RECLAIM_SEQUENCES);
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
    int status = ml_page_promote(cache, page, ML_RECLAIM_SEQUENCES);
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
    const size_t layers = (size_t)cache->shape.layers;
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
                  rows = (int64_t)cache->shape.kv_heads * cache->shape.head_dim;
    for (int64_t row = 0; row < rows; row++) {
        memset(page->data + (row * ML_PAGE_TOKENS + first) * size, 0, (size_t)((last - first) * size));
    }
    for (int64_t head = cache->shape.kv_heads; head < 2 * (int64_t)cache->shape.kv_heads; head++) {
        memset(page->data + head * side + first * cache->vector_bytes, 0,
               (size_t)((last - first) * cache->vector_bytes));
    }
}

/* Tokens [first, last) will be written, or stay zero where a pass leaves out the layer. Most are zero already. */
static void blank_tokens(const ml_cache *cache, ml_page *page, int64_t first, int64_t last) {
    if (page->written > first) clear_tokens(cache, page, first, page->written < last ? page->written : last);
    if (page->written < last) page->written = (int32_t)last;
}

void ml_sequence_unreserve(ml_cache *cache, ml_sequence *sequence) {
    ml_pages_changed(cache);
    trim(cache, sequence, sequence->length);
}

int ml_sequence_grow(ml_cache *cache, ml_sequence *sequence, int64_t count) {
    const size_t layers = (size_t)cache->shape.layers;
    const int64_t begin = sequence->length, end = begin + count;
    int status = make_capacity(cache, sequence, end);
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
    return status;
}

/* ---- writing, and what attention sees ---- */

ml_page *const *ml_sequence_slot(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position) {
    return &sequence->pages[(size_t)(position / ML_PAGE_TOKENS) * (size_t)cache->shape.layers + (size_t)layer];
}

const ml_page *ml_sequence_page(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position) {
    return *ml_sequence_slot(cache, sequence, layer, position);
}

void ml_sequence_write(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position,
                       const float *keys, const float *values) {
    const int64_t dim = cache->shape.head_dim, count = cache->shape.kv_heads * dim, token = position % ML_PAGE_TOKENS;
    uint8_t *page = ml_sequence_page(cache, sequence, layer, position)->data;
    uint8_t *value = page + cache->shape.kv_heads * side_bytes(cache) + token * cache->vector_bytes;
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

int ml_sequence_quantised(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t from, int64_t to) {
    for (int64_t t = from - from % ML_PAGE_TOKENS; cache->warm_pages > 0 && t < to; t += ML_PAGE_TOKENS) {
        if (!ml_sequence_page(cache, sequence, layer, t)->format->plain) return 1;
    }
    return 0;
}

int ml_sequence_absent(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t from, int64_t to) {
    for (int64_t t = from - from % ML_PAGE_TOKENS; cache->absent_pages[layer] > 0 && t < to; t += ML_PAGE_TOKENS) {
        if (!ml_sequence_page(cache, sequence, layer, t)->data) return 1;
    }
    return 0;
}

int64_t ml_sequence_first_seen(const ml_cache *cache, const ml_sequence *sequence, int32_t layer) {
    const int64_t window = cache->shape.windows[layer];
    return window > 0 && sequence->length >= window ? (sequence->length + 1 - window) / ML_PAGE_TOKENS : 0;
}
