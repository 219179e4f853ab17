/* The KV cache inside core: pages of one layer, shared copy-on-write between sequences. */
#ifndef ML_KV_CACHE_H
#define ML_KV_CACHE_H

#include "kernels/kernels.h"

#include <stddef.h>

/* A run of ML_PAGE_TOKENS tokens of one layer, as the attend kernel takes it: for each KV head keys {head_dim,
 * ML_PAGE_TOKENS} of the cache's dtype, so that the scores of neighbouring tokens lie side by side, then for each KV
 * head values {ML_PAGE_TOKENS, head_dim}. */
typedef struct ml_page {
    int32_t references;   /* sequences and kept prefixes that show this page */
    int32_t kept;         /* the kept prefixes of them */
    struct ml_page *next; /* in the free list */
    uint8_t *data;        /* page_bytes, 64-byte aligned */
} ml_page;

/* Descriptors of pages are made by the slab. */
typedef struct ml_slab {
    struct ml_slab *next;
    ml_page pages[];
} ml_slab;

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
    int64_t sound;   /* tokens from the first on that whole forward passes of one instruction set computed */
    const char *isa; /* its name, of that very pointer; NULL while sound is 0 */
} ml_sequence;

struct ml_cache {
    ml_model *model; /* retained */
    int dtype;
    int32_t layers, kv_heads, head_dim;
    int64_t vector_bytes; /* one key or value of one head */
    int64_t page_bytes;
    uint64_t epoch; /* a number never used before, whenever lengths or pages change */
    ml_sequence *sequences;
    size_t count, capacity;
    ml_pool *pool; /* of the pages' data */
    ml_slab *slabs;
    ml_page *free_pages; /* descriptors without data */
    int64_t pages_used;
    ml_prefixes *prefixes; /* what closed sequences leave behind, or NULL: nothing */
    int64_t pages_kept;    /* pages that only prefixes show */
};

/* The sequence of that number, or NULL with ml_last_error() set. */
ml_sequence *ml_cache_sequence(const ml_cache *cache, int32_t number);
/* Marks a change: a forward pass under way on the cache is void. */
void ml_cache_changed(ml_cache *cache);
/* One more holder of a page; one less, and the page is free after the last. */
void ml_page_hold(ml_cache *cache, ml_page *page);
void ml_page_release(ml_cache *cache, ml_page *page);
/* Makes the empty sequence show the first `tokens` of the pages {pages, layers} and take their ids. ML_E_MEMORY leaves
 * it empty. */
int ml_sequence_share(ml_cache *cache, ml_sequence *sequence, ml_page *const *pages, const int32_t *ids,
                      int64_t tokens);
/* Gives back all that a sequence holds and leaves it zeroed. */
void ml_sequence_release(ml_cache *cache, ml_sequence *sequence);
/* Adds the token of a row whose keys and values stand in every layer; `whole` if an ml_forward() computed it. */
void ml_sequence_append(ml_sequence *sequence, int32_t id, int whole);
/* Makes room for `count` tokens after the sequence's length: pages that only it shows, zeroed there. ML_E_MEMORY leaves
 * the sequence as it was. */
int ml_cache_reserve(ml_cache *cache, ml_sequence *sequence, int64_t count);
/* Writes keys and values, f32 {kv_heads, head_dim}, of the reserved `position` in `layer`, rounded to the cache's
 * dtype. */
void ml_cache_write(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position,
                    const float *keys, const float *values);
/* Keys {head_dim, ML_PAGE_TOKENS} and values {ML_PAGE_TOKENS, head_dim} of KV head `head` in the page that holds
 * `position`; token t of the page is column t of the keys and row t of the values. Tokens that the sequence has not
 * reserved are readable, but anything may stand there (what a rewind left). Valid until the sequence's pages change. */
void ml_cache_read(const ml_cache *cache, const ml_sequence *sequence, int32_t layer, int64_t position, int32_t head,
                   const void **keys, const void **values);

#endif
