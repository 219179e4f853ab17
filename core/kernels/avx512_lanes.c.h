/* Sixteen floats a vector: the primitives of lanes.c.h for AVX-512 F, BW, DQ, VL. */
#ifndef ML_KERNELS_AVX512_LANES_H
#define ML_KERNELS_AVX512_LANES_H

#include <immintrin.h>
#include <stdint.h>

enum { W = 16 };
typedef __m512 vf;
typedef __m512d vd;

static inline vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
static inline __mmask16 first_lanes(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}
static inline vf v_load_part(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
static inline void v_store_part(float *p, vf v, int64_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
static inline vf v_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
static inline vf v_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
static inline vf v_set(float x) {
    return _mm512_set1_ps(x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
static inline vd d_fma(vd a, vd b, vd c) {
    return _mm512_fmadd_pd(a, b, c);
}
static inline vd d_min(vd a, vd b) {
    return _mm512_min_pd(a, b);
}
static inline vf v_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf v_power(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}
static inline float v_sum(vf v) {
    return _mm512_reduce_add_ps(v);
}
static inline float v_top(vf v) {
    return _mm512_reduce_max_ps(v);
}
/* Lane i: the sum, or the largest, of the lanes of v[i]; eight vectors together, in fewer steps than one by one. */
static inline __attribute__((always_inline)) vf v_join(const vf v[8], const int largest) {
    vf pairs[4], fours[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const vf a = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), b = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
        pairs[i] = largest ? v_max(a, b) : _mm512_add_ps(a, b);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const vf a = _mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], 0x44);
        const vf b = _mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], 0xee);
        fours[i] = largest ? v_max(a, b) : _mm512_add_ps(a, b);
    }
    vf a = _mm512_shuffle_f32x4(fours[0], fours[1], 0x88), b = _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd);
    const vf half = largest ? v_max(a, b) : _mm512_add_ps(a, b);
    a = _mm512_shuffle_f32x4(half, half, 0x88);
    b = _mm512_shuffle_f32x4(half, half, 0xdd);
    return largest ? v_max(a, b) : _mm512_add_ps(a, b);
}
/* Sums, or largest elements, of eight vectors: to memory. */
static inline __attribute__((always_inline)) void v_join_sums(const vf v[8], float out[8]) {
    _mm256_storeu_ps(out, _mm512_castps512_ps256(v_join(v, 0)));
}
static inline __attribute__((always_inline)) void v_join_tops(const vf v[8], float out[8]) {
    _mm256_storeu_ps(out, _mm512_castps512_ps256(v_join(v, 1)));
}
static inline void v_store_bf16(uint16_t *out, vf v) {
    __m512i bits = _mm512_castps_si512(v), top = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((void *)out, _mm512_cvtepi32_epi16(rounded));
}

#endif
