/* Vectors of any width. avx2_lanes.c.h, avx512_lanes.c.h and neon_lanes.c.h define
 *
 *   W vf                  floats of a vector; its type, with the compiler's + - * /
 *   v_load v_store        W floats, no alignment needed
 *   v_load_part v_store_part   the first n floats, 1 to W; lanes that are not there load as 0
 *   v_load_bf16 v_load_f16   W bf16 or f16, as f32
 *   v_store_bf16          W floats as bf16, to nearest even
 *   v_set v_fma v_max v_min    v_max(a, b) and v_min(a, b) give b when one of them is NaN
 *   v_round v_power       nearest integer; x * 2^n for -151 <= n <= 128
 *   v_sum v_top           over the lanes
 *   v_join_sums v_join_tops    the same of eight vectors
 *   vd d_fma d_min        the same of W / 2 doubles
 *
 * and what follows from these is here. */
#ifndef ML_KERNELS_LANES_H
#define ML_KERNELS_LANES_H

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* exp(x): 2^n * exp(r) with |r| <= ln(2)/2 and a polynomial of degree 7 (Taylor: 5e-9 relative). At most 2 ulp off;
 * 0 below -104, infinite above 88.8; NaN stays. */
static inline vf v_exp(vf x) {
    x = v_min(v_set(89.0f), v_max(v_set(-104.0f), x));
    vf n = v_round(x * v_set(1.44269504f));
    vf r = v_fma(n, v_set(-0.693359375f), x); /* ln(2) in two parts: the first has few bits, so n times it is exact */
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vf p = v_set(1.0f / 5040);
    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_power(p, n);
}

/* exp(x) for x <= 0: 2^n * 2^r with |r| <= 1/2 and a polynomial of degree 6 (Remez: 2e-9 relative; with the rounding of
 * x log2(e), 1e-8 |x| more). 0 below -104; NaN stays. */
static inline vf v_exp_below(vf x) {
    x = v_max(v_set(-104.5f), x);
    const vf n = v_round(x * v_set(1.44269504f)), r = v_fma(x, v_set(1.44269504f), -n);
    vf p = v_fma(r, v_set(1.53458122e-4f), v_set(1.33999312e-3f));
    p = v_fma(p, r, v_set(9.61848896e-3f));
    p = v_fma(p, r, v_set(0.0555032878f));
    p = v_fma(p, r, v_set(0.240226469f));
    p = v_fma(p, r, v_set(0.693147206f));
    p = v_fma(p, r, v_set(1.0f));
    return v_power(p, n);
}

#endif
