/* Sight of one page: what packing and quantising make of it. */
#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "kv/bytes/packed.h"
#include "kv/sequence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    if (layer < 0 || layer >= cache->shape.layers) {
        return ml_error(ML_E_ARGUMENT, "the cache has layers 0 to %d, not %d", cache->shape.layers - 1, layer);
    }
    sampling work = {0};
    for (int64_t i = s->length / ML_PAGE_TOKENS; i-- > 0;) {
        const ml_page *page = ml_sequence_page(cache, s, layer, i * ML_PAGE_TOKENS);
        if (!page->data || (work.page && !page->format->plain)) continue;
        work.page = page;
        if (page->format->plain) break;
    }
    if (!work.page) {
        return ml_error(ML_E_NOT_FOUND, "sequence %d has no full page of layer %d in memory", sequence, layer);
    }
    int status = measure(&work, cache->rotated, out);
    close_sampling(&work);
    return status;
}
