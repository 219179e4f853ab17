/* Attention to pages of which keys and values both have 4 bits, the form that long contexts live on, a part of
 * avx512_warm.c: warm.h for up to eight queries at once, step by step for all of them, so that no step waits for the
 * one before. Sums and maxima over the lanes of eight queries are found together, and what follows from them lies in
 * one vector, a lane a query. A page's weights are 2^(score - top of the page); what the page counts for beside the
 * others goes into the factors of its sums. */

enum { MANY = 8 };

/* A lane a query, to be broadcast from. */
typedef struct warm_lanes {
    _Alignas(64) float of[W];
} warm_lanes;

typedef struct warm_room {
    _Alignas(64) float score[MANY * PAGE]; /* then weights times steps */
    _Alignas(64) int8_t row[MANY * PAGE];  /* these in whole numbers */
    _Alignas(64) int32_t start[W];         /* of the sums of keys: what the middle code adds, taken out */
    warm_lanes scale, sum, base;           /* of scores */
    warm_lanes top, inverse, offset;       /* of the page's weights */
    warm_lanes keep, factor, shared;       /* of the values weighted */
} warm_room;

static ALWAYS_INLINE vf join(vf a, vf b, const int largest) {
    return largest ? v_max(a, b) : _mm512_add_ps(a, b);
}

/* Lane i: the sum, or the largest, of the lanes of v[i]. */
static ALWAYS_INLINE vf join_lanes(const vf v[MANY], const int largest) {
    vf pairs[4], fours[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const vf a = v[2 * i], b = v[2 * i + 1];
        pairs[i] = join(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b), largest);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const vf a = pairs[2 * i], b = pairs[2 * i + 1];
        fours[i] = join(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee), largest);
    }
    const vf half =
        join(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd), largest);
    return join(_mm512_shuffle_f32x4(half, half, 0x88), _mm512_shuffle_f32x4(half, half, 0xdd), largest);
}

/* 2^x for x <= 0: 2^n * 2^r with 0 <= r < 1 and a polynomial of degree 4 (Chebyshev's nodes, 1 for 0: 7e-6 relative).
 */
static ALWAYS_INLINE vf v_exp2_below(vf x) {
    const vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = v_fma(r, v_set(0.0127631139f), v_set(0.0534410293f));
    p = v_fma(p, r, v_set(0.240647048f));
    p = v_fma(p, r, v_set(0.693133993f));
    p = v_fma(p, r, v_set(1.0f));
    return _mm512_scalef_ps(p, x); /* by 2^floor(x) */
}

/* Products of the first 4 whole numbers at p with two vectors of codes. */
static ALWAYS_INLINE void add_fours(vi sum[2], vi a, vi b, const int8_t *p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    const vi x = _mm512_set1_epi32(bytes);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum[0]) : "v"(a), "v"(x));
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum[1]) : "v"(b), "v"(x));
}

/* Lanes [at, at + vectors W): adds to `sum` the products of n elements. Rows of whole numbers are `step` bytes apart.
 */
static ALWAYS_INLINE void add_codes(const int8_t *x, int64_t step, const int queries, warm_codes codes, int64_t lanes,
                                    int64_t n, int64_t at, const int vectors, vi sum[MANY][2]) {
    for (int64_t i = 0; i < n; i += 8) {
        const codes4 a = load4(codes_at(codes, (i / 8 * lanes + at) * 4));
        const codes4 b = vectors == 2 ? load4(codes_at(codes, (i / 8 * lanes + at + W) * 4)) : a;
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
            add_fours(sum[q], a.low, b.low, x + q * step + i);
            add_fours(sum[q], a.high, b.high, x + q * step + i + 4);
        }
    }
}

static ALWAYS_INLINE vf one_lane(const warm_lanes *lanes, int q) {
    return v_set(lanes->of[q]);
}

/* The constants of scores, times log2(e). */
static ALWAYS_INLINE void open_queries(const ml_attend *work, const uint8_t *first, const int queries,
                                       const int16_t *means, warm_room *room) {
    const int64_t dim = work->head_dim, bytes = ml_query_bytes(dim);
    const vf unit = v_set(work->key_unit * log2_e);
    vf dots[MANY], heads[2] = {v_set(0), v_set(0)};
#pragma GCC unroll 8
    for (int q = 0; q < MANY; q++) {
        dots[q] = v_set(0);
        if (q >= queries) continue;
        const vf head = _mm512_castps128_ps512(_mm_loadu_ps((const float *)(const void *)(first + q * bytes)));
        heads[q / 4] = _mm512_mask_shuffle_f32x4(heads[q / 4], (__mmask16)(15 << q % 4 * 4), head, head, 0);
    }
    for (int64_t i = 0; i < dim; i += 2 * W) {
        const __mmask32 lanes = dim - i < 2 * W ? 0xffff : ~0u;
        const vi mean = _mm512_maskz_loadu_epi16(lanes, means + i);
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) {
            const vi x = _mm512_maskz_loadu_epi16(lanes, ml_query_row(first + q * bytes, dim).whole + i);
            dots[q] = _mm512_add_ps(dots[q], to_float(_mm512_madd_epi16(x, mean)));
        }
    }
    const vi place = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const vi one = _mm512_set1_epi32(1), three = _mm512_set1_epi32(3);
    const vf scale = _mm512_permutex2var_ps(heads[0], place, heads[1]) * unit;
    const vf sum = _mm512_permutex2var_ps(heads[0], _mm512_add_epi32(place, one), heads[1]) * unit;
    const vf whole = _mm512_permutex2var_ps(heads[0], _mm512_add_epi32(place, three), heads[1]);
    i_store(room->start, _mm512_sub_epi32(i_zero(), _mm512_slli_epi32(_mm512_castps_si512(whole), 3)));
    v_store(room->scale.of, scale * v_set(256.0f));
    v_store(room->sum.of, sum);
    v_store(room->base.of, scale * join_lanes(dots, 0));
}

static ALWAYS_INLINE void score_keys(const uint8_t *first, int64_t bytes, int64_t dim, const int queries,
                                     const warm_side *side, warm_room *room) {
    const int8_t *x = ml_query_row(first, dim).high;
    for (int64_t at = 0; at < PAGE; at += 2 * W) {
        vi sum[MANY][2];
#pragma GCC unroll 8
        for (int q = 0; q < queries; q++) sum[q][0] = sum[q][1] = _mm512_set1_epi32(room->start[q]);
        add_codes(x, bytes, queries, side->codes, PAGE, dim, at, 2, sum);
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            const vf steps = v_load(side->steps + at + v * W), zeros = v_load(side->zeros + at + v * W);
#pragma GCC unroll 8
            for (int q = 0; q < queries; q++) {
                const vf constant = v_fma(zeros, one_lane(&room->sum, q), one_lane(&room->base, q));
                const vf score = v_fma(to_float(sum[q][v]), steps * one_lane(&room->scale, q), constant);
                v_store(room->score + q * PAGE + at + v * W, score);
            }
        }
    }
}

/* Scores to weights in whole numbers, and the lanes that the values are added with. Brings top and sum up to date. */
static ALWAYS_INLINE void weigh_scores(const ml_attend *work, int64_t first, const int queries, const warm_side *side,
                                       warm_room *room) {
    const __mmask16 lanes = first_lanes(queries);
    vf best[MANY], total[MANY], shared[MANY];
#pragma GCC unroll 8
    for (int q = 0; q < MANY; q++) {
        const float *s = room->score + q * PAGE;
        best[q] = q >= queries ? v_set(0)
                               : v_max(v_max(v_load(s), v_load(s + W)), v_max(v_load(s + 2 * W), v_load(s + 3 * W)));
    }
    const vf here = join_lanes(best, 1);
    v_store(room->top.of, here);
#pragma GCC unroll 8
    for (int q = 0; q < MANY; q++) {
        best[q] = total[q] = shared[q] = v_set(0);
        for (int t = 0; q < queries && t < PAGE; t += W) {
            const vf p = v_exp2_below(v_load(room->score + q * PAGE + t) - one_lane(&room->top, q));
            const vf weight = p * v_load(side->steps + t);
            total[q] = total[q] + p;
            shared[q] = v_fma(p, v_load(side->zeros + t), shared[q]);
            best[q] = v_max(weight, best[q]);
            v_store(room->score + q * PAGE + t, weight);
        }
    }
    const vf most = join_lanes(best, 1), offset = most * v_set(-8.0f / 127);
    const __mmask16 some = _mm512_cmp_ps_mask(most, v_set(1e-30f), _CMP_GT_OQ);
    v_store(room->inverse.of, _mm512_maskz_div_ps(some, v_set(127.0f), most));
    v_store(room->offset.of, offset);
    const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
        const float *s = room->score + q * PAGE;
        const vf inverse = one_lane(&room->inverse, q);
        vi whole[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) whole[v] = _mm512_cvtps_epi32(v_load(s + v * W) * inverse);
        const vi bytes =
            _mm512_packs_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
        const vi row = _mm512_permutexvar_epi32(order, bytes);
        _mm512_store_si512(room->row + q * PAGE, row);
        const vf sum = to_float(_mm512_dpbusd_epi32(i_zero(), _mm512_set1_epi8(1), row));
        shared[q] = v_fma(sum, one_lane(&room->offset, q), shared[q]);
    }
    const vf before = _mm512_maskz_loadu_ps(lanes, work->top + first) * v_set(log2_e);
    const vf after = v_max(here, before);
    const vf keep = v_exp2_below(before - after), factor = v_exp2_below(here - after);
    const vf unit = factor * v_set(work->value_unit);
    v_store(room->keep.of, keep);
    v_store(room->factor.of, most * v_set(1.0f / 127) * unit);
    v_store(room->shared.of, join_lanes(shared, 0) * unit);
    const vf sum = _mm512_maskz_loadu_ps(lanes, work->sum + first);
    _mm512_mask_storeu_ps(work->top + first, lanes & _mm512_cmp_ps_mask(here, before, _CMP_GT_OQ),
                          here * v_set(0.693147181f));
    _mm512_mask_storeu_ps(work->sum + first, lanes, v_fma(sum, keep, join_lanes(total, 0) * factor));
}

static ALWAYS_INLINE void add_weighted(const ml_attend *work, int64_t first, const int queries, const warm_side *side,
                                       int64_t at, const int vectors, const warm_room *room) {
    const int64_t dim = work->head_dim;
    float *acc = work->acc + first * dim + at;
    vi sum[MANY][2];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) sum[q][0] = sum[q][1] = i_zero();
    add_codes(room->row, PAGE, queries, side->codes, dim, PAGE, at, vectors, sum);
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
        const vf keep = one_lane(&room->keep, q), shared = one_lane(&room->shared, q);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const vf more = v_fma(to_float(sum[q][v]), one_lane(&room->factor, q), shared);
            v_store(acc + q * dim + v * W, v_fma(v_load(acc + q * dim + v * W), keep, more));
        }
    }
}

static ALWAYS_INLINE void attend_some(const ml_attend *work, int64_t first, const int queries, int64_t from, int64_t to,
                                      const warm_side *keys, const warm_side *values) {
    const int64_t dim = work->head_dim, bytes = ml_query_bytes(dim);
    const uint8_t *whole = work->whole + first * bytes;
    warm_room room;
    open_queries(work, whole, queries, keys->means, &room);
    score_keys(whole, bytes, dim, queries, keys, &room);
    for (int q = 0; q < queries && (from > 0 || to < PAGE); q++) {
        for (int64_t t = 0; t < from; t++) room.score[q * PAGE + t] = -INFINITY;
        for (int64_t t = to; t < PAGE; t++) room.score[q * PAGE + t] = -INFINITY;
    }
    weigh_scores(work, first, queries, values, &room);
    int64_t at = 0;
    for (; at + 2 * W <= dim; at += 2 * W) add_weighted(work, first, queries, values, at, 2, &room);
    if (at < dim) add_weighted(work, first, queries, values, at, 1, &room);
}

/* A number of queries is compiled by itself if it is common, so that sums stay in registers. */
static void attend_eight(const ml_attend *work, int64_t q, int64_t from, int64_t to, const warm_side *k,
                         const warm_side *v) {
    attend_some(work, q, 8, from, to, k, v);
}
static void attend_four(const ml_attend *work, int64_t q, int64_t from, int64_t to, const warm_side *k,
                        const warm_side *v) {
    attend_some(work, q, 4, from, to, k, v);
}
static void attend_one(const ml_attend *work, int64_t q, int64_t from, int64_t to, const warm_side *k,
                       const warm_side *v) {
    attend_some(work, q, 1, from, to, k, v);
}

static void attend_warm4(const ml_attend *work) {
    warm_side keys, values;
    side_open(work->keys, work->next_keys, work->head_dim, 4, 0, &keys);
    side_open(work->values, work->next_values, work->head_dim, 4, 1, &values);
    for (int64_t r = 0; r < work->rows;) {
        const int64_t from = work->from[r], to = work->to[r];
        int64_t q = r * work->group;
        do r++;
        while (r < work->rows && work->from[r] == from && work->to[r] == to);
        const int64_t end = from < to ? r * work->group : q;
        for (; end - q >= 8; q += 8) attend_eight(work, q, from, to, &keys, &values);
        for (; end - q >= 4; q += 4) attend_four(work, q, from, to, &keys, &values);
        for (; q < end; q++) attend_one(work, q, from, to, &keys, &values);
    }
}
