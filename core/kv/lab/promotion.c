/* How fast pages come back into memory, beside how fast zstd alone would be. For benchmarks only. */
#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kv/bytes/spill.h"
#include "kv/demote.h"
#include "kv/page.h"
#include "kv/promote.h"
#include "kv/sequence.h"

#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS = 5,    /* the best counts */
    AREA = 8 << 20 /* pages are unpacked into so many bytes in turn, as in staging */
};

typedef struct blob {
    uint8_t *data;
    size_t bytes;
} blob;

typedef struct promoting {
    ml_cache *cache;
    const ml_sequence *sequence;
    int32_t number;
    size_t count;    /* full pages of all layers */
    ml_page **pages; /* {count}, by layer, as they are read */
    blob *packed;    /* {count}: as the cache has them */
    blob *whole;     /* {count}: as frames of zstd */
    uint8_t *area;   /* {AREA + largest} */
    double *best;    /* {count}: milliseconds of a page */
    uint8_t *buffer; /* of a packed page */
    size_t largest;
    ml_porter porter;
} promoting;

static void close_promoting(promoting *p) {
    for (size_t i = 0; i < p->count; i++) {
        if (p->packed) free(p->packed[i].data);
        if (p->whole) free(p->whole[i].data);
    }
    free(p->pages);
    free(p->packed);
    free(p->whole);
    free(p->area);
    free(p->best);
    free(p->buffer);
    ml_porter_close(&p->porter);
}

static int keep(const uint8_t *data, size_t bytes, blob *out) {
    out->data = bytes ? ml_alloc_aligned(bytes, 1) : NULL;
    if (!out->data) return ML_E_MEMORY;
    memcpy(out->data, data, bytes);
    out->bytes = bytes;
    return ML_OK;
}

/* A page packed in two ways. */
static int pack_page(promoting *p, size_t i) {
    const ml_page *page = p->pages[i];
    int status = keep(p->buffer, ml_page_pack(page, p->porter.packer, p->buffer), &p->packed[i]);
    if (status == ML_OK) status = ml_page_fetch(page, &p->porter, p->area);
    if (status != ML_OK) return status;
    const size_t bytes = ml_pack_whole(p->porter.packer, p->area, (size_t)page->format->bytes,
                                       ml_format_element(page->format), p->buffer);
    return keep(p->buffer, bytes, &p->whole[i]);
}

/* Puts all full pages down. */
static int put_down(const promoting *p) {
    ml_demote_for(p->cache, p->cache->places.memory);
    for (size_t i = 0; i < p->count; i++) {
        if (p->pages[i]->data || !p->pages[i]->spill) {
            return ml_error(ML_E_IO, "the pages cannot all be put into the spill file: %s",
                            p->cache->spill_failed ? p->cache->spill_problem : "its budget is too small");
        }
    }
    return ML_OK;
}

static int open_promoting(promoting *p) {
    ml_cache *cache = p->cache;
    const int64_t full = p->sequence->length / ML_PAGE_TOKENS;
    const size_t count = (size_t)full * (size_t)cache->shape.layers;
    p->pages = ml_calloc(count, sizeof(ml_page *));
    p->packed = ml_calloc(count, sizeof *p->packed);
    p->whole = ml_calloc(count, sizeof *p->whole);
    p->best = ml_calloc(count, sizeof *p->best);
    p->largest = ml_page_largest(cache);
    p->area = ml_alloc_aligned(AREA + p->largest, 1);
    p->buffer = ml_alloc_aligned(ml_packed_bound(p->largest), 1);
    if (!p->pages || !p->packed || !p->whole || !p->best || !p->area || !p->buffer) return ML_E_MEMORY;
    for (int32_t layer = 0; layer < cache->shape.layers; layer++) {
        for (int64_t i = 0; i < full; i++) p->pages[p->count++] = p->sequence->pages[i * cache->shape.layers + layer];
    }
    int status = ml_porter_open(p->largest, &p->porter);
    if (status == ML_OK) status = put_down(p);
    for (size_t i = 0; status == ML_OK && i < p->count; i++) status = pack_page(p, i);
    return status;
}

/* ---- ways that a page comes back, on this thread ---- */

typedef int (*way)(promoting *p, size_t page, uint8_t *out);

static int by_zstd(promoting *p, size_t page, uint8_t *out) {
    const blob *whole = &p->whole[page];
    return ml_unpack(p->porter.packer, whole->data, whole->bytes, 1, out, (size_t)p->pages[page]->format->bytes);
}

static int from_memory(promoting *p, size_t page, uint8_t *out) {
    const blob *packed = &p->packed[page];
    const ml_page cold = {
        .format = p->pages[page]->format, .packed = packed->data, .packed_bytes = (uint32_t)packed->bytes};
    return ml_page_fetch(&cold, &p->porter, out);
}

static int from_disk(promoting *p, size_t page, uint8_t *out) {
    return ml_page_fetch(p->pages[page], &p->porter, out);
}

static int check_sum(promoting *p, size_t page, uint8_t *out) {
    (void)out;
    const blob *packed = &p->packed[page];
    if (ml_hash(packed->data, (int64_t)packed->bytes, 0) == p->pages[page]->record_hash) return ML_OK;
    return ml_error(ML_E_IO, "a page of the spill file is not what was put there");
}

/* Seconds for all pages, of each the best round: so it tells of a core, however busy the machine is. */
static int time_pages(promoting *p, way run, double *seconds) {
    for (int round = 0; round < ROUNDS; round++) {
        if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
        size_t used = 0;
        for (size_t i = 0; i < p->count; i++) {
            const size_t bytes = (size_t)p->pages[i]->format->bytes;
            if (used + bytes > AREA) used = 0;
            const double began = ml_time_now();
            int status = run(p, i, p->area + used);
            const double took = ml_time_now() - began;
            if (status != ML_OK) return status;
            if (round == 0 || took < p->best[i]) p->best[i] = took;
            used += bytes;
        }
    }
    *seconds = 0;
    for (size_t i = 0; i < p->count; i++) *seconds += p->best[i] / 1000;
    return ML_OK;
}

/* ---- as attention does it, which reads span after span ---- */

static int stream_all(promoting *p) {
    const int64_t step = ml_promote_pages(p->cache), full = p->sequence->length / ML_PAGE_TOKENS;
    int status = ML_OK;
    for (int32_t layer = 0; layer < p->cache->shape.layers; layer++) {
        for (int64_t i = 0; status == ML_OK && i < full; i += step) {
            const ml_span now = {layer, p->number, i, i + step < full ? i + step : full};
            ml_span next = {layer, p->number, now.end, now.end + step < full ? now.end + step : full};
            if (now.end == full) next = (ml_span){layer + 1, p->number, 0, step < full ? step : full};
            if (next.layer == p->cache->shape.layers) next = (ml_span){0};
            status = ml_promote_take(p->cache, &now, &next);
            if (status == ML_OK) ml_promote_done(p->cache);
        }
    }
    return status;
}

/* Seconds of the best round. */
static int time_stream(promoting *p, double *seconds) {
    for (int round = 0; round < ROUNDS; round++) {
        if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
        int status = put_down(p);
        if (status != ML_OK) return status;
        const double began = ml_time_now();
        status = stream_all(p);
        if (status != ML_OK) return status;
        const double took = (ml_time_now() - began) / 1000;
        if (round == 0 || took < *seconds) *seconds = took;
    }
    return ML_OK;
}

static int measure(promoting *p, ml_promotion *out) {
    *out = (ml_promotion){.pages = (int64_t)p->count};
    for (size_t i = 0; i < p->count; i++) {
        out->bytes += p->pages[i]->format->bytes;
        out->packed += (int64_t)p->packed[i].bytes;
        out->zstd += (int64_t)p->whole[i].bytes;
    }
    int status = time_pages(p, by_zstd, &out->zstd_seconds);
    if (status == ML_OK) status = time_pages(p, from_memory, &out->memory_seconds);
    if (status == ML_OK) status = time_pages(p, from_disk, &out->disk_seconds);
    if (status == ML_OK) status = time_pages(p, check_sum, &out->check_seconds);
    if (status == ML_OK) status = time_stream(p, &out->stream_seconds);
    return status;
}

int ml_cache_promotion(ml_cache *cache, int32_t sequence, ml_promotion *out) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    if (cache->places.memory == 0 || !cache->spill || cache->spill_broken) {
        return ml_error(ML_E_ARGUMENT, "promotion is measured where there is a budget of memory and a spill file");
    }
    if (s->length < ML_PAGE_TOKENS) {
        return ml_error(ML_E_NOT_FOUND, "sequence %d has no full page", sequence);
    }
    promoting work = {.cache = cache, .sequence = s, .number = sequence};
    int status = open_promoting(&work);
    if (status == ML_OK) status = measure(&work, out);
    close_promoting(&work);
    return status;
}
