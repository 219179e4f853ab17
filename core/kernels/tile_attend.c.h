/* Attention to one page on a matrix unit, a part of tile.c.h: scores = Q K and acc += P V in tiles of bf16, online
 * softmax in f32 between them. Probabilities are rounded to bf16, their sum is not. 32 queries at a time: A is queries,
 * then probabilities; B is keys, then values, two neighbouring rows of which are laid side by side once for all
 * queries.
 *
 * On paper, for Sapphire Rapids: 128 queries and a page of heads of 64 take 2048 cycles in t_dot and about 4000 in the
 * vector units, most of it exp; AVX-512 alone takes 32,000 for the products. */

enum { PAGE = ML_PAGE_TOKENS, QUERIES = 2 * TILE };

typedef struct attend_room {
    _Alignas(64) float score[QUERIES * PAGE];
    _Alignas(64) uint16_t weight[QUERIES * PAGE]; /* probabilities */
    float keep[QUERIES];
    uint64_t seen[QUERIES]; /* a bit for each token */
} attend_room;

/* 32 floats to bf16. */
static inline __m512i pack(__m512 a, __m512 b) {
#if defined(__AVX512BF16__)
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
#else
    const __m512i places = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                                            25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(nearest(a), places, nearest(b));
#endif
}

/* 2^(x log2(e)) for x <= 0, 0 below -138, NaN for NaN, 1 for 0: Taylor up to degree 5 of what is left of the exponent,
 * 3e-6 off at most. */
static inline __m512 exp_below(__m512 x) {
    const __m512 t = _mm512_max_ps(_mm512_set1_ps(-200), _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(1.33335581e-3f); /* ln(2)^5 / 5!, and so on */
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* Lane i: the sum, or the largest, of the lanes of v[i]. Neighbours share a vector, then fours, then all. */
static inline __m512 join(__m512 a, __m512 b, int largest) {
    return largest ? _mm512_max_ps(a, b) : _mm512_add_ps(a, b);
}
static inline __m512 join_lanes(const __m512 v[TILE], int largest) {
    __m512 fours[4], halves[2];
    for (int i = 0; i < 4; i++) {
        const __m512 *w = v + 4 * i;
        const __m512 a = join(_mm512_unpacklo_ps(w[0], w[1]), _mm512_unpackhi_ps(w[0], w[1]), largest);
        const __m512 b = join(_mm512_unpacklo_ps(w[2], w[3]), _mm512_unpackhi_ps(w[2], w[3]), largest);
        fours[i] = join(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee), largest);
    }
    for (int i = 0; i < 2; i++) {
        const __m512 a = fours[2 * i], b = fours[2 * i + 1];
        halves[i] = join(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd), largest);
    }
    return join(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88), _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd),
                largest);
}

/* x {rows, lanes} of bf16 as B tiles {rows / 32, lanes / 16}: words of rows 2 i and 2 i + 1 in turn. Rows outside
 * [from, to) become zero. `ahead` bytes further is what comes next. Returns 0 if one in the range is not finite. */
static int interleave(const uint16_t *x, int64_t rows, int64_t lanes, int64_t from, int64_t to, uintptr_t ahead,
                      uint16_t *tiles) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16)), infinite = _mm512_set1_epi16(0x7f80);
    __mmask32 bad = 0;
    for (int64_t r = 0; r < rows; r += 2, x += 2 * lanes) {
        const __mmask32 even = r >= from && r < to ? ~0u : 0, odd = r + 1 >= from && r + 1 < to ? ~0u : 0;
        uint16_t *to_row = tiles + r / BLOCK * (lanes / TILE) * WORDS + r % BLOCK / 2 * BLOCK;
        for (int64_t i = 0; i < lanes; i += BLOCK, to_row += 2 * WORDS) {
            __builtin_prefetch((const void *)((uintptr_t)(x + i) + ahead));
            __builtin_prefetch((const void *)((uintptr_t)(x + lanes + i) + ahead));
            const __m512i a = _mm512_maskz_loadu_epi16(even, x + i), b = _mm512_maskz_loadu_epi16(odd, x + lanes + i);
            bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(a, infinite), infinite);
            bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(b, infinite), infinite);
            _mm512_storeu_si512(to_row, _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(to_row + WORDS, _mm512_permutex2var_epi16(a, high, b));
        }
    }
    return bad == 0;
}

/* Scores of up to 16 queries to weights exp(score - top), 0 where nothing is seen. Brings top and sum up to date; keep
 * is what the sums so far shrink by. */
static void weigh(const float *score, const uint64_t *seen, int64_t queries, float *top, float *sum, float *keep,
                  uint16_t *weight) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __mmask16 lanes = (__mmask16)((1u << queries) - 1);
    __m512 all[TILE];
    for (int64_t q = 0; q < TILE; q++) {
        all[q] = none;
        for (int v = 0; q < queries && v < PAGE; v += TILE) {
            all[q] =
                _mm512_mask_max_ps(all[q], (__mmask16)(seen[q] >> v), all[q], _mm512_load_ps(score + q * PAGE + v));
        }
    }
    const __m512 before = _mm512_mask_loadu_ps(none, lanes, top);
    const __m512 after = _mm512_max_ps(join_lanes(all, 1), before);
    const __m512 base = _mm512_mask_mov_ps(after, _mm512_cmp_ps_mask(after, none, _CMP_EQ_OQ), _mm512_setzero_ps());
    const __m512 shrink = exp_below(_mm512_sub_ps(before, base));
    _Alignas(64) float bases[TILE];
    _mm512_store_ps(bases, base);
    for (int64_t q = 0; q < queries; q++) {
        __m512 p[PAGE / TILE];
        for (int v = 0; v < PAGE / TILE; v++) {
            const __mmask16 mask = (__mmask16)(seen[q] >> (v * TILE));
            const __m512 x = _mm512_sub_ps(_mm512_load_ps(score + q * PAGE + v * TILE), _mm512_set1_ps(bases[q]));
            p[v] = _mm512_maskz_mov_ps(mask, exp_below(x));
        }
        _mm512_store_si512(weight + q * PAGE, pack(p[0], p[1]));
        _mm512_store_si512(weight + q * PAGE + BLOCK, pack(p[2], p[3]));
        all[q] = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
    }
    const __m512 total = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, sum), shrink, join_lanes(all, 0));
    _mm512_mask_storeu_ps(top, lanes, after);
    _mm512_mask_storeu_ps(sum, lanes, total);
    _mm512_mask_storeu_ps(keep, lanes, shrink);
}

/* C {queries, two tiles of lanes}, of `a` queries in the first tile, += A {queries, 32 steps} B {steps, tiles}. */
static inline void multiply_steps(const uint16_t *rows, int64_t ld, int64_t a, const uint16_t *tiles, int64_t step,
                                  int64_t steps) {
    const uint16_t *second = rows + a * ld;
    for (int64_t i = 0; i < steps; i++, rows += BLOCK, second += BLOCK, tiles += step) {
        t_load(4, rows, ld * 2);
        t_load(6, tiles, TILE * 4);
        t_dot(0, 4, 6);
        t_load(7, tiles + WORDS, TILE * 4);
        t_dot(1, 4, 7);
        t_load(5, second, ld * 2);
        t_dot(2, 5, 6);
        t_dot(3, 5, 7);
    }
}
static inline void store_tiles(float *y, int64_t ld, int64_t a) {
    t_store(0, y, ld * 4);
    t_store(1, y + TILE, ld * 4);
    t_store(2, y + a * ld, ld * 4);
    t_store(3, y + a * ld + TILE, ld * 4);
}
static inline void load_tiles(const float *y, int64_t ld, int64_t a) {
    t_load(0, y, ld * 4);
    t_load(1, y + TILE, ld * 4);
    t_load(2, y + a * ld, ld * 4);
    t_load(3, y + a * ld + TILE, ld * 4);
}

/* Queries [h, h + some), `a` of them in the first tile, for which room->seen is filled. */
static void attend_block(const ml_attend *work, int64_t h, int64_t some, int64_t a, const uint16_t *keys,
                         const uint16_t *values, uint16_t *q, attend_room *room) {
    const int64_t dim = work->head_dim;
    float *acc = work->acc + h * dim;
    for (int64_t i = 0; i < some * dim; i += BLOCK) {
        const float *x = work->q + h * dim + i;
        _mm512_storeu_si512(q + i, pack(_mm512_loadu_ps(x), _mm512_loadu_ps(x + TILE)));
    }
    for (int64_t t = 0; t < PAGE; t += 2 * TILE) {
        t_zero(0);
        t_zero(1);
        t_zero(2);
        t_zero(3);
        multiply_steps(q, dim, a, keys + t / TILE * WORDS, PAGE / TILE * WORDS, dim / BLOCK);
        store_tiles(room->score + t, PAGE, a);
    }
    for (int64_t i = 0; i < some; i += TILE) {
        const int64_t n = some - i < TILE ? some - i : TILE;
        weigh(room->score + i * PAGE, room->seen + i, n, work->top + h + i, work->sum + h + i, room->keep + i,
              room->weight + i * PAGE);
    }
    for (int64_t i = 0; i < some; i++) {
        const __m512 keep = _mm512_set1_ps(room->keep[i]);
        for (int64_t j = i * dim; room->keep[i] != 1 && j < (i + 1) * dim; j += TILE) {
            _mm512_storeu_ps(acc + j, _mm512_mul_ps(_mm512_loadu_ps(acc + j), keep));
        }
    }
    for (int64_t j = 0; j < dim; j += 2 * TILE) {
        load_tiles(acc + j, dim, a);
        multiply_steps(room->weight, PAGE, a, values + j / TILE * WORDS, dim / TILE * WORDS, PAGE / BLOCK);
        store_tiles(acc + j, dim, a);
    }
}

static uint64_t tokens_seen(int64_t from, int64_t to) {
    if (from >= to) return 0;
    return ~(uint64_t)0 >> (PAGE - (to - from)) << from;
}

static void (*attend_few)(const ml_attend *work);

/* See ml_attend: bf16 pages and enough rows, unless more precision is asked for; values that are not finite, which
 * would reach rows that do not see them, go the other way. */
static void attend(const ml_attend *work) {
    const int64_t dim = work->head_dim, queries = work->rows * work->group;
    int64_t from = PAGE, to = 0;
    for (int64_t r = 0; r < work->rows; r++) {
        if (work->from[r] >= work->to[r]) continue;
        from = work->from[r] < from ? work->from[r] : from;
        to = work->to[r] > to ? work->to[r] : to;
    }
    if (from >= to) return;
    uint16_t *keys = (uint16_t *)(void *)work->area, *values = keys + dim * PAGE, *q = values + dim * PAGE;
    if (work->dtype != ML_BF16 || work->rows < ML_TILE_COLUMNS || dim % BLOCK || ml_kernels_exact() ||
        !interleave(work->values, PAGE, dim, from, to, (uintptr_t)work->next_values - (uintptr_t)work->values,
                    values)) {
        attend_few(work);
        return;
    }
    interleave(work->keys, dim, PAGE, 0, dim, (uintptr_t)work->next_keys - (uintptr_t)work->keys, keys);
    attend_room room;
    const int64_t blocks = (queries + QUERIES - 1) / QUERIES;
    int64_t shape = 0, h = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t some = queries / blocks + (b < queries % blocks), a = (some + 1) / 2;
        if (some != shape) t_configure(a, some - a);
        shape = some;
        for (int64_t i = 0; i < some; i++) {
            const int64_t row = (h + i) / work->group;
            room.seen[i] = tokens_seen(work->from[row], work->to[row]);
        }
        attend_block(work, h, some, a, keys, values, q, &room);
        h += some;
    }
    t_release();
}
