/* Pages of a cache, one at a time: taking, holding, packing, bringing back, and the books about it. What this needs of
 * those above, room and silence, it asks through the hooks of the cache. */
#ifndef ML_KV_PAGE_H
#define ML_KV_PAGE_H

#include "kv/bytes/porter.h"
#include "kv/state.h"

/* Marks a change: a forward pass under way on the cache is void, and nobody reads pages ahead. */
void ml_pages_changed(ml_cache *cache);
/* A page of `layer` of that format, with one holder and anything in it. NULL without memory. */
ml_page *ml_page_take(ml_cache *cache, const ml_format *format, int32_t layer);
/* One more holder of a page; one less, and the page is free after the last. */
void ml_page_hold(ml_cache *cache, ml_page *page);
void ml_page_release(ml_cache *cache, ml_page *page);
/* Room for the data of a page of `bytes`, from the pool; if there is none, what cache->reclaim() makes by going so far.
 * Pages that are queued stay. NULL without memory. */
uint8_t *ml_page_room(ml_cache *cache, int64_t bytes, int how_far);
/* Gives a page in memory other data, in another format; all who show it see that. Its old data goes back to the pool,
 * what was packed is forgotten. */
void ml_page_replace(ml_cache *cache, ml_page *page, const ml_format *format, uint8_t *data);

/* Counts what a page has as that of prefixes alone (sign 1), or not any more (-1). */
void ml_page_count_kept(ml_cache *cache, const ml_page *page, int sign);
/* Counts `change` bytes more, or less, that the page takes in memory. */
void ml_page_count(ml_cache *cache, const ml_page *page, int64_t change);
/* ML_LEVEL_...: where a page lies. */
int ml_page_level(const ml_page *page);
/* What happened to pages of `layer` at that level. */
ml_traffic *ml_page_traffic(const ml_cache *cache, int32_t layer, int level);
/* Bytes of memory that a page takes, staging aside. */
int64_t ml_page_held(const ml_page *page);
/* Bytes of the largest page that the cache can have. */
size_t ml_page_largest(const ml_cache *cache);

/* Of pages in memory, what attention reads: whether it can, */
static inline int ml_page_readable(const ml_page *page) {
    return page->data != NULL;
}
/* the keys (values = 0) or values (1) of a KV head, to be asked for ahead, */
static inline const uint8_t *ml_page_lines(const ml_page *page, int32_t head, int values) {
    return ml_page_side(page->format, page->data, head, values);
}
/* and what the kernels take of a KV head. */
static inline void ml_page_read(const ml_page *page, int32_t head, ml_attend *work) {
    ml_page_show(page->format, page->data, head, work);
}
/* Finds where a page lies before its lines are asked for. A prefetch of an address whose translation is not known waits
 * for it, as does all behind it; a quantised page is read so fast that it pays to let its translations be looked up all
 * at once (of attention with 4 bits, 4 %). */
static inline void ml_page_touch(const ml_page *page) {
    enum { STEP = 4096 };
    const int64_t end = page->format->plain ? STEP : page->format->bytes;
    for (int64_t at = 0; at < end; at += STEP) __builtin_prefetch(page->data + at);
}

/* Makes cache->porters, one for each thread; and frees them. */
int ml_page_porters(ml_cache *cache);
void ml_page_close_porters(ml_cache *cache);
/* Unpacks a page that is not in memory into `out` {format->bytes}. Changes nothing: any thread. */
int ml_page_fetch(const ml_page *page, ml_porter *porter, uint8_t *out);
/* Packs a page into `out` {ml_packed_bound(bytes)}, from wherever it lies. Any thread. Returns how many bytes that
 * took; 0 on failure (ml_last_error). */
size_t ml_page_pack(const ml_page *page, ml_packer *packer, uint8_t *out);
/* Makes `data`, which ml_page_fetch() filled, the page's own: it is in memory again. */
void ml_page_restore(ml_cache *cache, ml_page *page, uint8_t *data);
/* Brings a page back into memory, if it is not there; ML_RECLAIM_...: how far to go for it. On failure it stays where
 * it was. */
int ml_page_promote(ml_cache *cache, ml_page *page, int how_far);
/* Forgets the packed copy of a page that is in memory: it is about to be changed. */
void ml_page_forget_copy(ml_page *page);

#endif
