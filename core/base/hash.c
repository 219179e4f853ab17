/* XXH64 after its specification (Cyan4973/xxHash, doc/xxhash_spec.md, version 0.1.1). */
#include "base/hash.h"

#include "base/bytes.h"

static const uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9,
                      P4 = 0x85EBCA77C2B2AE63, P5 = 0x27D4EB2F165667C5;

static uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static uint64_t round_of(uint64_t lane, uint64_t input) {
    return rotate(lane + input * P2, 31) * P1;
}

static uint64_t merge(uint64_t hash, uint64_t lane) {
    return (hash ^ round_of(0, lane)) * P1 + P4;
}

/* The stripes of 32 bytes: four lanes side by side. */
static uint64_t stripes(const uint8_t *p, const uint8_t *end, uint64_t seed) {
    uint64_t a = seed + P1 + P2, b = seed + P2, c = seed, d = seed - P1;
    for (; end - p >= 32; p += 32) {
        a = round_of(a, ml_get_u64(p));
        b = round_of(b, ml_get_u64(p + 8));
        c = round_of(c, ml_get_u64(p + 16));
        d = round_of(d, ml_get_u64(p + 24));
    }
    const uint64_t hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    return merge(merge(merge(merge(hash, a), b), c), d);
}

uint64_t ml_hash(const void *data, int64_t bytes, uint64_t seed) {
    const uint8_t *p = data, *end = p + bytes;
    uint64_t hash = (bytes >= 32 ? stripes(p, end, seed) : seed + P5) + (uint64_t)bytes;
    p += bytes / 32 * 32;
    for (; end - p >= 8; p += 8) hash = rotate(hash ^ round_of(0, ml_get_u64(p)), 27) * P1 + P4;
    for (; end - p >= 4; p += 4) hash = rotate(hash ^ ml_get_u32(p) * P1, 23) * P2 + P3;
    for (; p < end; p++) hash = rotate(hash ^ *p * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}

uint64_t ml_hash_add(uint64_t hash, uint64_t value) {
    uint8_t bytes[8];
    ml_put_u64(bytes, value);
    return ml_hash(bytes, sizeof bytes, hash);
}
