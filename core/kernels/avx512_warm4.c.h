/* Attention to pages of which keys and values both have 4 bits, the form that long contexts live on, a part of
 * avx512_warm.c. Two groups of four queries are worked on in turn, so that the weights of one come about while the
 * products of the other keep the multipliers busy: nothing else would overlap, each of these stages being longer than
 * what a processor looks ahead. Sums and maxima over the lanes of several queries are found together, and what follows
 * from them lies in one vector, a lane a query. What a weight is multiplied with, the step of its token's values, joins
 * its exponent: so the largest product is known beforehand. A page's weights count from the largest of the page; what
 * the page counts for beside the others goes into the factors of its sums. */

enum { MANY = 8, GROUP = 4, WIDE = 4 /* vectors of lanes */ };

/* A lane a query, to be broadcast from. */
typedef struct warm_lanes {
    _Alignas(64) float of[W];
} warm_lanes;

typedef struct warm_room {
    _Alignas(64) float score[MANY * PAGE]; /* and log2 of the steps of values */
    _Alignas(64) int8_t row[MANY * PAGE];  /* weights times steps in integers */
    _Alignas(64) int32_t start[W];         /* of the sums of keys: what the middle code adds, taken out */
    warm_lanes scale, ratio, base;         /* of scores */
} warm_room;

/* Four queries, or fewer. */
typedef struct warm_group {
    int at;                          /* the first one in the room */
    vf sums[2 * GROUP];              /* of weights; of these times zeros */
    warm_lanes top;                  /* of the page's weights */
    warm_lanes keep, factor, shared; /* of the values weighted */
} warm_group;

/* What the steps of a page's values mean for its weights. */
typedef struct warm_steps {
    _Alignas(64) float logs[PAGE], inverse[PAGE], zeros[PAGE]; /* log2 of the step, its inverse, the zero by the step */
} warm_steps;

typedef struct warm_page {
    warm_side keys, values;
    warm_steps steps;
} warm_page;

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

/* 2^x for finite x, with a polynomial of degree 3 (Remez: 8e-5 relative, a fiftieth of what weights are rounded by);
 * NaN stays. */
static ALWAYS_INLINE vf v_exp2_rough(vf x) {
    const vf n = v_round(x), r = x - n;
    vf p = v_fma(r, v_set(0.0551716691f), v_set(0.242611122f));
    p = v_fma(p, r, v_set(0.693260985f));
    p = v_fma(p, r, v_set(0.999928074f));
    return v_power(p, n);
}

/* log2(x) with a polynomial of degree 7 in 3/4 <= 1 + f < 3/2 (Remez: 7e-7). */
static ALWAYS_INLINE vf v_log2(vf x) {
    const vf f = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src) - v_set(1);
    const vf n = _mm512_getexp_ps(x * v_set(4.0f / 3));
    vf p = v_fma(f, v_set(0.147578742f), v_set(-0.272630181f));
    p = v_fma(p, f, v_set(0.305071827f));
    p = v_fma(p, f, v_set(-0.359487262f));
    p = v_fma(p, f, v_set(0.479905178f));
    p = v_fma(p, f, v_set(-0.721353307f));
    p = v_fma(p, f, v_set(1.44270946f));
    return v_fma(p, f, n);
}

/* A step of 0 (all elements of a token are equal, and their codes the middle one) counts as the smallest of f16. */
static ALWAYS_INLINE void open_steps(const warm_side *side, warm_steps *out) {
#pragma GCC unroll 4
    for (int t = 0; t < PAGE; t += W) {
        const vf step = v_max(v_load(side->steps + t), v_set(0x1p-24f)), rough = _mm512_rcp14_ps(step);
        const vf inverse = rough * _mm512_fnmadd_ps(rough, step, v_set(2)); /* Newton's step */
        v_store(out->logs + t, v_log2(step));
        v_store(out->inverse + t, inverse);
        v_store(out->zeros + t, v_load(side->zeros + t) * inverse);
    }
}

/* Lanes [at, at + vectors W): adds to `sum` the products of elements [i, i + 8) with `queries` rows of integers,
 * `step` bytes apart. Of the lines those from `ask` to `asked` are asked for, too, where
 * they lie in what comes next. */
static ALWAYS_INLINE void add_codes(const int8_t *x, int64_t step, const int queries, warm_codes codes, int64_t lanes,
                                    int64_t i, int64_t at, const int vectors, const int ask, const int asked,
                                    vi sum[GROUP][WIDE]) {
    const uint8_t *line = codes.data + (i / 8 * lanes + at) * 4;
    const vi nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int v = ask; v < asked && v < vectors; v++) {
        __builtin_prefetch((const void *)((uintptr_t)(line + v * 64) + codes.ahead));
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        vi c[WIDE];
        __asm__("" : "+r"(line)); /* read again rather than kept in registers that others need */
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vi both = _mm512_loadu_si512(line + v * 64);
            c[v] = _mm512_and_si512(half ? _mm512_srli_epi16(both, 4) : both, nibble);
        }
#pragma GCC unroll 4
        for (int q = 0; q < queries; q++) {
            int32_t bytes;
            __builtin_memcpy(&bytes, x + q * step + i + half * 4, sizeof bytes);
            const vi four = _mm512_set1_epi32(bytes);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[q][v] = dot_bytes(sum[q][v], c[v], four);
        }
    }
}

static ALWAYS_INLINE vf one_lane(const warm_lanes *lanes, int q) {
    return v_set(lanes->of[q]);
}

/* The constants of scores, times log2(e): a score is scale * (count * step + zero * ratio + base). */
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
            const vi x = _mm512_maskz_loadu_epi16(lanes, ml_query_row(first + q * bytes, dim).integers + i);
            dots[q] = _mm512_add_ps(dots[q], to_float(_mm512_madd_epi16(x, mean)));
        }
    }
    const vi place = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const vi one = _mm512_set1_epi32(1), three = _mm512_set1_epi32(3);
    const vf scale = _mm512_permutex2var_ps(heads[0], place, heads[1]) * unit * v_set(256.0f);
    const vf sum = _mm512_permutex2var_ps(heads[0], _mm512_add_epi32(place, one), heads[1]) * unit;
    const vf integers = _mm512_permutex2var_ps(heads[0], _mm512_add_epi32(place, three), heads[1]);
    i_store(room->start, _mm512_sub_epi32(i_zero(), _mm512_slli_epi32(_mm512_castps_si512(integers), 3)));
    const __mmask16 some = _mm512_cmp_ps_mask(scale, v_set(0), _CMP_GT_OQ);
    v_store(room->scale.of, scale);
    v_store(room->ratio.of, _mm512_maskz_div_ps(some, sum, scale));
    v_store(room->base.of, v_join(dots, 0) * v_set(1.0f / 256));
}

/* Scores of a query of a group to weights in integers. */
static ALWAYS_INLINE void weigh_query(const warm_steps *values, int q, warm_room *room, warm_group *group) {
    const int at = (group->at + q) * PAGE;
    const vf top = one_lane(&group->top, q);
    vf total = v_set(0), shared = v_set(0);
    vi half[2];
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; pair++) {
        vi integers[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            const int t = (2 * pair + v) * W;
            const vf p = v_exp2_rough(v_load(room->score + at + t) - top);
            total = v_fma(p, v_load(values->inverse + t), total);
            shared = v_fma(p, v_load(values->zeros + t), shared);
            integers[v] = _mm512_cvtps_epi32(p);
        }
        half[pair] = _mm512_packs_epi32(integers[0], integers[1]);
    }
    const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const vi row = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(half[0], half[1]));
    _mm512_store_si512(room->row + at, row);
    const vf sum = to_float(_mm512_dpbusd_epi32(i_zero(), _mm512_set1_epi8(1), row));
    group->sums[q] = total;
    group->sums[GROUP + q] = v_fma(sum, v_set(-8), shared);
}

/* Scores of `queries` queries from `at` on; meanwhile the weights of a group, unless that is NULL. */
static ALWAYS_INLINE void score_keys(const uint8_t *integers, int64_t dim, int at, const int queries, const int ask,
                                     const int asked, const warm_page *page, warm_room *room, warm_group *group) {
    const int64_t bytes = ml_query_bytes(dim);
    const int8_t *x = ml_query_row(integers + at * bytes, dim).high;
    vi sum[GROUP][WIDE];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 4
        for (int v = 0; v < WIDE; v++) sum[q][v] = _mm512_set1_epi32(room->start[at + q]);
    }
    for (int64_t i = 0; i < dim; i += 16) {
        add_codes(x, bytes, queries, page->keys.codes, PAGE, i, 0, WIDE, ask, asked, sum);
        add_codes(x, bytes, queries, page->keys.codes, PAGE, i + 8, 0, WIDE, ask, asked, sum);
        if (group && i < GROUP * 16) weigh_query(&page->steps, (int)i / 16, room, group);
    }
#pragma GCC unroll 4
    for (int v = 0; v < WIDE; v++) {
        const vf steps = v_load(page->keys.steps + v * W), zeros = v_load(page->keys.zeros + v * W);
        const vf logs = v_load(page->steps.logs + v * W);
#pragma GCC unroll 4
        for (int q = at; q < at + queries; q++) {
            const vf constant = v_fma(zeros, one_lane(&room->ratio, q), one_lane(&room->base, q));
            const vf score = v_fma(to_float(sum[q - at][v]), steps, constant);
            v_store(room->score + q * PAGE + v * W, v_fma(score, one_lane(&room->scale, q), logs));
        }
    }
}

/* Tokens outside [from, to) get no weight. */
static __attribute__((noinline)) void mask_tokens(float *score, int64_t from, int64_t to, int queries) {
    const float none = -1e30f; /* finite, for v_exp2_rough */
    for (int q = 0; q < queries; q++, score += PAGE) {
        for (int64_t t = 0; t < from; t++) score[t] = none;
        for (int64_t t = to; t < PAGE; t++) score[t] = none;
    }
}

/* What stands for 2^0 in the weights of a group: such that the largest weight times step is 127. */
static ALWAYS_INLINE void set_tops(int64_t from, int64_t to, const int queries, warm_room *room, warm_group *group) {
    vf best[MANY];
    if (from > 0 || to < PAGE) mask_tokens(room->score + group->at * PAGE, from, to, queries);
#pragma GCC unroll 8
    for (int q = 0; q < MANY; q++) {
        best[q] = v_set(0);
        if (q >= queries) continue;
        const float *s = room->score + (group->at + q) * PAGE;
        best[q] = v_max(v_max(v_load(s), v_load(s + W)), v_max(v_load(s + 2 * W), v_load(s + 3 * W)));
    }
    v_store(group->top.of, v_join(best, 1) - v_set(6.98868469f));
}

/* Brings top and sum of queries from `first` on up to date, and finds what the values of the group are added with. */
static ALWAYS_INLINE void find_factors(const ml_attend *work, int64_t first, const int queries, warm_group *group) {
    const __mmask16 lanes = first_lanes(queries);
    vf lane[MANY];
#pragma GCC unroll 8
    for (int i = 0; i < MANY; i++) lane[i] = i % GROUP < queries ? group->sums[i] : v_set(0);
    const vf sums = v_join(lane, 0), here = v_load(group->top.of);
    const vf before = _mm512_maskz_loadu_ps(lanes, work->top + first) * v_set(log2_e);
    const vf after = v_max(here, before);
    const vf keep = v_exp2_below(before - after), factor = v_exp2_below(here - after);
    const vf unit = factor * v_set(work->value_unit);
    v_store(group->keep.of, keep);
    v_store(group->factor.of, unit);
    v_store(group->shared.of, _mm512_shuffle_f32x4(sums, sums, 0x55) * unit);
    const vf sum = _mm512_maskz_loadu_ps(lanes, work->sum + first);
    _mm512_mask_storeu_ps(work->top + first, lanes & _mm512_cmp_ps_mask(here, before, _CMP_GT_OQ),
                          here * v_set(0.693147181f));
    _mm512_mask_storeu_ps(work->sum + first, lanes, v_fma(sum, keep, sums * factor));
}

/* Adds lanes [at, at + vectors W) of the values to queries from `first` on, which are a group; meanwhile the weights of
 * another one, unless that is NULL. */
static ALWAYS_INLINE void add_lanes(const ml_attend *work, int64_t first, const int queries, int64_t at,
                                    const int vectors, const int ask, const int asked, const warm_page *page,
                                    warm_room *room, const warm_group *group, warm_group *other) {
    const int64_t dim = work->head_dim;
    float *acc = work->acc + first * dim + at;
    vi sum[GROUP][WIDE];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[q][v] = i_zero();
    }
    const int8_t *x = room->row + group->at * PAGE;
    for (int i = 0; i < PAGE; i += 16) {
        add_codes(x, PAGE, queries, page->values.codes, dim, i, at, vectors, ask, asked, sum);
        add_codes(x, PAGE, queries, page->values.codes, dim, i + 8, at, vectors, ask, asked, sum);
        if (other) weigh_query(&page->steps, i / 16, room, other);
    }
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) {
        const vf keep = one_lane(&group->keep, q), shared = one_lane(&group->shared, q);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vf more = v_fma(to_float(sum[q][v]), one_lane(&group->factor, q), shared);
            v_store(acc + q * dim + v * W, v_fma(v_load(acc + q * dim + v * W), keep, more));
        }
    }
}

/* Lanes from `at` on. */
static ALWAYS_INLINE void add_rest(const ml_attend *work, int64_t first, const int queries, int64_t at, const int ask,
                                   const int asked, const warm_page *page, warm_room *room, const warm_group *group) {
    for (; at + WIDE * W <= work->head_dim; at += WIDE * W) {
        add_lanes(work, first, queries, at, WIDE, ask, asked, page, room, group, NULL);
    }
    for (; at < work->head_dim; at += W) add_lanes(work, first, queries, at, 1, 0, 1, page, room, group, NULL);
}

/* Two groups from query `first` on; head_dim has as many lanes as are worked on at once. */
static void attend_eight(const ml_attend *work, int64_t first, int64_t from, int64_t to, const warm_page *page) {
    const int64_t dim = work->head_dim, last = first + GROUP;
    const uint8_t *integers = work->integers + first * ml_query_bytes(dim);
    warm_room room;
    warm_group a, b;
    a.at = 0;
    b.at = GROUP;
    open_queries(work, integers, 2 * GROUP, page->keys.means, &room);
    score_keys(integers, dim, 0, GROUP, 0, 2, page, &room, NULL);
    set_tops(from, to, GROUP, &room, &a);
    score_keys(integers, dim, GROUP, GROUP, 2, 4, page, &room, &a);
    find_factors(work, first, GROUP, &a);
    set_tops(from, to, GROUP, &room, &b);
    add_lanes(work, first, GROUP, 0, WIDE, 0, 2, page, &room, &a, &b);
    find_factors(work, last, GROUP, &b);
    add_rest(work, first, GROUP, WIDE * W, 0, 4, page, &room, &a);
    add_lanes(work, last, GROUP, 0, WIDE, 2, 4, page, &room, &b, NULL);
    add_rest(work, last, GROUP, WIDE * W, 0, 0, page, &room, &b);
}

/* One group. */
static ALWAYS_INLINE void attend_group(const ml_attend *work, int64_t first, const int queries, int64_t from,
                                       int64_t to, const warm_page *page) {
    const uint8_t *integers = work->integers + first * ml_query_bytes(work->head_dim);
    warm_room room;
    warm_group group;
    group.at = 0;
    open_queries(work, integers, queries, page->keys.means, &room);
    score_keys(integers, work->head_dim, 0, queries, 0, WIDE, page, &room, NULL);
    set_tops(from, to, queries, &room, &group);
    for (int q = 0; q < queries; q++) weigh_query(&page->steps, q, &room, &group);
    find_factors(work, first, queries, &group);
    add_rest(work, first, queries, 0, 0, WIDE, page, &room, &group);
}

/* A number of queries is compiled by itself if it is common, so that sums stay in registers. */
static void attend_four(const ml_attend *work, int64_t first, int64_t from, int64_t to, const warm_page *page) {
    attend_group(work, first, 4, from, to, page);
}
static void attend_one(const ml_attend *work, int64_t first, int64_t from, int64_t to, const warm_page *page) {
    attend_group(work, first, 1, from, to, page);
}

static void attend_warm4(const ml_attend *work) {
    warm_page page;
    side_open(work->keys, work->next_keys, work->head_dim, 4, 0, &page.keys);
    side_open(work->values, work->next_values, work->head_dim, 4, 1, &page.values);
    open_steps(&page.values, &page.steps);
    for (int64_t r = 0; r < work->rows;) {
        const int64_t from = work->from[r], to = work->to[r];
        int64_t q = r * work->group;
        do r++;
        while (r < work->rows && work->from[r] == from && work->to[r] == to);
        const int64_t end = from < to ? r * work->group : q;
        if (work->head_dim >= WIDE * W) {
            for (; end - q >= 8; q += 8) attend_eight(work, q, from, to, &page);
        }
        for (; end - q >= 4; q += 4) attend_four(work, q, from, to, &page);
        for (; q < end; q++) attend_one(work, q, from, to, &page);
    }
}
