/* Who goes first when memory runs short.
 *
 *     step        who                                                  in the order of                     goes
 *     kept        pages that only prefixes show                        use of the prefix, oldest first     to disk
 *     forgotten   these pages, where there is no disk for them         the same (prefix.c)                 away
 *     cold        packed pages of sequences                            \  the page's own last use, then    to disk
 *     outside     pages of layers without a window, or behind it        | the age of its tokens: oldest    \ to disk,
 *     all         pages in windows, too                                /  first                            / or cold
 *     sequence    where the places allow it: a whole sequence          its last use; never one that the    away
 *                                                                      pass under way needs
 *
 * A step begins when the one before has nothing left (demote.c walks the pages, cache.c gives sequences up).
 *
 * A pass reads all pages of its sequences that their windows show, so it need not write that down: pages get the tick
 * of the last pass that read them here, just before they are compared. A page that a sequence shares with one used
 * later is as young as that; one that left the window keeps the tick of when it was seen last. */
#include "kv/victims.h"

#include "base/memory.h"
#include "kv/sequence.h"

#include <stdlib.h>

typedef struct victim_list {
    ml_victim *pages;
    size_t count, capacity;
} victim_list;

static int belongs(const ml_page *page, ml_victim_class which, int in_window) {
    if (which == ML_VICTIMS_COLD) return page->packed != NULL;
    return (page->data || page->packed) && (which == ML_VICTIMS_ALL || !in_window);
}

/* Takes up the full pages of a sequence, and marks those that its passes read. */
static int list_sequence(const ml_cache *cache, const ml_sequence *sequence, ml_victim_class which, victim_list *list) {
    const int64_t full = sequence->length / ML_PAGE_TOKENS;
    for (int32_t layer = 0; layer < cache->shape.layers; layer++) {
        const int64_t seen = ml_sequence_first_seen(cache, sequence, layer);
        const int windowed = cache->shape.windows[layer] > 0;
        for (int64_t i = 0; i < full; i++) {
            ml_page *page = sequence->pages[i * cache->shape.layers + layer];
            if (i >= seen && page->used_at < sequence->used_at) page->used_at = sequence->used_at;
            if (!belongs(page, which, windowed && i >= seen)) continue;
            void *pages = list->pages;
            int status = ml_grow(&pages, &list->capacity, list->count + 1, sizeof *list->pages);
            list->pages = pages;
            if (status != ML_OK) return status;
            list->pages[list->count++] = (ml_victim){page, i};
        }
    }
    return ML_OK;
}

static int goes_first(const void *a, const void *b) {
    const ml_victim *x = a, *y = b;
    if (x->page->used_at != y->page->used_at) return x->page->used_at < y->page->used_at ? -1 : 1;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return (x->page->layer > y->page->layer) - (x->page->layer < y->page->layer);
}

size_t ml_victims_pages(ml_cache *cache, ml_victim_class which, ml_victim **list) {
    victim_list found = {0};
    *list = NULL;
    for (size_t i = 0; i < cache->count; i++) {
        if (list_sequence(cache, &cache->sequences[i], which, &found) != ML_OK) {
            free(found.pages);
            return 0;
        }
    }
    if (found.count) qsort(found.pages, found.count, sizeof *found.pages, goes_first);
    *list = found.pages;
    return found.count;
}

ml_sequence *ml_victims_sequence(ml_cache *cache) {
    ml_sequence *oldest = NULL;
    for (size_t i = 0; i < cache->count; i++) {
        ml_sequence *s = &cache->sequences[i];
        if (s->used && s->page_count > 0 && (!oldest || s->used_at < oldest->used_at)) oldest = s;
    }
    return oldest && oldest->used_at < cache->tick ? oldest : NULL;
}
