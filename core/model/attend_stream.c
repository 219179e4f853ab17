#include "model/attend_stream.h"

#include "base/memory.h"
#include "base/threads.h"
#include "kv/pass.h"
#include "kv/promote.h"
#include "model/attend_tiles.h"

enum { PIECE = ML_PIECE_PAGES * ML_PAGE_TOKENS }; /* tokens of a chunk that are streamed at once */

/* Tiles of one sequence, one after the other, and the pieces that they see. */
typedef struct attend_group {
    int64_t tile, tiles, piece, end;
} attend_group;

/* The pieces [piece, end) of a group: those whose pages are there now. */
typedef struct attend_span {
    const ml_attention *work;
    attend_group group;
    int64_t piece, end;
} attend_span;

int ml_attend_misses(const ml_attention *work) {
    for (int64_t i = 0; i < work->tiles; i++) {
        const ml_tile *tile = &work->batch->tiles[i];
        const ml_row *row = &work->batch->row[tile->row];
        if (ml_sequence_absent(work->cache, ml_pass_sequence(work->cache, row->sequence), work->layer,
                               ml_attention_first_seen(work, row->position), row->position + tile->rows)) {
            return 1;
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
        ml_attend_begin(work, (ml_attend_item){&b->tiles[i], 0, c->kv_heads}, waiting(work, &b->tiles[i], 0, 0));
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

static void add_piece(const ml_attention *work, ml_attend_item item, int64_t piece, const float *q,
                      const ml_attend_scratch *s) {
    enum { PIECES = ML_CHUNK_TOKENS / PIECE };
    float *states = waiting(work, item.tile, item.head, 1);
    if (piece % PIECES == 0 || piece == first_piece(work, item.tile)) ml_attend_begin(work, item, states);
    ml_attend_tokens(work, item, piece * PIECE, (piece + 1) * PIECE, q, s, states);
    if ((piece + 1) % PIECES == 0 || piece + 1 == end_piece(work, item.tile)) {
        ml_attend_merge(work, item, waiting(work, item.tile, item.head, 0), states);
    }
}

/* Items are (block of heads, tile of the group). */
static void attend_span_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const attend_span *span = arg;
    const ml_attention *work = span->work;
    const ml_attend_scratch s = ml_attend_scratch_of(work, thread);
    for (int64_t i = begin; i < end; i++) {
        const ml_tile *tile = &work->batch->tiles[span->group.tile + span->group.tiles - 1 - i % span->group.tiles];
        const ml_attend_item item = ml_attend_item_of(work, tile, i / span->group.tiles);
        const float *q = ml_attend_queries(work, item, s.q);
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
        ml_attend_finish(work, tile, head, state_of(&work->shape, tile->rows, waiting(work, tile, head, 0)));
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
                  end = piece * PIECE / ML_PAGE_TOKENS + ml_promote_pages(work->cache);
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

int ml_attend_streamed(ml_attention *work) {
    const int64_t heads = work->shape.kv_heads, step = ml_promote_pages(work->cache) * ML_PAGE_TOKENS / PIECE;
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
            status = ml_promote_take(work->cache, &now, &next);
            if (status != ML_OK) break;
            attend_span span = {work, group, piece, piece + step};
            ml_attend_choose_block(work, 1, group.tiles);
            ml_parallel(group.tiles * work->blocks, 1, attend_span_tiles, &span);
            ml_promote_done(work->cache);
        }
    }
    if (status == ML_OK) ml_parallel(work->tiles * heads, 1, finish_tiles, work);
    return status;
}
