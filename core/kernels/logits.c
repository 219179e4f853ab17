#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Over lanes, so that gcc makes vectors of them. */
float ml_largest(const float *x, int64_t n) {
    enum { LANES = 16 };
    float tops[LANES], top = -INFINITY;
    int64_t i = 0;
    for (int lane = 0; lane < LANES; lane++) tops[lane] = -INFINITY;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) tops[lane] = x[i + lane] > tops[lane] ? x[i + lane] : tops[lane];
    }
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int lane = 0; lane < LANES; lane++) top = tops[lane] > top ? tops[lane] : top;
    return top;
}

/* ---- the largest few: a heap ---- */

/* Order of ml_logits_topk: the larger first, the lower id first among equals, NaN last. */
static int before(float a, int32_t id_a, float b, int32_t id_b) {
    if (a > b || (isnan(b) && !isnan(a))) return 1;
    if (a < b || (isnan(a) && !isnan(b))) return 0;
    return id_a < id_b;
}

/* Restores the heap below `i`: a parent comes after its children in the order, so the root is the worst kept. */
static void sink(int32_t *ids, float *values, int64_t k, int64_t i) {
    for (;;) {
        int64_t worst = i;
        for (int64_t child = 2 * i + 1; child <= 2 * i + 2 && child < k; child++) {
            if (before(values[worst], ids[worst], values[child], ids[child])) worst = child;
        }
        if (worst == i) return;
        float value = values[i];
        int32_t id = ids[i];
        values[i] = values[worst];
        ids[i] = ids[worst];
        values[worst] = value;
        ids[worst] = id;
        i = worst;
    }
}

static void rank_few(const float *logits, int64_t n, int64_t k, int32_t *ids, float *values) {
    enum { BLOCK = 64 };
    for (int64_t i = 0; i < k; i++) {
        ids[i] = (int32_t)i;
        values[i] = logits[i];
    }
    for (int64_t i = k / 2; i-- > 0;) sink(ids, values, k, i);
    for (int64_t block = k; block < n; block += BLOCK) {
        const int64_t end = block + BLOCK < n ? block + BLOCK : n;
        if (ml_largest(logits + block, end - block) <= values[0]) continue; /* an equal one has a lower id there */
        for (int64_t i = block; i < end; i++) {
            if (!before(logits[i], (int32_t)i, values[0], ids[0])) continue;
            values[0] = logits[i];
            ids[0] = (int32_t)i;
            sink(ids, values, k, 0);
        }
    }
    for (int64_t end = k - 1; end > 0; end--) { /* heap sort: the worst goes last */
        float value = values[0];
        int32_t id = ids[0];
        values[0] = values[end];
        ids[0] = ids[end];
        values[end] = value;
        ids[end] = id;
        sink(ids, values, end, 0);
    }
}

/* ---- the largest of many: a radix sort of what may be among them ---- */

enum { HALF_BITS = 16, HALVES = 1 << HALF_BITS };

typedef struct ranked {
    uint32_t key;
    int32_t id;
} ranked;

/* Ascends in the order of ml_logits_topk. No branch on the sign, which nobody could predict. */
static uint32_t key_of(float x) {
    uint32_t bits;
    x += 0.0f; /* -0 equals 0 */
    if (isnan(x)) return UINT32_MAX;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t positive = (bits >> 31) - 1; /* all ones, or none */
    return bits ^ (positive >> 1);
}

/* Stable, by the 16 bits of the keys from bit `shift` on. */
static void sort_by_half(const ranked *from, int64_t n, int shift, ranked *to, int32_t *place) {
    memset(place, 0, HALVES * sizeof *place);
    for (int64_t i = 0; i < n; i++) place[from[i].key >> shift & (HALVES - 1)]++;
    int32_t before_it = 0;
    for (int32_t half = 0; half < HALVES; half++) {
        const int32_t count = place[half];
        place[half] = before_it;
        before_it += count;
    }
    for (int64_t i = 0; i < n; i++) to[place[from[i].key >> shift & (HALVES - 1)]++] = from[i];
}

/* Gathers the logits of which the high half of the key is no larger than the k-th smallest has it: k or some more.
 * `count` {HALVES} is 0. Returns how many. */
static int64_t gather_best(const float *logits, int64_t n, int64_t k, int32_t *count, ranked *out) {
    for (int64_t i = 0; i < n; i++) count[key_of(logits[i]) >> HALF_BITS]++;
    uint32_t last = 0;
    for (int64_t sum = count[0]; sum < k; sum += count[last]) last++;
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t key = key_of(logits[i]);
        if (key >> HALF_BITS <= last) out[found++] = (ranked){key, (int32_t)i};
    }
    return found;
}

static int rank_many(const float *logits, int64_t n, int64_t k, int32_t *ids, float *values) {
    ranked *some = ml_calloc((size_t)n, 2 * sizeof *some);
    int32_t *places = ml_calloc(HALVES, sizeof *places);
    int status = some && places ? ML_OK : ML_E_MEMORY;
    if (status == ML_OK) {
        const int64_t found = gather_best(logits, n, k, places, some);
        sort_by_half(some, found, 0, some + n, places);
        sort_by_half(some + n, found, HALF_BITS, some, places);
        for (int64_t i = 0; i < k; i++) {
            ids[i] = some[i].id;
            values[i] = logits[some[i].id];
        }
    }
    free(some);
    free(places);
    return status;
}

int ml_logits_topk(const float *logits, int64_t n, int64_t k, int32_t *ids, float *values) {
    enum { FEW = 512 };
    if (!logits || !ids || !values || k < 1 || k > n || n > INT32_MAX) {
        return ml_error(ML_E_ARGUMENT, "top-k needs 1 <= k <= n, not k = %lld of n = %lld", (long long)k, (long long)n);
    }
    if (k > FEW) return rank_many(logits, n, k, ids, values);
    rank_few(logits, n, k, ids, values);
    return ML_OK;
}

/* ---- normaliser ---- */

int ml_logits_logsumexp(const float *logits, int64_t n, double *out) {
    if (!logits || !out || n < 1) {
        return ml_error(ML_E_ARGUMENT, "log-sum-exp needs at least one logit, not %lld", (long long)n);
    }
    const float top = ml_largest(logits, n);
    if (isinf(top)) { /* infinite, or NaN where a logit is */
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += (double)logits[i];
        *out = isnan(sum) ? sum : (double)top;
        return ML_OK;
    }
    *out = (double)top + log(ml_kernels_get()->exp_sum(logits, n, 1, (double)top));
    return ML_OK;
}
