/* Sampling over a whole vocabulary: the sum of weights, and the token at a point of it. */
#include "base/error.h"
#include "moonloom.h"

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
    int64_t i = 0;
    for (int64_t s = 0; s <= skipped; s++) {
        const int64_t end = s < skipped ? skip[s] : n;
        for (; i < end; i++) sum += exp(scale * (double)logits[i] - top);
        i = end + 1;
    }
    *out = sum;
    return ML_OK;
}

int ml_logits_pick(const float *logits, int64_t n, double scale, double top, const int32_t *skip, int64_t skipped,
                   double target, int32_t *id) {
    int status = check_arguments(logits, n, scale, skip, skipped);
    if (status != ML_OK) return status;
    double sum = 0;
    int32_t last = -1; /* the sum may end a rounding below the target: then the last token that weighs anything */
    int64_t i = 0;
    for (int64_t s = 0; s <= skipped; s++) {
        const int64_t end = s < skipped ? skip[s] : n;
        for (; i < end; i++) {
            const double weight = exp(scale * (double)logits[i] - top);
            if (!(weight > 0)) continue;
            sum += weight;
            last = (int32_t)i;
            if (sum > target) {
                *id = last;
                return ML_OK;
            }
        }
        i = end + 1;
    }
    if (last < 0) return ml_error(ML_E_NOT_FOUND, "no token has any probability left");
    *id = last;
    return ML_OK;
}
