/* Sight of the levels: where pages lie, and what happened to them. */
#include "base/error.h"
#include "kv/sequence.h"

static int check_layer(const ml_cache *cache, int32_t layer, int32_t least) {
    if (layer >= least && layer < cache->shape.layers) return ML_OK;
    return ml_error(ML_E_ARGUMENT, "the cache has layers 0 to %d, not %d", cache->shape.layers - 1, layer);
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
    for (int32_t l = layer < 0 ? 0 : layer; l <= (layer < 0 ? cache->shape.layers - 1 : layer); l++) {
        for (int level = 0; level < ML_LEVELS; level++) {
            const ml_traffic *traffic = ml_page_traffic(cache, l, level);
            out[level].hits += traffic->hits;
            out[level].demoted += traffic->demoted;
            out[level].promoted += traffic->promoted;
        }
    }
    return ML_OK;
}

int ml_sequence_levels(const ml_cache *cache, int32_t sequence, int32_t layer, int64_t *tokens) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    int status = check_layer(cache, layer, 0);
    if (status != ML_OK) return status;
    for (int level = 0; level < ML_LEVELS; level++) tokens[level] = 0;
    for (int64_t t = 0; t < s->length; t += ML_PAGE_TOKENS) {
        const int64_t count = s->length - t < ML_PAGE_TOKENS ? s->length - t : ML_PAGE_TOKENS;
        tokens[ml_page_level(ml_sequence_page(cache, s, layer, t))] += count;
    }
    return ML_OK;
}
