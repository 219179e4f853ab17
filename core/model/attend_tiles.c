#include "model/attend_tiles.h"

#include "base/threads.h"
#include "base/tuning.h"

enum { THREAD_ITEMS = 16 }; /* that a thread has at least: so many that all threads end at about the same time */

void ml_attend_cut(ml_attention *work) {
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
        const int64_t chunk = ml_attention_first_seen(work, row->position) / ML_CHUNK_TOKENS;
        const int64_t chunks = (row->position + rows - 1) / ML_CHUNK_TOKENS + 1 - chunk;
        b->tiles[work->tiles++] =
            (ml_tile){(int32_t)r, (int32_t)rows, (int32_t)chunk, (int32_t)chunks, work->items, work->parts};
        work->items += chunks;
        work->parts += chunks * rows;
        r += rows;
    }
}

void ml_attend_choose_block(ml_attention *work, int64_t longest, int64_t all) {
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

ml_attend_item ml_attend_item_of(const ml_attention *work, const ml_tile *tile, int64_t block) {
    const int32_t head = (int32_t)block * work->block, left = work->shape.kv_heads - head;
    return (ml_attend_item){tile, head, left < work->block ? left : work->block};
}
