/* Kernels for AVX2, FMA and F16C: eight floats a vector. */
#if defined(__x86_64__)
#include "dtype/blocks.h"
#include "kernels/avx2_lanes.c.h"
#include "kernels/set.h"

#include <immintrin.h>
#include <stddef.h>

static uint64_t read_stream(const void *area, int64_t bytes) {
    const __m256i *p = area;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    int64_t i = 0, n = bytes / 32;
    for (; i + 4 <= n; i += 4) {
        a = _mm256_add_epi64(a, _mm256_loadu_si256(p + i));
        b = _mm256_add_epi64(b, _mm256_loadu_si256(p + i + 1));
        c = _mm256_add_epi64(c, _mm256_loadu_si256(p + i + 2));
        d = _mm256_add_epi64(d, _mm256_loadu_si256(p + i + 3));
    }
    for (; i < n; i++) a = _mm256_add_epi64(a, _mm256_loadu_si256(p + i));
    a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    uint64_t sum[4];
    _mm256_storeu_si256((void *)sum, a);
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static inline float f16(const void *p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _cvtsh_ss(bits);
}

/* w[0..1] = 16 signed bytes times `scale`. */
static inline void signed_bytes(__m128i bytes, vf scale, vf *w) {
    w[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) * scale;
    w[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))) * scale;
}

static inline __m128i low_nibbles(__m128i bytes) {
    return _mm_and_si128(bytes, _mm_set1_epi8(15));
}
static inline __m128i high_nibbles(__m128i bytes) {
    return low_nibbles(_mm_srli_epi16(bytes, 4));
}

static void unpack_f32(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 4; i++) w[i] = v_load((const void *)(block + 32 * i));
}

static void unpack_f16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 4; i++) w[i] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(block + 16 * i)));
}

static void unpack_bf16(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    for (int i = 0; i < 4; i++) w[i] = v_load_bf16((const void *)(block + 16 * i));
}

/* The fifth bits as bytes: byte i of the result is -16 where bit i of `bits` (of 16) is 0, and 0 where it is 1; added
 * to the low four bits, that gives q - 16. */
static inline __m128i fifth_bits(uint32_t bits) {
    const __m128i each = _mm_set1_epi64x((long long)0x8040201008040201);
    __m128i spread =
        _mm_shuffle_epi8(_mm_cvtsi32_si128((int)bits), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    __m128i set = _mm_cmpeq_epi8(_mm_and_si128(spread, each), each);
    return _mm_andnot_si128(set, _mm_set1_epi8(-16));
}

static void unpack_q5_0(const uint8_t *block, int part, const float *scales, vf *w) {
    (void)part, (void)scales;
    uint32_t fifth;
    __builtin_memcpy(&fifth, block + offsetof(ml_block_q5_0, qh), sizeof fifth);
    const vf d = v_set(f16(block));
    __m128i bytes = _mm_loadu_si128((const void *)(block + offsetof(ml_block_q5_0, qs)));
    signed_bytes(_mm_add_epi8(low_nibbles(bytes), fifth_bits(fifth & 0xffff)), d, w);
    signed_bytes(_mm_add_epi8(high_nibbles(bytes), fifth_bits(fifth >> 16)), d, w + 2);
}

/* scales[0..7] = d * scale, scales[8..15] = -dmin * min of the eight groups. */
static void prepare_q4_k(const uint8_t *block, float *scales) {
    uint32_t s[3];
    __builtin_memcpy(s, block + offsetof(ml_block_q4_k, scales), sizeof s);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    __m128i bytes = _mm_set_epi32((int)(((s[2] >> 4) & four) | (((s[1] >> 6) & two) << 4)), (int)(s[1] & six),
                                  (int)((s[2] & four) | (((s[0] >> 6) & two) << 4)), (int)(s[0] & six));
    vf w[2];
    signed_bytes(bytes, v_set(1), w);
    v_store(scales, w[0] * v_set(f16(block)));
    v_store(scales + 8, w[1] * v_set(-f16(block + 2)));
}

/* w[0..3] = scale * q + min for 32 codes of 4 bits in the low nibbles of `bytes`. */
static inline void q4_k_group(__m256i bytes, float scale, float min, vf *w) {
    bytes = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    signed_bytes(_mm256_castsi256_si128(bytes), v_set(1), w);
    signed_bytes(_mm256_extracti128_si256(bytes, 1), v_set(1), w + 2);
    for (int i = 0; i < 4; i++) w[i] = v_fma(w[i], v_set(scale), v_set(min));
}

static void unpack_q4_k(const uint8_t *block, int part, const float *scales, vf *w) {
    __m256i bytes = _mm256_loadu_si256((const void *)(block + offsetof(ml_block_q4_k, qs) + part * 32));
    q4_k_group(bytes, scales[2 * part], scales[8 + 2 * part], w);
    q4_k_group(_mm256_srli_epi16(bytes, 4), scales[2 * part + 1], scales[9 + 2 * part], w + 4);
}

static void prepare_q6_k(const uint8_t *block, float *scales) {
    vf w[2];
    signed_bytes(_mm_loadu_si128((const void *)(block + offsetof(ml_block_q6_k, scales))),
                 v_set(f16(block + offsetof(ml_block_q6_k, d))), w);
    v_store(scales, w[0]);
    v_store(scales + 8, w[1]);
}

/* w[0..3] = 32 elements: low four bits in the low nibbles of `ql`, high two in bits 4 and 5 of `qh`. */
static inline void q6_k_group(__m256i ql, __m256i qh, const float *scales, vf *w) {
    __m256i q =
        _mm256_or_si256(_mm256_and_si256(ql, _mm256_set1_epi8(15)), _mm256_and_si256(qh, _mm256_set1_epi8(0x30)));
    q = _mm256_sub_epi8(q, _mm256_set1_epi8(32));
    signed_bytes(_mm256_castsi256_si128(q), v_set(scales[0]), w);
    signed_bytes(_mm256_extracti128_si256(q, 1), v_set(scales[1]), w + 2);
}

static void unpack_q6_k(const uint8_t *block, int part, const float *scales, vf *w) {
    const uint8_t *ql = block + part / 2 * 64;
    __m256i a = _mm256_loadu_si256((const void *)ql), b = _mm256_loadu_si256((const void *)(ql + 32));
    __m256i qh = _mm256_loadu_si256((const void *)(block + offsetof(ml_block_q6_k, qh) + part / 2 * 32));
    if (part % 2) {
        q6_k_group(_mm256_srli_epi16(a, 4), qh, scales + 4 * part, w);
        q6_k_group(_mm256_srli_epi16(b, 4), _mm256_srli_epi16(qh, 2), scales + 4 * part + 2, w + 4);
    } else {
        q6_k_group(a, _mm256_slli_epi16(qh, 4), scales + 4 * part, w);
        q6_k_group(b, _mm256_slli_epi16(qh, 2), scales + 4 * part + 2, w + 4);
    }
}

#include "kernels/vector.c.h"

void ml_kernels_avx2(ml_kernels *table) {
    ml_kernels_scalar(table);
    fill(table, "avx2", 8);
    ml_kernels_avx2_panel(table);
    ml_kernels_avx2_warm(table);
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx2_unused;
#endif
