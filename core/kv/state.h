/* The state of a KV cache: pages of one layer, shared copy-on-write between sequences. Structs alone: who may change
 * which part of them stands in kv/README.md. */
#ifndef ML_KV_STATE_H
#define ML_KV_STATE_H

#include "kv/format.h"

#include <stddef.h>

/* A run of ML_PAGE_TOKENS tokens of one layer, in the numbers that its format says. All that is written to is plain. */
typedef struct ml_page {
    /* What whoever shows the page may read: */
    const ml_format *format; /* owned by the cache */
    uint8_t *data;           /* format->bytes, 64-byte aligned; NULL: they are not in memory */
    int32_t layer;
    int32_t references;     /* sequences, kept prefixes and pages (`origin`) that show this page */
    int32_t frozen;         /* tokens from the first on that still are the origin's */
    struct ml_page *origin; /* held; a plain page that was decoded from a quantised one: that one, else NULL */

    /* What page.c, sequence.c and the movers write: */
    int32_t kept;           /* the kept prefixes among the references */
    int32_t queued;         /* works under way that need the page where it is (quantise.c, demote.c) */
    int32_t written;        /* of a plain page: tokens from this one on are zero */
    int staged;             /* data lies in a staging area (promote.c) */
    uint8_t *packed;        /* its bytes as the pool has them when it is cold, else NULL */
    struct ml_spill *spill; /* the file that has them, or NULL; a page may be in memory, too, but not changed then */
    int64_t record;         /* where in the file */
    uint64_t record_hash;   /* of these bytes */
    uint32_t packed_bytes;  /* of `packed` or of the record */
    uint64_t used_at;       /* cache->tick of the last pass that read it, as far as is known (victims.c) */
    struct ml_page *next;   /* in the free list */
} ml_page;

/* Descriptors of pages are made by the slab. */
enum { ML_SLAB_PAGES = 256 };

typedef struct ml_slab {
    struct ml_slab *next;
    ml_page pages[ML_SLAB_PAGES];
} ml_slab;

/* What happened at a level of a layer: see ml_level. */
typedef struct ml_traffic {
    int64_t hits, demoted, promoted;
} ml_traffic;

typedef struct ml_promoter ml_promoter; /* see kv/promote.c */
typedef struct ml_prefixes ml_prefixes; /* see kv/prefix.c */

typedef struct ml_sequence {
    int used;
    int64_t length;    /* tokens committed */
    int64_t pending;   /* tokens that the pass under way adds (pass.c) */
    ml_page **pages;   /* {page_count, layers}: page i of layer l at i * layers + l */
    size_t page_count; /* pages a layer; may reach past `length` while a forward pass is under way */
    size_t capacity;   /* of `pages`, in pointers */
    int32_t *ids;      /* {length}: the tokens */
    size_t ids_capacity;
    int64_t settled;  /* pages from the first on that the policy has been applied to (quantise.c) */
    int64_t windowed; /* likewise what the places say of pages that left the window (demote.c) */
    uint64_t used_at; /* cache->tick of its last pass, or of when it was filled from elsewhere */
    int64_t evicted;  /* tokens it had when it was given up; 0: it was not */
    int64_t sound;    /* tokens from the first on that whole forward passes of one instruction set computed */
    const char *isa;  /* its name, of that very pointer; NULL while sound is 0 */
} ml_sequence;

/* What a cache has to know of the model whose keys and values it holds. */
typedef struct ml_shape {
    int32_t layers, kv_heads, head_dim;
    const int64_t *windows;                 /* {layers}: tokens that a layer sees; 0: all */
    int64_t vocabulary;                     /* ids are below it */
    const char *architecture, *name, *file; /* for saved sessions to tell whose they are; "" where not known */
    const void *model;                      /* the model itself, for ml_cache_model() alone */
    void (*release)(const void *model);     /* called when the cache goes; NULL: nobody waits for that */
} ml_shape;

/* How far reclaim() may go to make room. */
enum {
    ML_RECLAIM_PAGES,    /* pages go down, what only prefixes show is forgotten */
    ML_RECLAIM_SEQUENCES /* and a sequence is given up where the places allow that */
};

struct ml_cache {
    /* What pages ask of those above them (set by cache.c): */
    int (*reclaim)(ml_cache *cache, int how_far); /* makes some room in the pool; 0: there is nothing left to do */
    void (*quiesce)(ml_cache *cache);             /* nobody reads pages ahead any more: they may change */

    ml_shape shape; /* windows and texts are the cache's own */
    int64_t window; /* of the layer with the widest; 0: none has one */
    int dtype;
    int64_t vector_bytes; /* one key or value of one head in a plain page */
    uint64_t epoch;       /* a number never used before, whenever lengths or pages change */
    uint64_t tick;        /* of the last pass, fork, adoption or load */

    /* Pages (page.c): */
    ml_pool *pool; /* of the pages' data */
    ml_slab *slabs;
    ml_page *free_pages; /* descriptors without data */
    int64_t pages_used;
    int64_t bytes_used;               /* of these */
    int64_t warm_pages;               /* pages in use that are not plain */
    int64_t *absent_pages;            /* {layers}, that are not in memory */
    int64_t used_peak, reserved_peak; /* of pools that it had before, and of moving out of them (compact.c) */
    ml_traffic *traffic;              /* {layers, ML_LEVELS} */
    struct ml_porter *porters;        /* {porter_count} */
    int porter_count;
    size_t porter_bytes;

    /* Sequences (sequence.c) and what closed ones leave behind (prefix.c): */
    ml_sequence *sequences;
    size_t count, capacity;
    ml_prefixes *prefixes; /* or NULL: nothing is left behind */
    int64_t bytes_kept;    /* of memory, of pages that only prefixes show */
    int64_t disk_kept;     /* of their records in spill files */

    /* The policy (policy.c): */
    ml_format *plain;       /* of pages that are written to */
    ml_format **formats;    /* {format_count}: every quantised format that was asked for */
    const ml_format **goal; /* {layers}: what full pages become; see ml_cache_policy() */
    size_t format_count, format_capacity;
    int64_t hot_tokens, first_tokens; /* the newest and the first tokens of a sequence that stay plain */
    int rotated;                      /* how keys are quantised; fixed while there are warm pages */

    /* The places (cache.c, demote.c, promote.c): */
    ml_places places;       /* spill: NULL */
    int shrinks;            /* the budget became smaller than what the pool has */
    struct ml_spill *spill; /* for pages that go down now, or NULL */
    int spill_broken;       /* it failed: nothing is written to it any more */
    int spill_failed;       /* that has not been told yet */
    char spill_problem[300];
    ml_promoter *promoter; /* or NULL */
};

#endif
