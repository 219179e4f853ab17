/* Sampling over a whole vocabulary: the sum of weights, and the token at a point of it. */
#include "base/error.h"
#include "kernels/kernels.h"

#include <math.h>

static int check_arguments(const float *logits, int64_t n, double scale, const int32_t *skip, int64_t skipped) {
    if (!logits || n < 1 || n > INT32_MAX || !(scale > 0) || skipped < 0 || (skipped > 0 && !skip)) {
        return ml_error(ML_E_ARGUMENT, "sampling needs logits (%lld) and a positive scale (%g)", (long long)n, scale);
    }
    for (int64_t i = 0; i < skipped; i++) {
        if (skip[i] < 0 || skip[i] >= n || (i > 0 && skip[i] <= skip[i - 1])) {
            return ml_error(ML_E_ARGUMENT, "the ids to leave out must ascend within 0 to %lld", (long long)n - 1);
        }
    }
    return ML_OK;
}

int ml_logits_mass(const float *logits, int64_t n, double scale, double top, const int32_t *skip, int64_t skipped,
                   double *out) {
    int status = check_arguments(logits, n, scale, skip, skipped);
    if (status != ML_OK) return status;
    double sum = 0;
    int64_t begin = 0;
    for (int64_t s = 0; s <= skipped; s++) {
        const int64_t end = s < skipped ? skip[s] : n;
        sum += ml_kernels_get()->exp_sum(logits + begin, end - begin, scale, top);
        begin = end + 1;
    }
    *out = sum;
    return ML_OK;
}

/* The ids of a block, which are looked at one by one only where the sum exceeds the target. */
enum { BLOCK = 1024 };

/* The first id of [begin, end) at which the sum of the weights from `begin` on exceeds `target`. It may end a rounding
 * below that: then the last one that weighs anything; -1 if none does. */
static int32_t pick_within(const float *logits, int64_t begin, int64_t end, double scale, double top, double target) {
    double sum = 0;
    int32_t last = -1;
    for (int64_t i = begin; i < end && !(last >= 0 && sum > target); i++) {
        const double weight = exp(scale * (double)logits[i] - top);
        if (!(weight > 0)) continue;
        sum += weight;
        last = (int32_t)i;
    }
    return last;
}

int ml_logits_pick(const float *logits, int64_t n, double scale, double top, const int32_t *skip, int64_t skipped,
                   double target, int32_t *id) {
    int status = check_arguments(logits, n, scale, skip, skipped);
    if (status != ML_OK) return status;
    int64_t from = 0, to = 0; /* the last block that weighs anything, */
    double before = 0, sum = 0;
    int64_t begin = 0;
    for (int64_t s = 0; s <= skipped; s++) {
        const int64_t end = s < skipped ? skip[s] : n;
        for (; begin < end && sum <= target; begin += BLOCK) {
            const int64_t next = begin + BLOCK < end ? begin + BLOCK : end;
            const double weight = ml_kernels_get()->exp_sum(logits + begin, next - begin, scale, top);
            if (!(weight > 0)) continue;
            from = begin;
            to = next;
            before = sum; /* and what comes before it */
            sum += weight;
        }
        begin = end + 1;
    }
    const int32_t found = pick_within(logits, from, to, scale, top, target - before);
    if (found < 0) return ml_error(ML_E_NOT_FOUND, "no token has any probability left");
    *id = found;
    return ML_OK;
}
