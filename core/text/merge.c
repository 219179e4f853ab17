#include "text/merge.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>

static int heap_push(ml_merger *merger, uint64_t key) {
    int status = ml_grow((void **)&merger->heap, &merger->heap_capacity, merger->heap_count + 1, sizeof key);
    if (status != ML_OK) return status;
    uint64_t *heap = merger->heap;
    size_t at = merger->heap_count++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap[parent] <= key) break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = key;
    return ML_OK;
}

static uint64_t heap_pop(ml_merger *merger) {
    uint64_t *heap = merger->heap, top = heap[0], last = heap[--merger->heap_count];
    size_t at = 0, count = merger->heap_count;
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

int ml_merger_add(ml_merger *merger, uint32_t begin, uint32_t length, int32_t id) {
    int status = ml_grow((void **)&merger->symbols, &merger->symbol_capacity, merger->count + 1, sizeof(ml_symbol));
    if (status != ML_OK) return status;
    uint32_t at = (uint32_t)merger->count++;
    ml_symbol *symbol = &merger->symbols[at];
    *symbol = (ml_symbol){.begin = begin, .length = length, .id = id, .next = ML_MERGE_END, .rank = ML_MERGE_NONE};
    symbol->prev = at == 0 ? ML_MERGE_END : at - 1;
    if (at > 0) merger->symbols[at - 1].next = at;
    return ML_OK;
}

/* Looks the pair (at, next) up and queues it if it merges. */
static int queue_pair(ml_merger *merger, uint32_t at, const uint8_t *text, ml_pair_rank rank, const void *scheme) {
    ml_symbol *left = &merger->symbols[at];
    left->rank = ML_MERGE_NONE;
    if (left->next == ML_MERGE_END) return ML_OK;
    left->rank = rank(scheme, text, left, &merger->symbols[left->next], &left->merged);
    return left->rank == ML_MERGE_NONE ? ML_OK : heap_push(merger, (uint64_t)left->rank << 32 | at);
}

/* Joins symbol `at` with the next one. */
static void join(ml_merger *merger, uint32_t at) {
    ml_symbol *left = &merger->symbols[at], *right = &merger->symbols[left->next];
    left->id = left->merged;
    left->length += right->length;
    left->next = right->next;
    if (right->next != ML_MERGE_END) merger->symbols[right->next].prev = at;
    right->length = 0;
    right->rank = ML_MERGE_NONE;
}

int ml_merger_run(ml_merger *merger, const uint8_t *text, ml_pair_rank rank, const void *scheme) {
    int status = ML_OK;
    merger->heap_count = 0;
    for (size_t i = 0; i + 1 < merger->count && status == ML_OK; i++)
        status = queue_pair(merger, (uint32_t)i, text, rank, scheme);
    while (merger->heap_count > 0 && status == ML_OK) {
        uint64_t key = heap_pop(merger);
        uint32_t at = (uint32_t)key;
        ml_symbol *symbol = &merger->symbols[at];
        /* An entry is stale when its pair is gone or has become another of another rank. */
        if (symbol->rank != (uint32_t)(key >> 32)) continue;
        join(merger, at);
        status = queue_pair(merger, at, text, rank, scheme);
        if (status == ML_OK && symbol->prev != ML_MERGE_END)
            status = queue_pair(merger, symbol->prev, text, rank, scheme);
    }
    return status;
}

void ml_merger_release(ml_merger *merger) {
    free(merger->symbols);
    free(merger->heap);
}
