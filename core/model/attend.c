/* Attention of the rows of a batch to the cache, with sinks and windows, on all threads. */
#include "model/attend.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/kernels.h"
#include "kv/stream.h"
#include "model/attend_state.h"

#include <string.h>

/* Floats of the queries of a row that share a KV head. */
static int64_t group_floats(const ml_config *c) {
    return (int64_t)(c->heads / c->kv_heads) * c->head_dim;
}

/* They; those of the next head follow. */
static const float *queries_of(const ml_attention *work, int64_t row, int64_t head) {
    return work->batch->q + (row * work->shape.kv_heads + head) * group_floats(&work->shape);
}

/* The queries of a row and KV head in whole numbers, {kv_heads, capacity, group}: those of neighbouring rows follow. */
static uint8_t *whole_queries(const ml_attention *work, int64_t row, int64_t head) {
    const ml_batch *b = work->batch;
    const ml_config *c = &work->shape;
    return b->queries + (head * b->capacity + row) * (c->heads / c->kv_heads) * ml_query_bytes(c->head_dim);
}

/* Makes them, for quantised pages. Items are (row, head). */
static void quantize_queries(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    float *q = ml_scratch(thread);
    for (int64_t i = begin; i < end; i++) {
        uint8_t *out = whole_queries(work, i / c->kv_heads, i % c->kv_heads);
        memcpy(q, queries_of(work, i / c->kv_heads, i % c->kv_heads), (size_t)group_floats(c) * sizeof *q);
        for (int64_t h = 0; h < c->heads / c->kv_heads; h++) {
            if (work->cache->rotated) ml_rotate(q + h * c->head_dim, c->head_dim);
            ml_query_quantize(q + h * c->head_dim, c->head_dim, out + h * ml_query_bytes(c->head_dim));
        }
    }
}

/* ---- order ----
 *
 * The order of the sums of a row is fixed by positions alone: chunks of CHUNK tokens are walked page by page, each from
 * an empty state, and their states merged in ascending order. Whether one thread does all of that or many share the
 * chunks, and which rows form a tile and which heads a block, changes nothing in the result. */

enum {
    CHUNK = 1024,                            /* tokens */
    PIECE = ML_PIECE_PAGES * ML_PAGE_TOKENS, /* tokens of a chunk that are streamed at once */
    TILE_QUERIES = 128, /* that a page is read for: enough that it is read seldom, few enough for the caches */
    SHARE_BELOW = 64,   /* with fewer (tile, head) pairs than this, threads share chunks */
    PART_ROWS = 512,    /* partial results of rows that there is room for */
    THREAD_ITEMS = 16,  /* that a thread has at least: so many that all threads end at about the same time */
    AHEAD = 2,          /* calls of a kernel: where what it asks for meanwhile is read */
    FAR = 8             /* pages: where a descriptor that is asked for is read */
};

/* The rows of a tile and some KV heads of theirs. */
typedef struct attend_item {
    const ml_tile *tile;
    int32_t head, heads;
} attend_item;

static attend_item item_of(const ml_attention *work, const ml_tile *tile, int64_t block) {
    const int32_t head = (int32_t)block * work->block, left = work->shape.kv_heads - head;
    return (attend_item){tile, head, left < work->block ? left : work->block};
}

static int64_t tile_rows(const ml_config *c) {
    return group_of(c) < TILE_QUERIES ? TILE_QUERIES / group_of(c) : 1;
}

int64_t ml_attention_parts(const ml_config *c) {
    return state_floats(c, PART_ROWS) * c->kv_heads;
}

/* Of one thread. */
typedef struct attend_scratch {
    float *area, *q, *state, *total; /* of the kernel; {rows, group, head_dim}; of a chunk; of all chunks */
    int32_t *from, *to;              /* {rows} */
} attend_scratch;

static int64_t area_floats(const ml_config *c) {
    return 2 * (int64_t)c->head_dim * ML_PAGE_TOKENS;
}

static int64_t query_floats(const ml_config *c) {
    return tile_rows(c) * group_of(c) * c->head_dim;
}

size_t ml_attention_scratch(const ml_config *c) {
    const int64_t states = 2 * state_floats(c, tile_rows(c)), ranges = 2 * tile_rows(c);
    return (size_t)(area_floats(c) + query_floats(c) + states + ranges) * sizeof(float);
}

static attend_scratch scratch_of(const ml_attention *work, int thread) {
    const ml_config *c = &work->batch->model->config;
    attend_scratch s = {.area = ml_scratch(thread)};
    s.q = s.area + area_floats(c);
    s.state = s.q + query_floats(c);
    s.total = s.state + state_floats(c, tile_rows(c));
    s.from = (int32_t *)(void *)(s.total + state_floats(c, tile_rows(c)));
    s.to = s.from + tile_rows(c);
    return s;
}

static void finish_tile(const ml_attention *work, const ml_tile *tile, int32_t head, attend_state total) {
    const ml_batch *b = work->batch;
    const ml_config *c = &work->shape;
    const float *sinks = b->model->layers[work->layer].sinks;
    const int64_t n = c->head_dim, group = group_of(c);
    for (int64_t i = 0; i < total.queries; i++) {
        const int64_t query = head * group + i % group;
        finish_query(total.acc + i * n, n, total.top[i], total.sum[i], sinks ? &sinks[query] : NULL,
                     b->attended + ((tile->row + i / group) * c->heads + query) * n);
    }
}

/* The queries of an item, {heads, rows, group, head_dim}; `room` is for those of several rows. */
static const float *gather_queries(const ml_attention *work, attend_item item, float *room) {
    const int64_t n = group_floats(&work->shape), rows = item.tile->rows;
    if (rows == 1) return queries_of(work, item.tile->row, item.head);
    for (int64_t i = 0; i < item.heads * rows; i++) {
        memcpy(room + i * n, queries_of(work, item.tile->row + i % rows, item.head + i / rows),
               (size_t)n * sizeof *room);
    }
    return room;
}

static int64_t clamp(int64_t x, int64_t most) {
    return x < 0 ? 0 : x > most ? most : x;
}

/* 1 if a row of the batch reads a quantised page. */
static int reads_warm(const ml_attention *work) {
    const ml_cache *cache = work->cache;
    for (int64_t r = 0; cache->warm_pages > 0 && r < work->batch->active_rows; r++) {
        const ml_row *row = &work->batch->row[r];
        const ml_sequence *sequence = &cache->sequences[row->sequence];
        const int64_t first = ml_attention_first_seen(work, row->position);
        for (int64_t t = first - first % ML_PAGE_TOKENS; t <= row->position; t += ML_PAGE_TOKENS) {
            if (!ml_cache_page(cache, sequence, work->layer, t)->format->plain) return 1;
        }
    }
    return 0;
}

/* The KV head of the pages that one of `shape` reads. */
static int32_t page_head(const ml_attention *work, int32_t head) {
    const int32_t heads = work->shape.kv_heads, stored = work->batch->model->config.kv_heads;
    return heads == stored ? head : head / (heads / stored);
}

/* Finds where a page lies before its lines are asked for. A prefetch of an address whose translation is not known waits
 * for it, as does all behind it; a quantised page is read so fast that it pays to let its translations be looked up all
 * at once (of attention with 4 bits, 4 %). */
static void touch_page(const ml_page *page) {
    enum { STEP = 4096 };
    const int64_t end = page->format->plain ? STEP : page->format->bytes;
    for (int64_t at = 0; at < end; at += STEP) __builtin_prefetch(page->data + at);
}

/* Lets a kernel ask for what it reads in the item's call number `call` of this page, or of the next. */
static void ask_call(const ml_attention *work, attend_item item, int32_t call, const ml_page *page, const ml_page *next,
                     ml_attend *here) {
    for (; call >= item.heads; call -= item.heads) page = next;
    const int32_t head = page_head(work, item.head + call);
    here->next_keys = ml_page_side(page->format, page->data, head, 0);
    here->next_values = ml_page_side(page->format, page->data, head, 1);
}

/* Adds a page to the states of an item, head by head: page by page, memory is read as one stream. `next` is what comes
 * after it. `here` has what all pages have in common, and the ranges of this one; nothing of it is copied, since what
 * was just written in parts is slow to be read as a whole. What is read AHEAD calls later is asked for: a single one
 * may be over before memory has answered. */
static void attend_page(const ml_attention *work, attend_item item, const ml_page *page, const ml_page *next,
                        const float *q, ml_attend *here, float *states) {
    const ml_kernels *kernels = ml_kernels_get();
    const int prefetch = ml_tuned(ML_TUNING_PREFETCH);
    if (prefetch) touch_page(next);
    for (int32_t h = 0; h < item.heads; h++) {
        const attend_state state =
            state_of(&work->shape, here->rows, states + h * state_floats(&work->shape, here->rows));
        ml_page_show(page->format, page->data, page_head(work, item.head + h), here);
        here->next_keys = here->keys;
        here->next_values = here->values;
        if (prefetch) ask_call(work, item, h + AHEAD, page, next, here);
        here->q = q + h * state.queries * here->head_dim;
        here->whole = whole_queries(work, item.tile->row, item.head + h);
        here->top = state.top;
        here->sum = state.sum;
        here->acc = state.acc;
        if (here->key_bits == 16 && here->value_bits == 16) {
            kernels->attend(here);
        } else {
            kernels->attend_warm(here);
        }
    }
}

/* Asks for the descriptor of a page that comes into turn FAR pages later, and for the pointer to a later one: both are
 * far apart in memory, and the one is found through the other. */
static void ask_page(const ml_attention *work, const ml_sequence *sequence, int64_t position, int64_t end) {
    const int64_t far = position + FAR * ML_PAGE_TOKENS, farther = far + FAR * ML_PAGE_TOKENS;
    if (far < end) __builtin_prefetch(ml_cache_page(work->cache, sequence, work->layer, far));
    if (farther < end) __builtin_prefetch(ml_cache_place(work->cache, sequence, work->layer, farther));
}

/* What an item reads of the cache, each token for each row that sees it; and pages by the level that they lie at. */
typedef struct attend_reads {
    int64_t bytes, hits[ML_LEVELS];
} attend_reads;

/* Once for all items of a tile and its pages. */
static void count_reads(const ml_attention *work, const attend_reads *reads) {
    ml_traffic *traffic = ml_cache_traffic(work->cache, work->layer, 0);
    __atomic_fetch_add(&work->batch->work.cache_bytes, reads->bytes, __ATOMIC_RELAXED);
    for (int level = 0; level < ML_LEVELS; level++) {
        if (reads->hits[level]) __atomic_fetch_add(&traffic[level].hits, reads->hits[level], __ATOMIC_RELAXED);
    }
}

/* Adds the tokens [begin, end) to `states`, one a head; at most a chunk. */
static void attend_tokens(const ml_attention *work, attend_item item, int64_t begin, int64_t end, const float *q,
                          const attend_scratch *s, float *states) {
    const ml_cache *cache = work->cache;
    const ml_config *c = &work->shape;
    const ml_row *row = &work->batch->row[item.tile->row];
    const ml_sequence *sequence = &cache->sequences[row->sequence];
    const int64_t rows = item.tile->rows, seen = ml_attention_first_seen(work, row->position),
                  after = row->position + rows;
    const int64_t last = end < after ? end : after, first = (seen > begin ? seen : begin) / ML_PAGE_TOKENS;
    const int64_t pages = (last - 1) / ML_PAGE_TOKENS + 1 - first;
    const ml_page *page[CHUNK / ML_PAGE_TOKENS + 1]; /* all found together, so that the misses overlap */
    for (int64_t p = 0; p < pages; p++) {
        page[p] = ml_cache_page(cache, sequence, work->layer, (first + p) * ML_PAGE_TOKENS);
        __builtin_prefetch(page[p]);
    }
    page[pages] = last < after ? ml_cache_page(cache, sequence, work->layer, last) : page[pages - 1];
    if (!page[pages]->data) page[pages] = page[pages - 1]; /* the span ends here */
    attend_reads reads = {0};
    ml_attend here = {.rows = rows, .group = group_of(c), .head_dim = c->head_dim};
    here.from = s->from;
    here.to = s->to;
    here.area = s->area;
    for (int64_t p = 0; p < pages; p++) {
        const int64_t t = (first + p) * ML_PAGE_TOKENS;
        ask_page(work, sequence, t, after);
        int64_t tokens = 0;
        for (int64_t r = 0; r < rows; r++) {
            s->from[r] = (int32_t)clamp(ml_attention_first_seen(work, row->position + r) - t, ML_PAGE_TOKENS);
            s->to[r] = (int32_t)clamp(row->position + r + 1 - t, ML_PAGE_TOKENS);
            if (s->to[r] > s->from[r]) tokens += s->to[r] - s->from[r];
        }
        attend_page(work, item, page[p], page[p + 1], q, &here, states);
        reads.bytes += tokens * page[p]->format->bytes / ML_PAGE_TOKENS;
        reads.hits[ml_page_level(page[p])]++;
    }
    if (item.head == 0) count_reads(work, &reads);
}

static void begin_states(const ml_attention *work, attend_item item, float *states) {
    const ml_config *c = &work->shape;
    for (int32_t h = 0; h < item.heads; h++) {
        state_begin(c, item.tile->rows, states + h * state_floats(c, item.tile->rows));
    }
}

/* Adds the states of a chunk, one a head, to those of all chunks before. */
static void merge_states(const ml_attention *work, attend_item item, float *totals, float *states) {
    const ml_config *c = &work->shape;
    const int64_t rows = item.tile->rows, floats = state_floats(c, rows);
    for (int32_t h = 0; h < item.heads; h++) {
        state_merge(state_of(c, rows, totals + h * floats), state_of(c, rows, states + h * floats), c->head_dim);
    }
}

/* The states of one chunk. */
static void attend_chunk(const ml_attention *work, attend_item item, int64_t chunk, const float *q,
                         const attend_scratch *s, float *states) {
    begin_states(work, item, states);
    attend_tokens(work, item, chunk * CHUNK, (chunk + 1) * CHUNK, q, s, states);
}

/* Items are (block of heads, tile), the tiles that see most first. */
static void attend_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    const attend_scratch s = scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[work->tiles - 1 - i % work->tiles];
        const attend_item item = item_of(work, tile, i / work->tiles);
        const int64_t floats = state_floats(c, tile->rows);
        const float *q = gather_queries(work, item, s.q);
        begin_states(work, item, s.total);
        for (int64_t chunk = tile->chunk; chunk < tile->chunk + tile->chunks; chunk++) {
            attend_chunk(work, item, chunk, q, &s, s.state);
            merge_states(work, item, s.total, s.state);
        }
        for (int32_t h = 0; h < item.heads; h++) {
            finish_tile(work, tile, item.head + h, state_of(c, tile->rows, s.total + h * floats));
        }
    }
}

/* Where the partial result of a tile's chunk lies; they come by tile, chunk and head. */
static float *part_at(const ml_attention *work, const ml_tile *tile, int32_t head, int64_t chunk) {
    const int64_t part = tile->part + (chunk - tile->chunk) * tile->rows;
    return work->batch->parts + state_floats(&work->shape, part * work->shape.kv_heads + head * tile->rows);
}

/* Items are (tile, chunk, block of heads): neighbours read neighbouring memory. */
static void attend_shared(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const attend_scratch s = scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[work->tiles - 1];
        while (tile->item > i / work->blocks) tile--;
        const attend_item item = item_of(work, tile, i % work->blocks);
        const int64_t chunk = tile->chunk + i / work->blocks - tile->item;
        const float *q = gather_queries(work, item, s.q);
        attend_chunk(work, item, chunk, q, &s, part_at(work, tile, item.head, chunk));
    }
}

/* Asks for the floats at `x`. */
static void ask_floats(const float *x, int64_t n) {
    const int64_t line = 64 / (int64_t)sizeof *x;
    for (int64_t i = 0; i < n; i += line) __builtin_prefetch(x + i);
}

/* Items are (head, tile). */
static void merge_shared(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    const attend_scratch s = scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[i % work->tiles];
        const int32_t head = (int32_t)(i / work->tiles);
        const attend_state total = state_begin(c, tile->rows, s.total);
        const int64_t last = tile->chunk + tile->chunks - 1;
        for (int64_t chunk = tile->chunk; chunk <= last; chunk++) {
            const int64_t next = chunk < last ? chunk + 1 : last;
            ask_floats(part_at(work, tile, head, next), state_floats(c, tile->rows));
            state_merge(total, state_of(c, tile->rows, part_at(work, tile, head, chunk)), c->head_dim);
        }
        finish_tile(work, tile, head, total);
    }
}

/* Cuts the rows of the batch into tiles. */
static void make_tiles(ml_attention *work) {
    ml_batch *b = work->batch;
    const int64_t most = ml_tuned(ML_TUNING_FLASH) ? tile_rows(&b->model->config) : 1;
    work->tiles = work->items = work->parts = 0;
    for (int64_t r = 0; r < b->active_rows;) {
        const ml_row *row = &b->row[r];
        int64_t rows = 1;
        while (rows < most && r + rows < b->active_rows && row[rows].sequence == row->sequence &&
               row[rows].position == row->position + rows) {
            rows++;
        }
        const int64_t chunk = ml_attention_first_seen(work, row->position) / CHUNK;
        const int64_t chunks = (row->position + rows - 1) / CHUNK + 1 - chunk;
        b->tiles[work->tiles++] =
            (ml_tile){(int32_t)r, (int32_t)rows, (int32_t)chunk, (int32_t)chunks, work->items, work->parts};
        work->items += chunks;
        work->parts += chunks * rows;
        r += rows;
    }
}

/* The most heads of which all queries fit a tile, but so few that no item is more than its part of the work: of `all`
 * chunks `longest` make an item. */
static void choose_block(ml_attention *work, int64_t longest, int64_t all) {
    const ml_config *c = &work->shape, *model = &work->batch->model->config;
    int64_t rows = 1;
    for (int64_t i = 0; i < work->tiles; i++) {
        if (work->batch->tiles[i].rows > rows) rows = work->batch->tiles[i].rows;
    }
    int64_t block = tile_rows(model) * group_of(model) / (rows * group_of(c));
    if (block > c->kv_heads) block = c->kv_heads;
    while (block > 1 && longest * block * THREAD_ITEMS * ml_threads_count() > all * c->kv_heads) block /= 2;
    work->block = block > 1 ? (int32_t)block : 1;
    work->blocks = (c->kv_heads + work->block - 1) / work->block;
}

static void attend_batch(ml_attention *work) {
    const int few = work->tiles * work->batch->model->config.kv_heads < SHARE_BELOW;
    if (ml_tuned(ML_TUNING_SHARE) && few && work->items > work->tiles && work->parts <= PART_ROWS) {
        choose_block(work, 1, work->items);
        ml_parallel(work->items * work->blocks, 1, attend_shared, work);
        ml_parallel(work->tiles * work->shape.kv_heads, 1, merge_shared, work);
    } else {
        int64_t longest = 0;
        for (int64_t i = 0; i < work->tiles; i++) {
            if (work->batch->tiles[i].chunks > longest) longest = work->batch->tiles[i].chunks;
        }
        choose_block(work, longest, work->items);
        ml_parallel(work->tiles * work->blocks, 1, attend_tiles, work);
    }
}

/* ---- streaming: where pages are not in memory, spans of them pass through, unpacked while the span before is read
 * ----
 *
 * A span is some pieces of chunks. The states of the rows wait in batch->totals from span to span: those of all chunks
 * before, and those of the chunk that the span may end within. All is summed in the same order as ever. */

/* Tiles of one sequence, one after the other, and the pieces that they see. */
typedef struct attend_group {
    int64_t tile, tiles, piece, end;
} attend_group;

typedef struct attend_span {
    const ml_attention *work;
    attend_group group;
    int64_t piece, end;
} attend_span;

/* 1 if a tile of the batch sees a page that is not in memory. */
static int misses_pages(const ml_attention *work) {
    const ml_cache *cache = work->cache;
    for (int64_t i = 0; cache->absent_pages[work->layer] > 0 && i < work->tiles; i++) {
        const ml_tile *tile = &work->batch->tiles[i];
        const ml_row *row = &work->batch->row[tile->row];
        const int64_t first = ml_attention_first_seen(work, row->position);
        for (int64_t t = first - first % ML_PAGE_TOKENS; t < row->position + tile->rows; t += ML_PAGE_TOKENS) {
            if (!ml_cache_page(cache, &cache->sequences[row->sequence], work->layer, t)->data) return 1;
        }
    }
    return 0;
}

/* What waits of a tile and its heads from `head` on: the states of all chunks before (0), of the one under way (1). */
static float *waiting(const ml_attention *work, const ml_tile *tile, int64_t head, int which) {
    const ml_config *c = &work->shape;
    return work->batch->totals + state_floats(c, which * work->batch->active_rows + tile->row) * c->kv_heads +
           head * state_floats(c, tile->rows);
}

static int begin_waiting(const ml_attention *work) {
    ml_batch *b = work->batch;
    const ml_config *c = &work->shape;
    const size_t before = b->totals_capacity, wanted = (size_t)(2 * state_floats(c, b->active_rows) * c->kv_heads);
    void *block = b->totals;
    int status = ml_grow(&block, &b->totals_capacity, wanted, sizeof(float));
    b->totals = block;
    ml_memory_note(ML_MEMORY_ACTIVATIONS, (int64_t)((b->totals_capacity - before) * sizeof(float)));
    for (int64_t i = 0; status == ML_OK && i < work->tiles; i++) {
        begin_states(work, (attend_item){&b->tiles[i], 0, c->kv_heads}, waiting(work, &b->tiles[i], 0, 0));
    }
    return status;
}

/* The first piece that a tile sees, and the one after its last. */
static int64_t first_piece(const ml_attention *work, const ml_tile *tile) {
    return ml_attention_first_seen(work, work->batch->row[tile->row].position) / PIECE;
}
static int64_t end_piece(const ml_attention *work, const ml_tile *tile) {
    return (work->batch->row[tile->row].position + tile->rows - 1) / PIECE + 1;
}

static void add_piece(const ml_attention *work, attend_item item, int64_t piece, const float *q,
                      const attend_scratch *s) {
    enum { PIECES = CHUNK / PIECE };
    float *states = waiting(work, item.tile, item.head, 1);
    if (piece % PIECES == 0 || piece == first_piece(work, item.tile)) begin_states(work, item, states);
    attend_tokens(work, item, piece * PIECE, (piece + 1) * PIECE, q, s, states);
    if ((piece + 1) % PIECES == 0 || piece + 1 == end_piece(work, item.tile)) {
        merge_states(work, item, waiting(work, item.tile, item.head, 0), states);
    }
}

/* Items are (block of heads, tile of the group). */
static void attend_span_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const attend_span *span = arg;
    const ml_attention *work = span->work;
    const attend_scratch s = scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[span->group.tile + span->group.tiles - 1 - i % span->group.tiles];
        const attend_item item = item_of(work, tile, i / span->group.tiles);
        const float *q = gather_queries(work, item, s.q);
        const int64_t first = first_piece(work, tile), last = end_piece(work, tile);
        for (int64_t piece = first > span->piece ? first : span->piece; piece < span->end && piece < last; piece++) {
            add_piece(work, item, piece, q, &s);
        }
    }
}

/* Items are (head, tile). */
static void finish_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const ml_attention *work = arg;
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[i % work->tiles];
        const int32_t head = (int32_t)(i / work->tiles);
        finish_tile(work, tile, head, state_of(&work->shape, tile->rows, waiting(work, tile, head, 0)));
    }
}

/* The group that begins at a tile; empty after the last. */
static attend_group group_at(const ml_attention *work, int64_t tile) {
    const ml_batch *b = work->batch;
    attend_group group = {.tile = tile};
    for (; tile < work->tiles && b->row[b->tiles[tile].row].sequence == b->row[b->tiles[group.tile].row].sequence;
         tile++) {
        if (group.tiles++ == 0) group.piece = first_piece(work, &b->tiles[tile]);
        group.end = end_piece(work, &b->tiles[tile]);
    }
    return group;
}

/* Pages of the pieces from `piece` on that one span holds. */
static ml_span pages_of(const ml_attention *work, const attend_group *group, int32_t layer, int64_t piece) {
    if (group->tiles == 0) return (ml_span){0};
    const ml_batch *b = work->batch;
    const ml_tile *last = &b->tiles[group->tile + group->tiles - 1];
    const int64_t most = (b->row[last->row].position + last->rows - 1) / ML_PAGE_TOKENS + 1,
                  end = piece * PIECE / ML_PAGE_TOKENS + ml_stream_pages(work->cache);
    /* A piece may begin before the window: those pages are not read. */
    const ml_attention there = {.cache = work->cache, .batch = work->batch, .layer = layer};
    const int64_t seen = ml_attention_first_seen(&there, b->row[b->tiles[group->tile].row].position) / ML_PAGE_TOKENS,
                  first = piece * PIECE / ML_PAGE_TOKENS;
    return (ml_span){layer, b->row[last->row].sequence, first > seen ? first : seen, end < most ? end : most};
}

/* Where reading begins in the next layer. */
static ml_span next_layer(const ml_attention *work, const attend_group *group) {
    const ml_attention next = {.cache = work->cache, .batch = work->batch, .layer = work->layer + 1};
    if (next.layer == work->batch->model->config.layers) return (ml_span){0};
    const int64_t seen = ml_attention_first_seen(&next, work->batch->row[0].position);
    return pages_of(work, group, next.layer, seen / PIECE);
}

static int attend_streamed(ml_attention *work) {
    const int64_t heads = work->shape.kv_heads, step = ml_stream_pages(work->cache) * ML_PAGE_TOKENS / PIECE;
    const attend_group first = group_at(work, 0);
    int status = begin_waiting(work);
    attend_group group = first, after;
    for (; status == ML_OK && group.tiles > 0; group = after) {
        after = group_at(work, group.tile + group.tiles);
        for (int64_t piece = group.piece; status == ML_OK && piece < group.end; piece += step) {
            const ml_span now = pages_of(work, &group, work->layer, piece);
            const ml_span next = piece + step < group.end ? pages_of(work, &group, work->layer, piece + step)
                                 : after.tiles > 0        ? pages_of(work, &after, work->layer, after.piece)
                                                          : next_layer(work, &first);
            status = ml_stream_take(work->cache, &now, &next);
            if (status != ML_OK) break;
            attend_span span = {work, group, piece, piece + step};
            choose_block(work, 1, group.tiles);
            ml_parallel(group.tiles * work->blocks, 1, attend_span_tiles, &span);
            ml_stream_done(work->cache);
        }
    }
    if (status == ML_OK) ml_parallel(work->tiles * heads, 1, finish_tiles, work);
    return status;
}

int ml_attention_run(ml_attention *work) {
    const int64_t pairs = work->batch->active_rows * work->shape.kv_heads;
    if (reads_warm(work)) ml_parallel(pairs, 4, quantize_queries, work);
    make_tiles(work);
    if (misses_pages(work)) return attend_streamed(work);
    attend_batch(work);
    return ML_OK;
}
