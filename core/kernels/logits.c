#include "base/error.h"

#include <math.h>

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

int ml_logits_topk(const float *logits, int64_t n, int64_t k, int32_t *ids, float *values) {
    if (!logits || !ids || !values || k < 1 || k > n || n > INT32_MAX) {
        return ml_error(ML_E_ARGUMENT, "top-k needs 1 <= k <= n, not k = %lld of n = %lld", (long long)k, (long long)n);
    }
    for (int64_t i = 0; i < k; i++) {
        ids[i] = (int32_t)i;
        values[i] = logits[i];
    }
    for (int64_t i = k / 2; i-- > 0;) sink(ids, values, k, i);
    for (int64_t i = k; i < n; i++) {
        if (!before(logits[i], (int32_t)i, values[0], ids[0])) continue;
        values[0] = logits[i];
        ids[0] = (int32_t)i;
        sink(ids, values, k, 0);
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
    return ML_OK;
}

int ml_logits_logsumexp(const float *logits, int64_t n, double *out) {
    if (!logits || !out || n < 1) {
        return ml_error(ML_E_ARGUMENT, "log-sum-exp needs at least one logit, not %lld", (long long)n);
    }
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) top = logits[i] > top ? logits[i] : top;
    double sum = 0;
    if (isinf(top)) { /* infinite, or NaN where a logit is */
        for (int64_t i = 0; i < n; i++) sum += logits[i];
        *out = isnan(sum) ? sum : (double)top;
        return ML_OK;
    }
    for (int64_t i = 0; i < n; i++) sum += expf(logits[i] - top);
    *out = (double)top + log(sum);
    return ML_OK;
}
