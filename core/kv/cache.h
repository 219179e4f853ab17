/* The KV cache inside core: pages of one layer, shared copy-on-write between sequences. */
#ifndef ML_KV_CACHE_H
#define ML_KV_CACHE_H

#include "kv/format.h"

#include <stddef.h>

/* A run of ML_PAGE_TOKENS tokens of one layer, in the numbers that its format says. All that is written to is plain. */
typedef struct ml_page {
    int32_t references;      /* sequences, kept prefixes and pages (`origin`) that show this page */
    int32_t kept;            /* the kept prefixes of them */
    struct ml_page *next;    /* in the free list */
    const ml_format *format; /* owned by the cache */
    uint8_t *data;           /* format->bytes, 64-byte aligned; NULL: they are not in memory */
    struct ml_page *origin;  /* held; a plain page that was decoded from a quantised one: that one, else NULL */
    int32_t frozen;          /* tokens from the first on that still are the origin's */
    int32_t queued;          /* works under way that need it where it is (kv/settle.c, kv/lower.c) */
    int32_t layer;
    int32_t written;        /* of a plain page: tokens from this one on are zero */
    uint8_t *packed;        /* its bytes as the pool has them when it is cold, else NULL */
    struct ml_spill *spill; /* the file that has them, or NULL; a page may be in memory, too, but not changed then */
    int64_t record;         /* where in the file */
    uint64_t record_hash;   /* of these bytes */
    uint32_t packed_bytes;  /* of `packed` or of the record */
    int staged;             /* data lies in a staging area: see kv/stream.h */
} ml_page;

/* Descriptors of pages are made by the slab. */
enum { ML_SLAB_PAGES = 256 };

typedef struct ml_slab {
    struct ml_slab *next;
    ml_page pages[ML_SLAB_PAGES];
} ml_slab;

/* What happened at a level of a layer: see ml_level. */
typedef struct ml_traffic {
    int64_t hits, lowered, raised;
} ml_traffic;

typedef struct ml_stream ml_stream;     /* see kv/stream.c */
typedef struct ml_prefixes ml_prefixes; /* see kv/prefix.c */

typedef struct ml_sequence {
    int used;
    int64_t length;    /* tokens committed */
    int64_t pending;   /* tokens that the batch being checked adds */
    ml_page **pages;   /* {page_count, layers}: page i of layer l at i * layers + l */
    size_t page_count; /* pages a layer; may reach past `length` while a forward pass is under way */
    size_t capacity;   /* of `pages`, in pointers */
    int32_t *ids;      /* {length}: the tokens */
    size_t ids_capacity;
    int64_t settled;  /* pages from the first on that the policy has been applied to */
    int64_t windowed; /* likewise what the places say of pages that left the window */
    int64_t lowered;  /* pages from the first on of which none is left to put down */
    uint64_t used_at; /* cache->tick of its last pass, or of when it was filled from elsewhere */
    int64_t evicted;  /* tokens it had when it was given up; 0: it was not */
    int64_t sound;    /* tokens from the first on that whole forward passes of one instruction set computed */
    const char *isa;  /* its name, of that very pointer; NULL while sound is 0 */
} ml_sequence;

/* How far reclaim() may go to make room. */
enum {
    ML_RECLAIM_PAGES,    /* pages go down, what only prefixes show is forgotten */
    ML_RECLAIM_SEQUENCES /* and a sequence is given up where the places allow that */
};

struct ml_cache {
    ml_model *model; /* retained */
    /* What pages ask of those above them (set by ml_cache_create): */
    int (*reclaim)(ml_cache *cache, int how_far); /* makes some room in the pool; 0: there is nothing left to do */
    void (*quiesce)(ml_cache *cache);             /* nobody reads pages ahead any more: they may change */
    int dtype;
    int32_t layers, kv_heads, head_dim;
    int32_t window;         /* of the layer with the widest; 0: none has one */
    int64_t vector_bytes;   /* one key or value of one head in a plain page */
    ml_format *plain;       /* of pages that are written to */
    ml_format **formats;    /* {format_count}: every quantised format that was asked for */
    const ml_format **goal; /* {layers}: what full pages become; see ml_cache_policy() */
    size_t format_count, format_capacity;
    int64_t hot_tokens, first_tokens; /* the newest and the first tokens of a sequence that stay plain */
    int64_t warm_pages;               /* pages in use that are not plain */
    int rotated;                      /* how keys are quantised; fixed while there are warm pages */
    uint64_t epoch;                   /* a number never used before, whenever lengths or pages change */
    ml_sequence *sequences;
    size_t count, capacity;
    ml_pool *pool; /* of the pages' data */
    ml_slab *slabs;
    ml_page *free_pages; /* descriptors without data */
    int64_t pages_used;
    int64_t bytes_used;               /* of these */
    int64_t used_peak, reserved_peak; /* of pools that it had before, and of moving out of them */
    ml_places places;                 /* spill: NULL */
    int shrinks;                      /* the budget became smaller than what the pool has */
    struct ml_spill *spill;           /* for pages that go down now, or NULL */
    int spill_broken;                 /* it failed: nothing is written to it any more */
    int spill_failed;                 /* that has not been told yet */
    char spill_problem[300];
    struct ml_porter *porters; /* {porter_count} */
    int porter_count;
    size_t porter_bytes;
    ml_stream *stream;     /* or NULL */
    int64_t *absent_pages; /* {layers}, that are not in memory */
    int raised;            /* pages have come back since some were put down for the budget */
    uint64_t tick;         /* of the last pass, fork, adoption or load */
    int64_t evictions;     /* sequences that were given up */
    ml_traffic *traffic;   /* {layers, ML_LEVELS} */
    ml_prefixes *prefixes; /* what closed sequences leave behind, or NULL: nothing */
    int64_t bytes_kept;    /* of memory, of pages that only prefixes show */
    int64_t disk_kept;     /* of their records in spill files */
};

/* The sequence of that number, or NULL with ml_last_error() set. */
ml_sequence *ml_cache_sequence(const ml_cache *cache, int32_t number);
/* Marks a change: a forward pass under way on the cache is void. */
void ml_cache_changed(ml_cache *cache);
/* A page of `layer` of that format, with one holder and anything in it. NULL without memory. */
ml_page *ml_page_take(ml_cache *cache, const ml_format *format, int32_t layer);
/* The cache's format of these bits {kv_heads} (NULL: all 16), made when it is asked for first: pages and policies point
 * to it until the cache goes. NULL without memory, or when the pool has no room for another size. */
const ml_format *ml_cache_format(ml_cache *cache, int rotated, const uint8_t *key_bits, const uint8_t *value_bits);
/* One more holder of a page; one less, and the page is free after the last. */
void ml_page_hold(ml_cache *cache, ml_page *page);
void ml_page_release(ml_cache *cache, ml_page *page);
/* Room for the data of a page of `bytes`, from the pool; if there is none, what cache->reclaim() makes by going so far.
 * Pages that are queued stay. NULL without memory. */
uint8_t *ml_page_room(ml_cache *cache, int64_t bytes, int how_far);
/* Gives a page in memory other data, in another format; all who show it see that. Its old data goes back to the pool,
 * what was packed is forgotten. */
void ml_page_replace(ml_cache *cache, ml_page *page, const ml_format *format, uint8_t *data);
/* Makes the sequence, which ends where a page does, show the first `tokens` of the pages {pages, layers} after its own,
 * and take their ids. ML_E_MEMORY leaves it as it was. */
int ml_sequence_share(ml_cache *cache, ml_sequence *sequence, ml_page *const *pages, const int32_t *ids,
                      int64_t tokens);
/* Gives back all that a sequence holds and leaves it zeroed. */
void ml_sequence_release(ml_cache *cache, ml_sequence *sequence);
/* Adds the token of a row whose keys and values stand in every layer; `whole` if an ml_forward() computed it. */
void ml_sequence_append(ml_sequence *sequence, int32_t id, int whole);
/* Makes room for `count` tokens after the sequence's length: pages that only it shows, zeroed there, in memory. A
 * failure leaves the sequence as it was. */
int ml_cache_reserve(ml_cache *cache, ml_sequence *sequence, int64_t count);
/* Gives back the pages that were reserved and hold no token. */
void ml_cache_unreserve(ml_cache *cache, ml_sequence *sequence);
/* Writes keys and values, f32 {kv_heads, head_dim}, of the reserved `position` in `layer`, rounded to the cache's
 * dtype. */
void ml_cache_write(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position,
                    const float *keys, const float *values);
/* The page of `layer` that holds `position`. */
const ml_page *ml_cache_page(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position);
/* Where the pointer to it lies. */
ml_page *const *ml_cache_place(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position);
/* Puts the keys and values of KV head `head` in the page that holds `position` into what the attend kernels read.
 * Tokens that the sequence has not reserved are readable, but anything may stand there (what a rewind left). Valid
 * until the sequence's pages change. */
void ml_cache_read(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position, int32_t head,
                   ml_attend *work);
/* Counts what a page has as that of prefixes alone (sign 1), or not any more (-1). */
void ml_page_count_kept(ml_cache *cache, const ml_page *page, int sign);
/* Counts `change` bytes more, or less, that the page takes in memory. */
void ml_page_count(ml_cache *cache, const ml_page *page, int64_t change);
/* ML_LEVEL_...: where a page lies. */
int ml_page_level(const ml_page *page);
/* What happened to pages of `layer` at that level. */
ml_traffic *ml_cache_traffic(const ml_cache *cache, int32_t layer, int level);
/* Frees what the policy holds. */
void ml_cache_forget_policy(ml_cache *cache);

#endif
