/* Kernels for AVX-512 F, BW, DQ, VL: sixteen floats a vector. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "dtype/blocks.h"
#include "kernels/avx512_lanes.c.h"
#include "kernels/set.h"

#include <immintrin.h>
#include <stddef.h>

static uint64_t read_stream(const void *area, int64_t bytes) {
    const uint8_t *p = area;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 256 <= bytes; i += 256) {
        a = _mm512_add_epi64(a, _mm512_loadu_si512(p + i));
        b = _mm512_add_epi64(b, _mm512_loadu_si512(p + i + 64));
        c = _mm512_add_epi64(c, _mm512_loadu_si512(p + i + 128));
        d = _mm512_add_epi64(d, _mm512_loadu_si512(p + i + 192));
    }
    for (; i < bytes; i += 64) a = _mm512_add_epi64(a, _mm512_loadu_si512(p + i));
    a = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    return (uint64_t)_mm512_reduce_add_epi64(a);
}

/* An f16 in every lane, widened. */
static inline vf set_f16(const void *p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)bits));
}
static inline __m512i load_16_bytes(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}
static inline vf signed_bytes(__m128i bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

static void unpack_f32(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    w[0] = v_load((const void *)block);
    w[1] = v_load((const void *)(block + 64));
}

static void unpack_f16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    w[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)block));
    w[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(block + 32)));
}

static void unpack_bf16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    w[0] = v_load_bf16((const void *)block);
    w[1] = v_load_bf16((const void *)(block + 32));
}

/* Codes of 4 bits are looked up in a table of their 16 final values: vpermps reads the low four bits of an index and
 * ignores the rest, so no nibble needs a mask. */
static inline vf look_up(__m512i codes, vf table) {
    return _mm512_permutexvar_ps(codes, table);
}

static const float counting[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Without the fifth bit a code q means d * (q - 16), with it d * q. */
static void unpack_q5_0(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    uint32_t fifth;
    __builtin_memcpy(&fifth, block + offsetof(ml_block_q5_0, qh), sizeof fifth);
    const vf d = set_f16(block), more = d * v_set(16), table = d * (v_load(counting) - v_set(16));
    __m512i codes = load_16_bytes(block + offsetof(ml_block_q5_0, qs));
    vf low = look_up(codes, table), high = look_up(_mm512_srli_epi32(codes, 4), table);
    w[0] = _mm512_mask_add_ps(low, (__mmask16)fifth, low, more);
    w[1] = _mm512_mask_add_ps(high, (__mmask16)(fifth >> 16), high, more);
}

/* scales[0..7] = d * scale, scales[8..15] = -dmin * min of the eight groups. */
static void prepare_q4_k(const uint8_t *block, float *scales) {
    uint32_t s[3];
    __builtin_memcpy(s, block + offsetof(ml_block_q4_k, scales), sizeof s);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    __m128i bytes = _mm_set_epi32((int)(((s[2] >> 4) & four) | (((s[1] >> 6) & two) << 4)), (int)(s[1] & six),
                                  (int)((s[2] & four) | (((s[0] >> 6) & two) << 4)), (int)(s[0] & six));
    vf values = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    vf d = _mm512_mask_sub_ps(set_f16(block), 0xff00, v_set(0), set_f16(block + 2));
    v_store(scales, values * d);
}

static void unpack_q4_k(const uint8_t *block, int part, const float *scales, vf *w) {
    const uint8_t *qs = block + offsetof(ml_block_q4_k, qs) + part * 32;
    const vf iota = v_load(counting);
    const vf low = v_fma(iota, v_set(scales[2 * part]), v_set(scales[8 + 2 * part]));
    const vf high = v_fma(iota, v_set(scales[2 * part + 1]), v_set(scales[9 + 2 * part]));
    __m512i a = load_16_bytes(qs), b = load_16_bytes(qs + 16);
    w[0] = look_up(a, low);
    w[1] = look_up(b, low);
    w[2] = look_up(_mm512_srli_epi32(a, 4), high);
    w[3] = look_up(_mm512_srli_epi32(b, 4), high);
}

static void prepare_q6_k(const uint8_t *block, float *scales) {
    __m128i bytes = _mm_loadu_si128((const void *)(block + offsetof(ml_block_q6_k, scales)));
    v_store(scales, signed_bytes(bytes) * set_f16(block + offsetof(ml_block_q6_k, d)));
}

/* 64 elements: a nibble of 64 bytes of ql, and two bits of 32 bytes of qh at one place for the first 32 elements and
 * two bits higher for the rest. */
static void unpack_q6_k(const uint8_t *block, int part, const float *scales, vf *w) {
    __m512i ql = _mm512_loadu_si512(block + part / 2 * 64);
    __m512i qh =
        _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)(block + offsetof(ml_block_q6_k, qh) + part / 2 * 32)));
    if (part % 2) {
        ql = _mm512_srli_epi16(ql, 4);
        qh = _mm512_mask_srli_epi64(qh, 0xf0, qh, 2);
    } else {
        qh = _mm512_mask_slli_epi64(_mm512_slli_epi64(qh, 4), 0xf0, qh, 2);
    }
    __m512i q =
        _mm512_or_si512(_mm512_and_si512(ql, _mm512_set1_epi8(15)), _mm512_and_si512(qh, _mm512_set1_epi8(0x30)));
    q = _mm512_sub_epi8(q, _mm512_set1_epi8(32));
    w[0] = signed_bytes(_mm512_castsi512_si128(q)) * v_set(scales[4 * part]);
    w[1] = signed_bytes(_mm512_extracti32x4_epi32(q, 1)) * v_set(scales[4 * part + 1]);
    w[2] = signed_bytes(_mm512_extracti32x4_epi32(q, 2)) * v_set(scales[4 * part + 2]);
    w[3] = signed_bytes(_mm512_extracti32x4_epi32(q, 3)) * v_set(scales[4 * part + 3]);
}

#include "kernels/vector.c.h"

/* Heads whose size is no multiple of 16 (small models) stay with the eight-lane kernel. */
static void (*attend_narrow)(const ml_attend *work);

static void attend_any(const ml_attend *work) {
    (work->head_dim % W ? attend_narrow : attend)(work);
}

void ml_kernels_avx512(ml_kernels *table) {
    ml_kernels_avx2(table);
    attend_narrow = table->attend;
    fill(table, "avx512", 32);
    if (ml_cpu_get()->vnni) {
        ml_kernels_avx512_panel(table);
        ml_kernels_avx512_warm(table);
    }
    table->attend = attend_any;
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx512_unused;
#endif
