/* Attention of one tile: the rows of a batch that read pages together, and some KV heads of theirs. */
#include "model/attend.h"

#include "base/memory.h"
#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/kernels.h"
#include "kv/pass.h"
#include "kv/policy.h"

#include <string.h>

enum {
    AHEAD = 2, /* calls of a kernel: where what it asks for meanwhile is read */
    FAR = 8    /* pages: where a descriptor that is asked for is read */
};

/* ---- queries ---- */

/* Floats of the queries of a row that share a KV head. */
static int64_t group_floats(const ml_config *c) {
    return (int64_t)(c->heads / c->kv_heads) * c->head_dim;
}

/* The queries of a row and KV head; those of the next head follow. */
static const float *queries_of(const ml_attention *work, int64_t row, int64_t head) {
    return work->batch->q + (row * work->shape.kv_heads + head) * group_floats(&work->shape);
}

/* The queries of a row and KV head in integers, {kv_heads, capacity, group}: those of neighbouring rows follow. */
static uint8_t *integer_queries(const ml_attention *work, int64_t row, int64_t head) {
    const ml_batch *b = work->batch;
    const ml_config *c = &work->shape;
    return b->queries + (head * b->capacity + row) * (c->heads / c->kv_heads) * ml_query_bytes(c->head_dim);
}

/* Makes the queries in integers. Items are (row, head). */
static void quantize_queries(void *arg, int64_t begin, int64_t end, int thread) {
    const ml_attention *work = arg;
    const ml_config *c = &work->shape;
    float *q = ml_scratch(thread);
    for (int64_t i = begin; i < end; i++) {
        uint8_t *out = integer_queries(work, i / c->kv_heads, i % c->kv_heads);
        memcpy(q, queries_of(work, i / c->kv_heads, i % c->kv_heads), (size_t)group_floats(c) * sizeof *q);
        for (int64_t h = 0; h < c->heads / c->kv_heads; h++) {
            if (ml_policy_rotated(work->cache)) ml_rotate(q + h * c->head_dim, c->head_dim);
            ml_query_quantize(q + h * c->head_dim, c->head_dim, out + h * ml_query_bytes(c->head_dim));
        }
    }
}

void ml_attend_prepare(ml_attention *work) {
    const ml_batch *b = work->batch;
    int quantised = 0;
    for (int64_t r = 0; r < b->active_rows && !quantised; r++) {
        const ml_row *row = &b->row[r];
        quantised = ml_sequence_quantised(work->cache, ml_pass_sequence(work->cache, row->sequence), work->layer,
                                          ml_attention_first_seen(work, row->position), row->position + 1);
    }
    if (quantised) ml_parallel(b->active_rows * work->shape.kv_heads, 4, quantize_queries, work);
}

const float *ml_attend_queries(const ml_attention *work, ml_attend_item item, float *room) {
    const int64_t n = group_floats(&work->shape), rows = item.tile->rows;
    if (rows == 1) return queries_of(work, item.tile->row, item.head);
    for (int64_t i = 0; i < item.heads * rows; i++) {
        memcpy(room + i * n, queries_of(work, item.tile->row + i % rows, item.head + i / rows),
               (size_t)n * sizeof *room);
    }
    return room;
}

/* ---- states ---- */

ml_attend_scratch ml_attend_scratch_of(const ml_attention *work, int thread) {
    const ml_config *c = &work->batch->model->config;
    ml_attend_scratch s = {.area = ml_scratch(thread)};
    s.q = s.area + area_floats(c);
    s.state = s.q + query_floats(c);
    s.total = s.state + state_floats(c, tile_rows(c));
    s.from = (int32_t *)(void *)(s.total + state_floats(c, tile_rows(c)));
    s.to = s.from + tile_rows(c);
    return s;
}

void ml_attend_finish(const ml_attention *work, const ml_tile *tile, int32_t head, attend_state total) {
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

void ml_attend_begin(const ml_attention *work, ml_attend_item item, float *states) {
    const ml_config *c = &work->shape;
    for (int32_t h = 0; h < item.heads; h++) {
        state_begin(c, item.tile->rows, states + h * state_floats(c, item.tile->rows));
    }
}

void ml_attend_merge(const ml_attention *work, ml_attend_item item, float *totals, float *states) {
    const ml_config *c = &work->shape;
    const int64_t rows = item.tile->rows, floats = state_floats(c, rows);
    for (int32_t h = 0; h < item.heads; h++) {
        state_merge(state_of(c, rows, totals + h * floats), state_of(c, rows, states + h * floats), c->head_dim);
    }
}

/* ---- pages ---- */

static int64_t clamp(int64_t x, int64_t most) {
    return x < 0 ? 0 : x > most ? most : x;
}

/* The KV head of the pages that one of `shape` reads. */
static int32_t page_head(const ml_attention *work, int32_t head) {
    const int32_t heads = work->shape.kv_heads, stored = work->batch->model->config.kv_heads;
    return heads == stored ? head : head / (heads / stored);
}

/* Lets a kernel ask for what it reads in the item's call number `call` of this page, or of the next. */
static void ask_call(const ml_attention *work, ml_attend_item item, int32_t call, const ml_page *page,
                     const ml_page *next, ml_attend *here) {
    for (; call >= item.heads; call -= item.heads) page = next;
    const int32_t head = page_head(work, item.head + call);
    here->next_keys = ml_page_lines(page, head, 0);
    here->next_values = ml_page_lines(page, head, 1);
}

/* Adds a page to the states of an item, head by head: page by page, memory is read as one stream. `next` is what comes
 * after it. `here` has what all pages have in common, and the ranges of this one; nothing of it is copied, since what
 * was just written in parts is slow to be read as a whole. What is read AHEAD calls later is asked for: a single one
 * may be over before memory has answered. */
static void attend_page(const ml_attention *work, ml_attend_item item, const ml_page *page, const ml_page *next,
                        const float *q, ml_attend *here, float *states) {
    const ml_kernels *kernels = ml_kernels_get();
    const int prefetch = ml_tuned(ML_TUNING_PREFETCH);
    if (prefetch) ml_page_touch(next);
    for (int32_t h = 0; h < item.heads; h++) {
        const attend_state state =
            state_of(&work->shape, here->rows, states + h * state_floats(&work->shape, here->rows));
        ml_page_read(page, page_head(work, item.head + h), here);
        here->next_keys = here->keys;
        here->next_values = here->values;
        if (prefetch) ask_call(work, item, h + AHEAD, page, next, here);
        here->q = q + h * state.queries * here->head_dim;
        here->integers = integer_queries(work, item.tile->row, item.head + h);
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
    if (far < end) __builtin_prefetch(ml_sequence_page(work->cache, sequence, work->layer, far));
    if (farther < end) __builtin_prefetch(ml_sequence_slot(work->cache, sequence, work->layer, farther));
}

/* What an item reads of the cache, each token for each row that sees it; and pages by the level that they lie at. */
typedef struct attend_reads {
    int64_t bytes, hits[ML_LEVELS];
} attend_reads;

/* Once for all items of a tile and its pages. */
static void count_reads(const ml_attention *work, const attend_reads *reads) {
    ml_traffic *traffic = ml_page_traffic(work->cache, work->layer, 0);
    __atomic_fetch_add(&work->batch->work.cache_bytes, reads->bytes, __ATOMIC_RELAXED);
    for (int level = 0; level < ML_LEVELS; level++) {
        if (reads->hits[level]) __atomic_fetch_add(&traffic[level].hits, reads->hits[level], __ATOMIC_RELAXED);
    }
}

void ml_attend_tokens(const ml_attention *work, ml_attend_item item, int64_t begin, int64_t end, const float *q,
                      const ml_attend_scratch *s, float *states) {
    const ml_cache *cache = work->cache;
    const ml_config *c = &work->shape;
    const ml_row *row = &work->batch->row[item.tile->row];
    const ml_sequence *sequence = ml_pass_sequence(work->cache, row->sequence);
    const int64_t rows = item.tile->rows, seen = ml_attention_first_seen(work, row->position),
                  after = row->position + rows;
    const int64_t last = end < after ? end : after, first = (seen > begin ? seen : begin) / ML_PAGE_TOKENS;
    const int64_t pages = (last - 1) / ML_PAGE_TOKENS + 1 - first;
    const ml_page *page[ML_CHUNK_TOKENS / ML_PAGE_TOKENS + 1]; /* all found together, so that the misses overlap */
    for (int64_t p = 0; p < pages; p++) {
        page[p] = ml_sequence_page(cache, sequence, work->layer, (first + p) * ML_PAGE_TOKENS);
        __builtin_prefetch(page[p]);
    }
    page[pages] = last < after ? ml_sequence_page(cache, sequence, work->layer, last) : page[pages - 1];
    if (!ml_page_readable(page[pages])) page[pages] = page[pages - 1]; /* the span ends here */
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
