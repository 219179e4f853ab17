#include "kv/page.h"

#include "base/memory.h"
#include "base/threads.h"
#include "kv/bytes/spill.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void ml_pages_changed(ml_cache *cache) {
    static atomic_ullong last;
    cache->quiesce(cache);
    cache->epoch = atomic_fetch_add(&last, 1) + 1;
}

/* ---- descriptors and holders ---- */

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
    *page = (ml_page){.references = 1,
                      .format = format,
                      .data = data,
                      .layer = layer,
                      .written = ML_PAGE_TOKENS,
                      .used_at = cache->tick};
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

void ml_page_forget_copy(ml_page *page) {
    if (!page->spill) return;
    ml_spill_forget(page->spill, page->record, page->packed_bytes);
    page->spill = NULL;
}

/* Gives back what a page has that nobody shows any more. */
static void empty(ml_cache *cache, ml_page *page) {
    cache->quiesce(cache);
    ml_pool_give(cache->pool, page->data, page->format->bytes);
    ml_pool_give(cache->pool, page->packed, page->packed_bytes);
    if (!page->data) cache->absent_pages[page->layer]--;
    ml_page_forget_copy(page);
    page->data = page->packed = NULL;
}

void ml_page_release(ml_cache *cache, ml_page *page) {
    if (--page->references > 0) {
        if (page->references == page->kept) ml_page_count_kept(cache, page, 1);
        return;
    }
    if (page->origin) ml_page_release(cache, page->origin);
    cache->bytes_used -= ml_page_held(page);
    empty(cache, page);
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

/* ---- where a page lies ---- */

int ml_page_level(const ml_page *page) {
    if (page->data && !page->staged) return page->format->plain ? ML_LEVEL_HOT : ML_LEVEL_WARM;
    return page->packed ? ML_LEVEL_COLD : ML_LEVEL_DISK;
}

ml_traffic *ml_page_traffic(const ml_cache *cache, int32_t layer, int level) {
    return &cache->traffic[(size_t)layer * ML_LEVELS + (size_t)level];
}

int64_t ml_page_held(const ml_page *page) {
    return (page->data && !page->staged ? page->format->bytes : 0) + (page->packed ? page->packed_bytes : 0);
}

size_t ml_page_largest(const ml_cache *cache) {
    /* One quantised side saves so much at least, with its steps and zeros; but the units come to it. */
    const int64_t saved = (cache->vector_bytes - cache->shape.head_dim) * ML_PAGE_TOKENS - 4 * ML_PAGE_TOKENS,
                  units = (cache->shape.kv_heads * 2 * (int64_t)sizeof(float) + 63) / 64 * 64;
    return (size_t)(cache->plain->bytes + (units > saved ? units - saved : 0));
}

/* ---- packing and bringing back ---- */

void ml_page_close_porters(ml_cache *cache) {
    for (int i = 0; i < cache->porter_count; i++) ml_porter_close(&cache->porters[i]);
    free(cache->porters);
    cache->porters = NULL;
    cache->porter_count = 0;
}

int ml_page_porters(ml_cache *cache) {
    const size_t largest = ml_page_largest(cache);
    const int threads = ml_threads_count();
    if (cache->porter_count >= threads && cache->porter_bytes >= largest) return ML_OK;
    ml_page_close_porters(cache);
    cache->porters = ml_calloc((size_t)threads, sizeof *cache->porters);
    if (!cache->porters) return ML_E_MEMORY;
    cache->porter_bytes = largest;
    int status = ML_OK;
    for (int i = 0; status == ML_OK && i < threads; i++) {
        status = ml_porter_open(largest, &cache->porters[i]);
        if (status == ML_OK) cache->porter_count++;
    }
    return status;
}

int ml_page_fetch(const ml_page *page, ml_porter *porter, uint8_t *out) {
    const uint8_t *packed = page->packed;
    if (!packed) {
        int status = ml_spill_read(page->spill, page->record, page->packed_bytes, page->record_hash, porter->buffer);
        if (status != ML_OK) return status;
        packed = porter->buffer;
    }
    return ml_unpack(porter->packer, packed, page->packed_bytes, ml_format_element(page->format), out,
                     (size_t)page->format->bytes);
}

size_t ml_page_pack(const ml_page *page, ml_packer *packer, uint8_t *out) {
    if (page->data)
        return ml_pack(packer, page->data, (size_t)page->format->bytes, ml_format_element(page->format), out);
    if (page->packed) {
        memcpy(out, page->packed, page->packed_bytes);
    } else if (ml_spill_read(page->spill, page->record, page->packed_bytes, page->record_hash, out) != ML_OK) {
        return 0;
    }
    return page->packed_bytes;
}

void ml_page_restore(ml_cache *cache, ml_page *page, uint8_t *data) {
    const int64_t before = ml_page_held(page);
    ml_page_traffic(cache, page->layer, ml_page_level(page))->promoted++;
    ml_pool_give(cache->pool, page->packed, page->packed_bytes);
    page->packed = NULL;
    page->data = data;
    cache->absent_pages[page->layer]--;
    ml_page_count(cache, page, ml_page_held(page) - before);
}

int ml_page_promote(ml_cache *cache, ml_page *page, int how_far) {
    if (page->data) return ML_OK;
    cache->quiesce(cache);
    int status = ml_page_porters(cache);
    if (status != ML_OK) return status;
    uint8_t *data = ml_page_room(cache, page->format->bytes, how_far);
    if (!data) return ML_E_MEMORY;
    status = ml_page_fetch(page, &cache->porters[0], data);
    if (status != ML_OK) {
        ml_pool_give(cache->pool, data, page->format->bytes);
        return status;
    }
    ml_page_restore(cache, page, data);
    return ML_OK;
}
