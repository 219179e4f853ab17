#include "kv/compact.h"

#include "base/error.h"
#include "base/memory.h"
#include "kv/page.h"
#include "kv/promote.h"

#include <stdlib.h>
#include <string.h>

typedef struct piece {
    uint8_t **at; /* who has it */
    void *to;
    int64_t bytes;
} piece;

static void add_piece(piece *list, size_t *count, uint8_t **at, int64_t bytes) {
    if (list) list[*count] = (piece){at, NULL, bytes};
    ++*count;
}

/* Lists all that the cache has of its pool (list = NULL: only counts), the largest pieces first. */
static size_t list_pieces(ml_cache *cache, piece *list) {
    size_t count = 0;
    for (int i = 0; i < 2; i++) {
        int64_t bytes;
        uint8_t **area = ml_promote_area(cache, i, &bytes);
        if (area) add_piece(list, &count, area, bytes);
    }
    for (ml_slab *slab = cache->slabs; slab; slab = slab->next) {
        for (int i = 0; i < ML_SLAB_PAGES; i++) {
            ml_page *page = &slab->pages[i];
            if (page->references == 0) continue;
            if (page->data && !page->staged) add_piece(list, &count, &page->data, page->format->bytes);
            if (page->packed) add_piece(list, &count, &page->packed, page->packed_bytes);
        }
    }
    return count;
}

static int make_pool(const ml_cache *cache, ml_pool **pool) {
    int status = ml_pool_create(cache->places.memory, pool);
    if (status == ML_OK) status = ml_pool_size(*pool, cache->plain->bytes);
    for (size_t i = 0; status == ML_OK && i < cache->format_count; i++) {
        status = ml_pool_size(*pool, cache->formats[i]->bytes);
    }
    return status;
}

static int by_address(const void *a, const void *b) {
    const uint8_t *x = *((const piece *)a)->at, *y = *((const piece *)b)->at;
    return (x > y) - (x < y);
}

/* Copies the pieces in the order of their old places, so that the old pool gives its arenas back on the way. */
static void move_pieces(ml_cache *cache, piece *list, size_t count) {
    int64_t copied = 0;
    ml_pool_info old = {0};
    qsort(list, count, sizeof *list, by_address);
    for (size_t i = 0; i < count; i++) {
        memcpy(list[i].to, *list[i].at, (size_t)list[i].bytes);
        ml_pool_stats(cache->pool, &old);
        copied += list[i].bytes;
        if (cache->reserved_peak < old.reserved + copied) cache->reserved_peak = old.reserved + copied;
        ml_pool_give(cache->pool, *list[i].at, list[i].bytes);
        *list[i].at = list[i].to;
    }
    if (cache->reserved_peak < old.reserved_peak) cache->reserved_peak = old.reserved_peak;
    if (cache->used_peak < old.used_peak) cache->used_peak = old.used_peak;
}

int ml_compact(ml_cache *cache) {
    ml_pool *pool = NULL;
    cache->quiesce(cache);
    const size_t count = list_pieces(cache, NULL);
    piece *list = ml_calloc(count + 1, sizeof *list);
    int status = list ? make_pool(cache, &pool) : ML_E_MEMORY;
    if (status == ML_OK) list_pieces(cache, list);
    for (size_t i = 0; status == ML_OK && i < count; i++) status = ml_pool_take(pool, list[i].bytes, &list[i].to);
    if (status == ML_OK) {
        move_pieces(cache, list, count);
        ml_pool *old = cache->pool;
        cache->pool = pool;
        pool = old;
        ml_pages_changed(cache);
    }
    ml_pool_free(pool);
    free(list);
    return status;
}
