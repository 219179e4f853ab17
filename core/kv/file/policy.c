/* The policy part of saved sessions:
 *
 *     hot_tokens 8, first_tokens 8, whether there is a policy 4, whether keys are rotated 4, number of formats 4, 0 4
 *     goals     4 bytes a layer: the format that its full pages become
 *     formats   a byte for each side: bits of the keys by head, then of the values */
#include "kv/file/policy.h"

/* MOST_FORMATS: as many policies over all layers as nobody has. A cache compares each new one with all it knows. */
enum { HOT = 0, FIRST = 8, SET = 16, ROTATED = 20, FORMATS = 24, GOALS = 32, MOST_FORMATS = 8192 };

size_t ml_saved_format(const ml_format *const *formats, size_t format_count, const ml_format *format) {
    size_t i = 0;
    while (i < format_count && formats[i] != format) i++;
    return i;
}

int64_t ml_saved_policy_bytes(const ml_cache *cache, size_t format_count) {
    return GOALS + 4 * (int64_t)cache->shape.layers + (int64_t)format_count * 2 * cache->shape.kv_heads;
}

void ml_saved_put_policy(const ml_cache *cache, const ml_format *const *formats, size_t format_count, uint8_t *out) {
    ml_put_u64(out + HOT, (uint64_t)cache->hot_tokens);
    ml_put_u64(out + FIRST, (uint64_t)cache->first_tokens);
    ml_put_u32(out + SET, cache->goal != NULL);
    ml_put_u32(out + ROTATED, cache->rotated != 0);
    ml_put_u32(out + FORMATS, (uint32_t)format_count);
    ml_put_u32(out + FORMATS + 4, 0);
    uint8_t *goals = out + GOALS, *bits = goals + 4 * cache->shape.layers;
    for (int32_t l = 0; l < cache->shape.layers; l++) {
        const size_t goal = cache->goal ? ml_saved_format(formats, format_count, cache->goal[l]) : 0;
        ml_put_u32(goals + 4 * l, (uint32_t)goal);
    }
    for (size_t i = 0; i < format_count; i++) {
        for (int32_t side = 0; side < 2 * cache->shape.kv_heads; side++)
            *bits++ = (uint8_t)formats[i]->sides[side].bits;
    }
}

int ml_saved_get_policy(const uint8_t *in, const ml_saved_header *header, ml_saved_policy_part *part) {
    const int64_t layers = header->info.layers, sides = 2 * (int64_t)header->kv_heads;
    if (header->policy_bytes < GOALS + 4 * layers + sides) return 0;
    const uint64_t hot = ml_get_u64(in + HOT), first = ml_get_u64(in + FIRST), set = ml_get_u32(in + SET),
                   rotated = ml_get_u32(in + ROTATED), count = ml_get_u32(in + FORMATS);
    const uint64_t most = UINT64_C(1) << 48; /* tokens */
    if (hot > most || first > most || set > 1 || rotated > 1 || count < 1 || count > MOST_FORMATS) return 0;
    if (header->policy_bytes != GOALS + 4 * layers + (int64_t)count * sides) return 0;
    *part = (ml_saved_policy_part){
        .set = (int)set,
        .hot_tokens = (int64_t)hot,
        .first_tokens = (int64_t)first,
        .rotated = (int)rotated,
        .format_count = (uint32_t)count,
        .goals = in + GOALS,
        .formats = in + GOALS + 4 * layers,
    };
    for (int64_t l = 0; l < layers; l++) {
        if (ml_get_u32(part->goals + 4 * l) >= count) return 0;
    }
    for (int64_t i = 0; i < (int64_t)count * sides; i++) {
        const uint8_t bits = part->formats[i];
        if (bits != 16 && (i < sides || (bits != 8 && bits != 4))) return 0; /* format 0 is plain */
    }
    return 1;
}
