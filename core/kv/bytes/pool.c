/* Memory for cache pages. Arenas from the system, under huge pages, are split into blocks by a buddy system; a block is
 * cut into pages of one size. All bookkeeping lies apart from the pages: what nobody reads is never touched. */
#include "base/error.h"
#include "base/memory.h"
#include "moonloom.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Under AddressSanitizer, what is not taken cannot be touched. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
static void lock_area(void *area, size_t bytes) {
    ASAN_POISON_MEMORY_REGION(area, bytes);
}
static void unlock_area(void *area, size_t bytes) {
    ASAN_UNPOISON_MEMORY_REGION(area, bytes);
}
#else
static void lock_area(void *area, size_t bytes) {
    (void)area, (void)bytes;
}
static void unlock_area(void *area, size_t bytes) {
    (void)area, (void)bytes;
}
#endif

/* A block of order k is UNIT << k bytes. */
enum {
    UNIT = 64 << 10,
    FIRST_ORDER = 2, /* of the first arena; each is twice as large as the last */
    TOP_ORDER = 9,   /* of the largest arenas: 32 MiB */
    LINE = 64,
    SMALLEST = 512, /* so that the pages of a block of one unit fit MAP_WORDS */
    MAP_WORDS = UNIT / SMALLEST / 64,
    LADDER = 256, /* steps, see step_of() */
    EXACT = 64    /* sizes with pages of their own */
};

enum { INNER = 0, FREE, CUT };

/* The descriptor of a unit; it speaks for the block that begins there, or is INNER. */
typedef struct block {
    struct block *prev, *next; /* FREE: among the free blocks of its order; CUT: among those with pages to give */
    struct arena *arena;
    struct page_size *size;  /* CUT: of its pages */
    int state, order, left;  /* left: pages that are not taken */
    uint64_t map[MAP_WORDS]; /* CUT: a bit for each page that is not taken */
} block;

typedef struct arena {
    uint8_t *data;
    int order;
    block units[];
} arena;

typedef struct page_size {
    size_t bytes;
    int order, count; /* pages are cut out of blocks of that order, so many of each */
    block *open;      /* blocks with pages to give */
} page_size;

struct ml_pool {
    pthread_mutex_t lock;
    arena **arenas; /* by address */
    size_t count, capacity;
    size_t empty; /* arenas of which nothing is taken */
    int next_order;
    block *free[TOP_ORDER + 1];
    page_size exact[EXACT], ladder[LADDER];
    int exact_count;
    ml_pool_info info;
};

static void list_add(block **list, block *b) {
    b->prev = NULL;
    b->next = *list;
    if (b->next) b->next->prev = b;
    *list = b;
}

static void list_remove(block **list, block *b) {
    if (b->prev) {
        b->prev->next = b->next;
    } else {
        *list = b->next;
    }
    if (b->next) b->next->prev = b->prev;
}

static size_t order_bytes(int order) {
    return (size_t)UNIT << order;
}

static uint8_t *block_data(const block *b) {
    return b->arena->data + (size_t)(b - b->arena->units) * UNIT;
}

/* ---- arenas ---- */

/* Where the arena that holds `data` is, or would be, among the arenas. */
static size_t arena_place(const ml_pool *pool, const uint8_t *data) {
    size_t low = 0, high = pool->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const arena *a = pool->arenas[middle];
        if (data < a->data + order_bytes(a->order)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void block_free(ml_pool *pool, block *b, int order) {
    b->state = FREE;
    b->order = order;
    list_add(&pool->free[order], b);
}

static void arena_remove(ml_pool *pool, size_t place) {
    arena *a = pool->arenas[place];
    const size_t bytes = order_bytes(a->order);
    list_remove(&pool->free[a->order], a->units);
    memmove(pool->arenas + place, pool->arenas + place + 1, (pool->count - place - 1) * sizeof *pool->arenas);
    pool->count--;
    pool->empty--;
    pool->info.reserved -= (int64_t)bytes;
    ml_memory_note(ML_MEMORY_CACHE, -(int64_t)bytes);
    pool->info.free_blocks -= (int64_t)bytes;
    unlock_area(a->data, bytes);
    munmap(a->data, bytes);
    free(a);
}

static void trim(ml_pool *pool) {
    for (size_t i = pool->count; i-- > 0 && pool->empty > 0;) {
        const arena *a = pool->arenas[i];
        if (a->units->state == FREE && a->units->order == a->order) arena_remove(pool, i);
    }
}

static int within_budget(const ml_pool *pool, int order) {
    return !pool->info.budget || pool->info.reserved + (int64_t)order_bytes(order) <= pool->info.budget;
}

/* Adds an arena that holds a block of `order` at least: larger, if the budget has room for that. */
static int arena_add(ml_pool *pool, int order) {
    int wanted = order > pool->next_order ? order : pool->next_order;
    while (wanted > order && !within_budget(pool, wanted)) wanted--;
    if (!within_budget(pool, wanted)) trim(pool);
    if (!within_budget(pool, wanted)) {
        return ml_error(ML_E_MEMORY,
                        "the cache is full: its budget is %lld bytes, %lld of them in use, and %zu more are needed in "
                        "one piece; close sessions, give it more, or take a policy that lets pages go to the disk",
                        (long long)pool->info.budget, (long long)pool->info.used, order_bytes(order));
    }
    const size_t bytes = order_bytes(wanted), units = (size_t)1 << wanted;
    void *list = pool->arenas;
    int status = ml_grow(&list, &pool->capacity, pool->count + 1, sizeof *pool->arenas);
    pool->arenas = list;
    if (status != ML_OK) return status;
    arena *a = ml_calloc(1, sizeof *a + units * sizeof *a->units);
    if (!a) return ML_E_MEMORY;
    a->data = ml_memory_map(bytes);
    if (!a->data) {
        free(a);
        return ML_E_MEMORY;
    }
    lock_area(a->data, bytes);
    a->order = wanted;
    for (size_t i = 0; i < units; i++) a->units[i].arena = a;
    const size_t place = arena_place(pool, a->data);
    memmove(pool->arenas + place + 1, pool->arenas + place, (pool->count - place) * sizeof *pool->arenas);
    pool->arenas[place] = a;
    pool->count++;
    pool->empty++;
    block_free(pool, a->units, wanted);
    pool->info.reserved += (int64_t)bytes;
    ml_memory_note(ML_MEMORY_CACHE, (int64_t)bytes);
    pool->info.free_blocks += (int64_t)bytes;
    if (pool->info.reserved > pool->info.reserved_peak) pool->info.reserved_peak = pool->info.reserved;
    pool->next_order = wanted < TOP_ORDER ? wanted + 1 : TOP_ORDER;
    return ML_OK;
}

/* ---- blocks: the buddy system (Knuth, The Art of Computer Programming 1, section 2.5) ---- */

/* A block of that order, no longer among the free ones; NULL on failure. */
static block *block_take(ml_pool *pool, int order) {
    int found = order;
    while (found <= TOP_ORDER && !pool->free[found]) found++;
    if (found > TOP_ORDER) {
        if (arena_add(pool, order) != ML_OK) return NULL;
        found = order;
        while (!pool->free[found]) found++;
    }
    block *b = pool->free[found];
    list_remove(&pool->free[found], b);
    if (found == b->arena->order) pool->empty--;
    while (found > order) {
        found--;
        block_free(pool, b + ((size_t)1 << found), found); /* the upper half */
    }
    b->order = order;
    pool->info.free_blocks -= (int64_t)order_bytes(order);
    return b;
}

/* Joins the block with its buddy as long as that is free, too. Of the arenas that become empty, one is kept. */
static void block_give(ml_pool *pool, block *b) {
    arena *a = b->arena;
    int order = b->order;
    pool->info.free_blocks += (int64_t)order_bytes(order);
    for (; order < a->order; order++) {
        block *buddy = a->units + ((size_t)(b - a->units) ^ ((size_t)1 << order));
        if (buddy->state != FREE || buddy->order != order) break;
        list_remove(&pool->free[order], buddy);
        b->state = buddy->state = INNER;
        if (buddy < b) b = buddy;
    }
    block_free(pool, b, order);
    if (order < a->order) return;
    pool->empty++;
    if (pool->empty > 1) arena_remove(pool, arena_place(pool, a->data));
}

/* ---- pages ---- */

/* Chooses the smallest block of which pages of `bytes` leave at most a part of `over_most` over; else what leaves the
 * least.
 */
static void size_prepare(page_size *size, size_t bytes, double over_most) {
    double least = 1;
    size->bytes = bytes;
    for (int order = 0; order <= TOP_ORDER && least > over_most; order++) {
        const size_t most = MAP_WORDS * 64, fit = order_bytes(order) / bytes, count = fit < most ? fit : most;
        const double over = 1 - (double)(count * bytes) / (double)order_bytes(order);
        if (over < least) {
            least = over;
            size->order = order;
            size->count = (int)count;
        }
    }
}

static size_t round_up(size_t bytes, size_t step) {
    return (bytes + step - 1) / step * step;
}

/* The step of the ladder for `bytes`: multiples of 64 up to 1024, then 16 sizes from a power of two to the next, so
 * that at most a sixteenth is lost. */
static size_t step_of(size_t bytes, size_t *rounded) {
    if (bytes <= 1024) {
        *rounded = round_up(bytes < SMALLEST ? SMALLEST : bytes, LINE);
        return *rounded / LINE - 1;
    }
    const size_t shift = 63 - (size_t)__builtin_clzll(bytes), step = (size_t)1 << (shift - 4);
    *rounded = round_up(bytes, step);
    return 15 + (shift - 10) * 16 + (*rounded - ((size_t)1 << shift)) / step;
}

static page_size *size_for(ml_pool *pool, size_t bytes) {
    for (int i = 0; i < pool->exact_count; i++) {
        if (pool->exact[i].bytes == round_up(bytes, LINE)) return &pool->exact[i];
    }
    size_t rounded;
    page_size *size = &pool->ladder[step_of(bytes, &rounded)];
    if (!size->bytes) size_prepare(size, rounded, 1.0 / 16);
    return size;
}

/* A page of an open block, with the block's bookkeeping. */
static uint8_t *page_take(ml_pool *pool, page_size *size) {
    block *b = size->open;
    if (!b) {
        b = block_take(pool, size->order);
        if (!b) return NULL;
        b->state = CUT;
        b->size = size;
        b->left = size->count;
        for (int w = 0; w < MAP_WORDS; w++) {
            const int bits = size->count - w * 64;
            b->map[w] = bits >= 64 ? ~UINT64_C(0) : bits > 0 ? (UINT64_C(1) << bits) - 1 : 0;
        }
        pool->info.free_pages += (int64_t)((size_t)size->count * size->bytes);
        list_add(&size->open, b);
    }
    int word = 0;
    while (!b->map[word]) word++;
    const int bit = __builtin_ctzll(b->map[word]);
    b->map[word] &= b->map[word] - 1;
    if (--b->left == 0) list_remove(&size->open, b);
    return block_data(b) + (size_t)(word * 64 + bit) * size->bytes;
}

/* The cut block in which `data` lies, or NULL. */
static block *block_find(const ml_pool *pool, const uint8_t *data) {
    const size_t place = arena_place(pool, data);
    if (place == pool->count || data < pool->arenas[place]->data) return NULL;
    arena *a = pool->arenas[place];
    const size_t unit = (size_t)(data - a->data) / UNIT;
    for (int order = 0; order <= a->order; order++) {
        block *b = a->units + (unit >> order << order);
        if (b->state != INNER && b->order == order) return b->state == CUT ? b : NULL;
    }
    return NULL;
}

/* Takes a page back; 0 if it is none, or not taken. */
static int page_give(block *b, const uint8_t *data) {
    page_size *size = b->size;
    const size_t offset = (size_t)(data - block_data(b)), number = offset / size->bytes;
    if (offset % size->bytes || number >= (size_t)size->count) return 0;
    uint64_t *word = &b->map[number / 64];
    const uint64_t bit = UINT64_C(1) << number % 64;
    if (*word & bit) return 0;
    *word |= bit;
    if (b->left++ == 0) list_add(&size->open, b);
    return 1;
}

/* ---- the object ---- */

int ml_pool_create(int64_t budget, ml_pool **out) {
    if (budget < 0) return ml_error(ML_E_ARGUMENT, "a budget is a number of bytes or 0, not %lld", (long long)budget);
    ml_pool *pool = ml_calloc(1, sizeof *pool);
    if (!pool) return ML_E_MEMORY;
    pthread_mutex_init(&pool->lock, NULL);
    pool->next_order = FIRST_ORDER;
    pool->info.budget = budget;
    *out = pool;
    return ML_OK;
}

void ml_pool_free(ml_pool *pool) {
    if (!pool) return;
    for (size_t i = 0; i < pool->count; i++) {
        arena *a = pool->arenas[i];
        unlock_area(a->data, order_bytes(a->order));
        munmap(a->data, order_bytes(a->order));
        free(a);
    }
    ml_memory_note(ML_MEMORY_CACHE, -pool->info.reserved);
    free(pool->arenas);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int ml_pool_budget(ml_pool *pool, int64_t budget) {
    if (budget < 0) return ml_error(ML_E_ARGUMENT, "a budget is a number of bytes or 0, not %lld", (long long)budget);
    pthread_mutex_lock(&pool->lock);
    pool->info.budget = budget;
    pthread_mutex_unlock(&pool->lock);
    return ML_OK;
}

static int check_bytes(int64_t bytes) {
    if (bytes >= 1 && bytes <= (int64_t)order_bytes(TOP_ORDER)) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "a pool gives 1 to %zu bytes, not %lld", order_bytes(TOP_ORDER), (long long)bytes);
}

int ml_pool_size(ml_pool *pool, int64_t bytes) {
    int status = check_bytes(bytes);
    if (status != ML_OK) return status;
    const size_t rounded = round_up(bytes < SMALLEST ? SMALLEST : (size_t)bytes, LINE);
    pthread_mutex_lock(&pool->lock);
    if (size_for(pool, rounded)->bytes != rounded) {
        if (pool->exact_count < EXACT) {
            size_prepare(&pool->exact[pool->exact_count++], rounded, 1.0 / 64);
        } else {
            status = ml_error(ML_E_ARGUMENT, "a pool has %d page sizes at most", EXACT);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

int ml_pool_take(ml_pool *pool, int64_t bytes, void **out) {
    int status = check_bytes(bytes);
    if (status != ML_OK) return status;
    pthread_mutex_lock(&pool->lock);
    page_size *size = size_for(pool, (size_t)bytes);
    uint8_t *data = page_take(pool, size);
    if (data) {
        ml_pool_info *info = &pool->info;
        info->free_pages -= (int64_t)size->bytes;
        info->used += bytes;
        info->pieces++;
        if (info->used > info->used_peak) info->used_peak = info->used;
        unlock_area(data, (size_t)bytes);
        *out = data;
    }
    pthread_mutex_unlock(&pool->lock);
    return data ? ML_OK : ML_E_MEMORY;
}

int ml_pool_give(ml_pool *pool, void *data, int64_t bytes) {
    if (!data) return ML_OK;
    int status = ML_OK;
    pthread_mutex_lock(&pool->lock);
    block *b = block_find(pool, data);
    if (!b || bytes < 1 || bytes > (int64_t)b->size->bytes || !page_give(b, data)) {
        status = ml_error(ML_E_ARGUMENT, "%lld bytes given to a pool that has not given them out", (long long)bytes);
    } else {
        page_size *size = b->size;
        lock_area(data, size->bytes);
        pool->info.free_pages += (int64_t)size->bytes;
        pool->info.used -= bytes;
        pool->info.pieces--;
        if (b->left == size->count) { /* nothing of the block is taken any more */
            pool->info.free_pages -= (int64_t)((size_t)size->count * size->bytes);
            list_remove(&size->open, b);
            block_give(pool, b);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void ml_pool_trim(ml_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    trim(pool);
    pthread_mutex_unlock(&pool->lock);
}

void ml_pool_stats(ml_pool *pool, ml_pool_info *out) {
    pthread_mutex_lock(&pool->lock);
    *out = pool->info;
    for (int order = TOP_ORDER; order >= 0 && !out->largest_block; order--) {
        if (pool->free[order]) out->largest_block = (int64_t)order_bytes(order);
    }
    pthread_mutex_unlock(&pool->lock);
    out->lost = out->reserved - out->used - out->free_pages - out->free_blocks;
    out->fragmentation = out->reserved ? 1 - (double)out->used / (double)out->reserved : 0;
}
