/* Kernels for AVX2, FMA and F16C: eight floats a vector. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "tensor/blocks.h"

#include <immintrin.h>
#include <stddef.h>

enum { W = 8 };
typedef __m256 vf;

static inline vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
static inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf v_load_part(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}
static inline void v_store_part(float *p, vf v, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), v);
}
static inline vf v_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
static inline vf v_set(float x) {
    return _mm256_set1_ps(x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
static inline vf v_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2^n has no float for n = 128 and below -126, so x is multiplied twice, by powers of about half of n. */
static inline vf v_power(vf x, vf n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    const __m256i bias = _mm256_set1_epi32(127);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return x * a * b;
}
static inline __m128 half_sums(vf v) {
    return _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
}
static inline float v_sum(vf v) {
    __m128 s = half_sums(v);
    s = s + _mm_movehl_ps(s, s);
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float v_top(vf v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline void v_store_bf16(uint16_t *out, vf v) {
    __m256i bits = _mm256_castps_si256(v), top = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128((void *)out, _mm256_castsi256_si128(packed));
}

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

#include "kernels/vector.h"

void ml_kernels_avx2(ml_kernels *table) {
    ml_kernels_scalar(table);
    fill(table, "avx2", 8);
    ml_kernels_avx2_panel(table);
}
#else
/* Nothing here for other processors. */
typedef int ml_kernels_avx2_unused;
#endif
