/* Sight of the levels: where pages lie, what happened to them, and what packing and quantising make of one. */
#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kv/cache.h"
#include "kv/packed.h"

#include <math.h>
#include <stdlib.h>

int ml_page_level(const ml_page *page) {
    if (page->data && !page->staged) return page->format->plain ? ML_LEVEL_HOT : ML_LEVEL_WARM;
    return page->packed ? ML_LEVEL_COLD : ML_LEVEL_DISK;
}

ml_traffic *ml_cache_traffic(const ml_cache *cache, int32_t layer, int level) {
    return &cache->traffic[(size_t)layer * ML_LEVELS + (size_t)level];
}

static int check_layer(const ml_cache *cache, int32_t layer, int32_t least) {
    if (layer >= least && layer < cache->layers) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "the cache has layers 0 to %d, not %d", cache->layers - 1, layer);
}

int ml_cache_levels(const ml_cache *cache, int32_t layer, ml_level *out) {
    int status = check_layer(cache, layer, -1);
    if (status != ML_OK) return status;
    for (int level = 0; level < ML_LEVELS; level++) out[level] = (ml_level){0};
    for (const ml_slab *slab = cache->slabs; slab; slab = slab->next) {
        for (int i = 0; i < ML_SLAB_PAGES; i++) {
            const ml_page *page = &slab->pages[i];
            if (page->references == 0 || (layer >= 0 && page->layer != layer)) continue;
            ml_level *level = &out[ml_page_level(page)];
            level->pages++;
            level->bytes += page->data ? page->format->bytes : page->packed_bytes;
            level->whole += page->format->bytes;
        }
    }
    for (int32_t l = layer < 0 ? 0 : layer; l <= (layer < 0 ? cache->layers - 1 : layer); l++) {
        for (int level = 0; level < ML_LEVELS; level++) {
            const ml_traffic *traffic = ml_cache_traffic(cache, l, level);
            out[level].hits += traffic->hits;
            out[level].lowered += traffic->lowered;
            out[level].raised += traffic->raised;
        }
    }
    return ML_OK;
}

int ml_sequence_levels(const ml_cache *cache, int32_t sequence, int32_t layer, int64_t *tokens) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    int status = check_layer(cache, layer, 0);
    if (status != ML_OK) return status;
    for (int level = 0; level < ML_LEVELS; level++) tokens[level] = 0;
    for (int64_t t = 0; t < s->length; t += ML_PAGE_TOKENS) {
        const int64_t count = s->length - t < ML_PAGE_TOKENS ? s->length - t : ML_PAGE_TOKENS;
        tokens[ml_page_level(ml_cache_page(cache, s, layer, t))] += count;
    }
    return ML_OK;
}

/* ---- a sample ---- */

typedef struct sampling {
    const ml_page *page;
    ml_format *plain, *quantised; /* in f32 */
    float *numbers, *stored;      /* of the page; as they come back */
    uint8_t *codes;               /* of the format `quantised` */
    uint8_t *packed;              /* its packed bytes */
    uint8_t *bits;                /* {kv_heads} */
    ml_packer *packer;
} sampling;

static void close_sampling(sampling *s) {
    free(s->plain);
    free(s->quantised);
    free(s->numbers);
    free(s->stored);
    free(s->codes);
    free(s->packed);
    free(s->bits);
    ml_packer_free(s->packer);
}

static int open_sampling(sampling *s) {
    const ml_format *format = s->page->format;
    const size_t heads = (size_t)format->kv_heads, size = ml_format_size(format->kv_heads);
    s->plain = ml_calloc(1, size);
    s->quantised = ml_calloc(1, size);
    s->bits = ml_calloc(heads, 1);
    s->packed = ml_calloc(ml_packed_bound((size_t)format->bytes), 1);
    if (!s->plain || !s->quantised || !s->bits || !s->packed) return ML_E_MEMORY;
    ml_format_lay_out(s->plain, ML_F32, format->kv_heads, format->head_dim, 0, NULL, NULL);
    s->numbers = ml_alloc_aligned((size_t)s->plain->bytes, 1);
    s->stored = ml_alloc_aligned((size_t)s->plain->bytes, 1);
    s->codes = ml_alloc_aligned((size_t)s->plain->bytes, 1);
    if (!s->numbers || !s->stored || !s->codes) return ML_E_MEMORY;
    return ml_packer_create((size_t)format->bytes, &s->packer);
}

/* Root mean square of b - a over that of a. */
static double error_of(const float *a, const float *b, int64_t count) {
    double wrong = 0, all = 0;
    for (int64_t i = 0; i < count; i++) {
        const double difference = (double)b[i] - a[i];
        wrong += difference * difference;
        all += (double)a[i] * a[i];
    }
    return all > 0 ? sqrt(wrong / all) : 0;
}

/* What 8 or 4 bits make of the numbers. A page with infinite or NaN numbers has no errors: it stays plain. */
static void measure_errors(sampling *s, int rotated, ml_page_sample *out) {
    const ml_format *format = s->page->format;
    const int64_t half = (int64_t)format->kv_heads * format->head_dim * ML_PAGE_TOKENS;
    const int bits[2] = {8, 4};
    for (int64_t i = 0; i < 2 * half; i++) {
        s->numbers[i] = format->dtype == ML_F32 ? ((const float *)(const void *)s->page->data)[i]
                                                : ml_bf16_to_f32(((const uint16_t *)(const void *)s->page->data)[i]);
    }
    for (int i = 0; i < 2; i++) {
        memset(s->bits, bits[i], (size_t)format->kv_heads);
        ml_format_lay_out(s->quantised, ML_F32, format->kv_heads, format->head_dim, rotated, s->bits, s->bits);
        const uint8_t *numbers = (const uint8_t *)s->numbers;
        if (!ml_page_convert(s->plain, numbers, s->quantised, s->codes, NULL, 0)) return;
        ml_page_convert(s->quantised, s->codes, s->plain, (uint8_t *)s->stored, NULL, 0);
        out->key_error[i] = error_of(s->numbers, s->stored, half);
        out->value_error[i] = error_of(s->numbers + half, s->stored + half, half);
    }
    out->plain = 1;
}

static int measure(sampling *s, int rotated, ml_page_sample *out) {
    const ml_format *format = s->page->format;
    const size_t bytes = (size_t)format->bytes, element = ml_format_element(format);
    int status = open_sampling(s);
    if (status != ML_OK) return status;
    const size_t packed = ml_pack(s->packer, s->page->data, bytes, element, s->packed),
                 unsplit = packed ? ml_pack_whole(s->packer, s->page->data, bytes, 1, s->packed) : 0;
    if (!unsplit) return ML_E_MEMORY;
    *out = (ml_page_sample){.bytes = format->bytes, .packed = (int64_t)packed, .unsplit = (int64_t)unsplit};
    if (format->plain) measure_errors(s, rotated, out);
    return ML_OK;
}

int ml_cache_sample(const ml_cache *cache, int32_t sequence, int32_t layer, ml_page_sample *out) {
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    int status = check_layer(cache, layer, 0);
    if (status != ML_OK) return status;
    sampling work = {0};
    for (int64_t i = s->length / ML_PAGE_TOKENS; i-- > 0;) {
        const ml_page *page = ml_cache_page(cache, s, layer, i * ML_PAGE_TOKENS);
        if (!page->data || (work.page && !page->format->plain)) continue;
        work.page = page;
        if (page->format->plain) break;
    }
    if (!work.page) {
        return ml_error(ML_E_NOT_FOUND, "sequence %d has no full page of layer %d in memory", sequence, layer);
    }
    status = measure(&work, cache->rotated, out);
    close_sampling(&work);
    return status;
}
