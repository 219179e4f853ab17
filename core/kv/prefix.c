/* Prefixes: a tree of pages of tokens. A node is a page's worth of ids with the pages of all layers; its place is what
 * came before. A table finds the child of a node by the hash of (the node's hash, 64 ids): a chain of hashes over the
 * whole prefix. The hash only says where to look; parent and ids are compared.
 *
 * Nodes are made when a sequence is closed or rewound. What living sequences hold is found by comparing their ids. */
#include "kv/prefix.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "kv/sequence.h"

#include <stdlib.h>
#include <string.h>

struct ml_prefix {
    struct ml_prefix *parent, *children, *next; /* next: the parent's next child */
    struct ml_prefix *newer, *older;            /* by use; an ancestor is always newer than what hangs on it */
    struct ml_prefix *chained;                  /* in the same slot of the table */
    const char *isa;                            /* the instruction set (and precision) that computed it */
    uint64_t hash;
    int32_t count; /* tokens; below ML_PAGE_TOKENS there are no children */
    int32_t ids[ML_PAGE_TOKENS];
    ml_page *pages[]; /* {layers} */
};

struct ml_prefixes {
    int64_t budget; /* bytes of pages that only prefixes show, in memory and on disk */
    ml_prefix *roots;
    ml_prefix *newest, *oldest;
    ml_prefix **slots; /* chains of full pages, by hash */
    size_t slot_count; /* a power of two */
    size_t count;      /* nodes */
};

enum { SLOTS = 64 };

/* ---- the table ---- */

static uint64_t chain_hash(const ml_prefix *parent, const int32_t *ids) {
    return ml_hash(ids, ML_PAGE_TOKENS * (int64_t)sizeof *ids, parent ? parent->hash : 0);
}

static ml_prefix **slot_of(const ml_prefixes *p, uint64_t hash) {
    return &p->slots[hash & (p->slot_count - 1)];
}

/* Doubles the table when there are as many nodes as slots; without memory for that, chains grow. */
static void grow_table(ml_prefixes *p) {
    if (p->count < p->slot_count) return;
    ml_prefixes wide = {.slot_count = p->slot_count * 2};
    wide.slots = calloc(wide.slot_count, sizeof *wide.slots);
    if (!wide.slots) return;
    for (size_t i = 0; i < p->slot_count; i++) {
        while (p->slots[i]) {
            ml_prefix *node = p->slots[i], **slot = slot_of(&wide, node->hash);
            p->slots[i] = node->chained;
            node->chained = *slot;
            *slot = node;
        }
    }
    free(p->slots);
    p->slots = wide.slots;
    p->slot_count = wide.slot_count;
}

/* The full page of ids after `parent` (NULL: at the start), or NULL. */
static ml_prefix *find_full(const ml_prefixes *p, const ml_prefix *parent, const char *isa, const int32_t *ids) {
    const uint64_t hash = chain_hash(parent, ids);
    for (ml_prefix *node = *slot_of(p, hash); node; node = node->chained) {
        if (node->hash == hash && node->parent == parent && node->isa == isa &&
            memcmp(node->ids, ids, sizeof node->ids) == 0) {
            return node;
        }
    }
    return NULL;
}

/* How many of the first `count` ids two lists have in common. */
static int64_t agreement(const int32_t *a, const int32_t *b, int64_t count) {
    int64_t same = 0;
    while (same < count && a[same] == b[same]) same++;
    return same;
}

/* The page after `parent` that agrees with most of the `count` ids, or NULL; *same receives how many. */
static ml_prefix *find_partial(const ml_prefixes *p, const ml_prefix *parent, const char *isa, const int32_t *ids,
                               int64_t count, int64_t *same) {
    ml_prefix *best = NULL;
    *same = 0;
    for (ml_prefix *node = parent ? parent->children : p->roots; node; node = node->next) {
        const int64_t agreed = agreement(node->ids, ids, count < node->count ? count : node->count);
        if (node->isa != isa || agreed <= *same) continue;
        best = node;
        *same = agreed;
    }
    return best;
}

/* ---- use ---- */

static void leave_order(ml_prefixes *p, const ml_prefix *node) {
    *(node->newer ? &node->newer->older : &p->newest) = node->older;
    *(node->older ? &node->older->newer : &p->oldest) = node->newer;
}

static void become_newest(ml_prefixes *p, ml_prefix *node) {
    node->newer = NULL;
    node->older = p->newest;
    *(p->newest ? &p->newest->newer : &p->oldest) = node;
    p->newest = node;
}

/* From the leaf up, so that the oldest node never has children. */
static void touch(ml_prefixes *p, ml_prefix *node) {
    for (; node; node = node->parent) {
        leave_order(p, node);
        become_newest(p, node);
    }
}

int ml_prefix_forget(ml_cache *cache) {
    ml_prefixes *p = cache->prefixes;
    ml_prefix *node = p ? p->oldest : NULL;
    if (!node) return 0;
    leave_order(p, node);
    ml_prefix **link = node->parent ? &node->parent->children : &p->roots;
    while (*link != node) link = &(*link)->next;
    *link = node->next;
    if (node->count == ML_PAGE_TOKENS) {
        for (link = slot_of(p, node->hash); *link != node;) link = &(*link)->chained;
        *link = node->chained;
    }
    for (int32_t l = 0; l < cache->shape.layers; l++) {
        ml_page *page = node->pages[l];
        if (page->references == page->kept) ml_page_count_kept(cache, page, -1);
        page->kept--;
        ml_page_release(cache, page); /* counts it again if another prefix shows it */
    }
    p->count--;
    free(node);
    return 1;
}

ml_page *const *ml_prefix_pages(const ml_cache *cache, const ml_prefix **at) {
    *at = *at ? (*at)->newer : cache->prefixes ? cache->prefixes->oldest : NULL;
    return *at ? (*at)->pages : NULL;
}

void ml_prefix_settle(ml_cache *cache) {
    while (cache->prefixes && cache->bytes_kept + cache->disk_kept > cache->prefixes->budget) ml_prefix_forget(cache);
}

void ml_prefixes_free(ml_cache *cache) {
    while (ml_prefix_forget(cache)) {
    }
    if (cache->prefixes) free(cache->prefixes->slots);
    free(cache->prefixes);
    cache->prefixes = NULL;
}

/* ---- keeping ---- */

/* Adds the page of `count` ids after `parent`. NULL without memory. */
static ml_prefix *add(ml_cache *cache, ml_prefix *parent, const ml_sequence *sequence, int64_t page, int32_t count) {
    ml_prefixes *p = cache->prefixes;
    const size_t layers = (size_t)cache->shape.layers;
    ml_prefix *node = calloc(1, sizeof *node + layers * sizeof *node->pages);
    if (!node) return NULL;
    grow_table(p);
    node->parent = parent;
    node->isa = sequence->isa;
    node->count = count;
    memcpy(node->ids, sequence->ids + page * ML_PAGE_TOKENS, (size_t)count * sizeof *node->ids);
    for (size_t l = 0; l < layers; l++) {
        node->pages[l] = sequence->pages[(size_t)page * layers + l];
        ml_page_hold(cache, node->pages[l]);
        node->pages[l]->kept++;
    }
    ml_prefix **siblings = parent ? &parent->children : &p->roots;
    node->next = *siblings;
    *siblings = node;
    if (count == ML_PAGE_TOKENS) {
        node->hash = chain_hash(parent, node->ids);
        ml_prefix **slot = slot_of(p, node->hash);
        node->chained = *slot;
        *slot = node;
    }
    become_newest(p, node);
    p->count++;
    return node;
}

void ml_prefix_keep(ml_cache *cache, const ml_sequence *sequence, int tail) {
    ml_prefixes *p = cache->prefixes;
    if (!p) return;
    const int64_t full = sequence->sound / ML_PAGE_TOKENS;
    ml_prefix *at = NULL;
    for (int64_t page = 0; page < full; page++) {
        ml_prefix *node = find_full(p, at, sequence->isa, sequence->ids + page * ML_PAGE_TOKENS);
        if (!node) node = add(cache, at, sequence, page, ML_PAGE_TOKENS);
        if (!node) break;
        at = node;
    }
    const int64_t rest = sequence->sound % ML_PAGE_TOKENS;
    int64_t same = 0;
    if (tail && rest > 0) {
        ml_prefix *node = find_partial(p, at, sequence->isa, sequence->ids + full * ML_PAGE_TOKENS, rest, &same);
        if (same < rest) node = add(cache, at, sequence, full, (int32_t)rest);
        if (node) at = node;
    }
    touch(p, at);
}

int ml_cache_keep(ml_cache *cache, int64_t bytes) {
    if (bytes < 0) return ml_error(ML_E_ARGUMENT, "a cache keeps 0 bytes or more, not %lld", (long long)bytes);
    if (bytes == 0) {
        ml_prefixes_free(cache);
        return ML_OK;
    }
    if (!cache->prefixes) {
        ml_prefixes *p = ml_calloc(1, sizeof *p);
        if (!p) return ML_E_MEMORY;
        p->slot_count = SLOTS;
        p->slots = ml_calloc(SLOTS, sizeof *p->slots);
        if (!p->slots) {
            free(p);
            return ML_E_MEMORY;
        }
        cache->prefixes = p;
    }
    cache->prefixes->budget = bytes;
    ml_prefix_settle(cache);
    return ML_OK;
}

int64_t ml_cache_kept(const ml_cache *cache) {
    return cache->bytes_kept;
}

int64_t ml_cache_kept_branch(const ml_cache *cache, int64_t index, int32_t *ids, int64_t capacity) {
    const ml_prefix *leaf = cache->prefixes ? cache->prefixes->newest : NULL;
    while (leaf && (leaf->children || index-- > 0)) leaf = leaf->older;
    int64_t tokens = 0;
    for (const ml_prefix *node = leaf; node; node = node->parent) tokens += node->count;
    int64_t end = tokens;
    for (const ml_prefix *node = leaf; node; node = node->parent) {
        end -= node->count;
        for (int32_t i = 0; i < node->count && end + i < capacity; i++) ids[end + i] = node->ids[i];
    }
    return tokens;
}

/* ---- adopting ---- */

/* What a search found: of a living sequence, or of the tree. */
typedef struct found {
    int64_t tokens;
    const ml_sequence *sequence; /* or NULL */
    ml_prefix *node;             /* the last page, or NULL */
} found;

static found search_sequences(const ml_cache *cache, const int32_t *ids, int64_t count, const char *isa) {
    found best = {0};
    for (size_t i = 0; i < cache->count; i++) {
        const ml_sequence *s = &cache->sequences[i];
        if (!s->used || s->isa != isa) continue;
        const int64_t same = agreement(s->ids, ids, count < s->sound ? count : s->sound);
        if (same > best.tokens) best = (found){same, s, NULL};
    }
    return best;
}

static found search_tree(const ml_prefixes *p, const int32_t *ids, int64_t count, const char *isa) {
    found best = {0};
    if (!p) return best;
    while (count - best.tokens >= ML_PAGE_TOKENS) {
        ml_prefix *node = find_full(p, best.node, isa, ids + best.tokens);
        if (!node) break;
        best.node = node;
        best.tokens += ML_PAGE_TOKENS;
    }
    int64_t same;
    ml_prefix *node = find_partial(p, best.node, isa, ids + best.tokens, count - best.tokens, &same);
    if (node) best = (found){best.tokens + same, NULL, node};
    return best;
}

/* Makes the empty sequence show what was found. */
static int take(ml_cache *cache, ml_sequence *sequence, const found *what, const int32_t *ids) {
    if (what->sequence) return ml_sequence_share(cache, sequence, what->sequence->pages, ids, what->tokens);
    const size_t layers = (size_t)cache->shape.layers;
    size_t page = (size_t)((what->tokens + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS);
    ml_page **pages = ml_calloc(page * layers, sizeof(ml_page *));
    if (!pages) return ML_E_MEMORY;
    for (const ml_prefix *node = what->node; node; node = node->parent) {
        memcpy(pages + --page * layers, node->pages, layers * sizeof(ml_page *));
    }
    int status = ml_sequence_share(cache, sequence, pages, ids, what->tokens);
    free(pages);
    if (status == ML_OK) touch(cache->prefixes, what->node);
    return status;
}

/* Looks for the `count` ids in full and shows the longest prefix of them, if that is more than the sequence has. */
static int adopt(ml_cache *cache, ml_sequence *sequence, const int32_t *ids, int64_t count) {
    const char *isa = ml_kernels_numbers();
    const found living = search_sequences(cache, ids, count, isa), kept = search_tree(cache->prefixes, ids, count, isa);
    const found *best = kept.tokens > living.tokens ? &kept : &living;
    if (best->tokens <= sequence->length) return ML_OK;
    ml_sequence fresh = {.used = 1, .sound = best->tokens, .isa = isa};
    ml_sequence_use(cache, &fresh);
    int status = take(cache, &fresh, best, ids);
    if (status != ML_OK) {
        ml_sequence_release(cache, &fresh);
        return status;
    }
    ml_sequence_release(cache, sequence);
    *sequence = fresh;
    ml_pages_changed(cache);
    return ML_OK;
}

int ml_cache_adopt(ml_cache *cache, int32_t sequence, const int32_t *ids, int64_t count, int64_t *adopted) {
    ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    *adopted = 0;
    if (!cache->prefixes || count <= 0 || s->sound < s->length) return ML_OK;
    const int64_t before = s->length;
    int32_t *all = ml_calloc((size_t)before + (size_t)count, sizeof *all);
    if (!all) return ML_E_MEMORY;
    if (before) memcpy(all, s->ids, (size_t)before * sizeof *all);
    memcpy(all + before, ids, (size_t)count * sizeof *all);
    int status = adopt(cache, s, all, before + count);
    free(all);
    if (status == ML_OK) *adopted = s->length - before;
    return status;
}
