/* Where pages lie: in memory, cold or on disk, and the ways down and up. See ml_places. */
#ifndef ML_KV_PLACE_H
#define ML_KV_PLACE_H

#include "kv/cache.h"
#include "kv/packed.h"

/* What one thread needs to pack and unpack pages. */
typedef struct ml_porter {
    ml_packer *packer;
    uint8_t *buffer; /* of a packed page */
} ml_porter;

/* A porter for pages of up to `bytes`. Give it back zeroed or not at all. */
int ml_porter_open(size_t bytes, ml_porter *porter);
void ml_porter_close(ml_porter *porter);

/* Bytes of the largest page that the cache can have. */
size_t ml_place_largest(const ml_cache *cache);
/* Makes cache->porters, one for each thread. */
int ml_place_porters(ml_cache *cache);
/* Bytes of memory that a page takes, staging aside. */
int64_t ml_page_held(const ml_page *page);
/* Unpacks a page that is not in memory into `out` {format->bytes}. Changes nothing: any thread. */
int ml_page_fetch(const ml_page *page, ml_porter *porter, uint8_t *out);
/* Packs a page into `out` {ml_packed_bound(bytes)}, from wherever it lies. Any thread. Returns how many bytes that
 * took; 0 on failure (ml_last_error). */
size_t ml_page_pack(const ml_page *page, ml_packer *packer, uint8_t *out);
/* Makes `data`, which ml_page_fetch() filled, the page's own: it is in memory again. */
void ml_page_restore(ml_cache *cache, ml_page *page, uint8_t *data);
/* Brings a page back into memory, if it is not there; ML_RECLAIM_...: how far to go for it. On failure it stays where
 * it was. */
int ml_page_raise(ml_cache *cache, ml_page *page, int how_far);
/* Forgets the packed copy of a page that is in memory: it is about to be changed. */
void ml_page_forget_copy(ml_page *page);
/* Gives back what a page has that nobody shows any more. */
void ml_page_empty(ml_cache *cache, ml_page *page);

/* Bytes that may come back into memory to stay, as far as the budget goes. */
int64_t ml_place_spare(const ml_cache *cache);
/* Puts pages down as the places say. If the spill file fails, it is not used any more. */
void ml_place_lower(ml_cache *cache);
/* The same; after the budget became smaller, the cache has no more than that from the system then. ML_E_IO if the spill
 * file has failed since this was called last, ML_E_MEMORY if the smaller budget is too small: each is told once. */
int ml_place_settle(ml_cache *cache);
/* Puts pages down until `bytes` more are within the budget, as far as that is possible: first those that only prefixes
 * show, which are forgotten where there is no disk for them. */
void ml_place_prepare(ml_cache *cache, int64_t bytes);
/* Makes some room where the pool has none, in the same order; with ML_RECLAIM_SEQUENCES gives a sequence up last. 0 if
 * there is nothing left to do. */
int ml_place_room(ml_cache *cache, int how_far);
/* Moves all that the cache has in memory to a pool of its budget. ML_E_MEMORY, and nothing is changed, if it does not
 * fit. */
int ml_place_move(ml_cache *cache);
/* Frees what the places hold. */
void ml_place_close(ml_cache *cache);

#endif
