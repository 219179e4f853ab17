/* One page at a time: packing, unpacking, and the books about it. */
#include "kv/place.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/spill.h"
#include "kv/stream.h"

#include <stdlib.h>
#include <string.h>

/* ---- porters ---- */

int ml_porter_open(size_t bytes, ml_porter *porter) {
    *porter = (ml_porter){.buffer = ml_alloc_aligned(ml_packed_bound(bytes), 1)};
    int status = porter->buffer ? ml_packer_create(bytes, &porter->packer) : ML_E_MEMORY;
    if (status != ML_OK) ml_porter_close(porter);
    return status;
}

void ml_porter_close(ml_porter *porter) {
    ml_packer_free(porter->packer);
    free(porter->buffer);
    *porter = (ml_porter){0};
}

size_t ml_place_largest(const ml_cache *cache) {
    /* One quantised side saves so much at least, with its steps and zeros; but the units come to it. */
    const int64_t saved = (cache->vector_bytes - cache->head_dim) * ML_PAGE_TOKENS - 4 * ML_PAGE_TOKENS,
                  units = (cache->kv_heads * 2 * (int64_t)sizeof(float) + 63) / 64 * 64;
    return (size_t)(cache->plain->bytes + (units > saved ? units - saved : 0));
}

static void close_porters(ml_cache *cache) {
    for (int i = 0; i < cache->porter_count; i++) ml_porter_close(&cache->porters[i]);
    free(cache->porters);
    cache->porters = NULL;
    cache->porter_count = 0;
}

int ml_place_porters(ml_cache *cache) {
    const size_t largest = ml_place_largest(cache);
    const int threads = ml_threads_count();
    if (cache->porter_count >= threads && cache->porter_bytes >= largest) return ML_OK;
    close_porters(cache);
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

void ml_place_close(ml_cache *cache) {
    ml_stream_free(cache);
    close_porters(cache);
    ml_spill_release(cache->spill);
    cache->spill = NULL;
}

/* ---- a page ---- */

int64_t ml_page_held(const ml_page *page) {
    return (page->data && !page->staged ? page->format->bytes : 0) + (page->packed ? page->packed_bytes : 0);
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
    ml_cache_traffic(cache, page->layer, ml_page_level(page))->raised++;
    ml_pool_give(cache->pool, page->packed, page->packed_bytes);
    page->packed = NULL;
    page->data = data;
    cache->absent_pages[page->layer]--;
    cache->raised = 1;
    ml_page_count(cache, page, ml_page_held(page) - before);
}

int ml_page_raise(ml_cache *cache, ml_page *page, int how_far) {
    if (page->data) return ML_OK;
    cache->quiesce(cache);
    int status = ml_place_porters(cache);
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

void ml_page_forget_copy(ml_page *page) {
    if (!page->spill) return;
    ml_spill_forget(page->spill, page->record, page->packed_bytes);
    page->spill = NULL;
}

void ml_page_empty(ml_cache *cache, ml_page *page) {
    cache->quiesce(cache);
    ml_pool_give(cache->pool, page->data, page->format->bytes);
    ml_pool_give(cache->pool, page->packed, page->packed_bytes);
    if (!page->data) cache->absent_pages[page->layer]--;
    ml_page_forget_copy(page);
    page->data = page->packed = NULL;
}
