/* Rotary position embedding (arXiv:2104.09864), and every way of scaling it that files carry: linear
 * (arXiv:2306.15595), YaRN (arXiv:2309.00071), LongRoPE (arXiv:2402.13753), and a divisor for each frequency
 * (Llama 3). */
#include "model/rope.h"

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

double ml_rope_concentration(double factor, double share) {
    return factor > 1 ? 0.1 * share * log(factor) + 1 : 1;
}

/* YaRN's keys. yarn_attn_factor is the model's own word for the concentration; yarn_log_multiplier makes it a quotient
 * (DeepSeek's mscale and mscale_all_dim). With a yarn_ext_factor of 0 YaRN is linear scaling, which has none. */
static void read_yarn(ml_keys *keys, ml_config *c) {
    c->yarn_beta_fast = ml_keys_positive(keys, "rope.scaling.yarn_beta_fast", 32);
    c->yarn_beta_slow = ml_keys_positive(keys, "rope.scaling.yarn_beta_slow", 1);
    c->yarn_ext_factor = ml_keys_number(keys, "rope.scaling.yarn_ext_factor", 1);
    const double share = ml_keys_number(keys, "rope.scaling.yarn_log_multiplier", 0);
    const double usual = ml_rope_concentration(c->rope_factor, 1) / ml_rope_concentration(c->rope_factor, share);
    c->rope_magnitude *= ml_keys_positive(keys, "rope.scaling.yarn_attn_factor", c->yarn_ext_factor > 0 ? usual : 1);
}

void ml_rope_read(ml_keys *keys, ml_config *c) {
    static const char *const names[] = {"none", "linear", "yarn", "longrope", NULL};
    static const char *const factors[] = {"rope.scaling.factor", "rope.scale_linear"}; /* the second is the old name */
    c->rope_base = ml_keys_positive(keys, "rope.freq_base", 10000);
    const char *factor = ml_keys_has(keys, factors[0]) || !ml_keys_has(keys, factors[1]) ? factors[0] : factors[1];
    const int scales = ml_keys_has(keys, factor);
    c->rope_scaling = ml_keys_choice(keys, "rope.scaling.type", names, scales ? ML_ROPE_LINEAR : ML_ROPE_NONE);
    const int needs_factor = c->rope_scaling == ML_ROPE_LINEAR || c->rope_scaling == ML_ROPE_YARN;
    c->rope_factor = c->rope_scaling == ML_ROPE_NONE ? 1 : ml_keys_positive(keys, factor, needs_factor ? 0 : 1);
    c->rope_magnitude = ml_keys_positive(keys, "rope.scaling.attn_factor", 1);
    if (c->rope_scaling != ML_ROPE_YARN && c->rope_scaling != ML_ROPE_LONGROPE) return;
    c->rope_original = ml_keys_int(keys, "rope.scaling.original_context_length", 1, INT32_MAX, c->context);
    if (c->rope_scaling == ML_ROPE_YARN) read_yarn(keys, c);
}

/* ---- frequencies ---- */

/* The frequency index at which a context of `rope_original` tokens holds `rotations` full turns. */
static double correction_index(const ml_config *c, double rotations) {
    return c->rope_dims * log(c->rope_original / (rotations * 2 * M_PI)) / (2 * log(c->rope_base));
}

/* Fast frequencies stay, slow ones are divided by the factor, and a ramp joins them; yarn_ext_factor is how much of
 * staying is granted. */
static void apply_yarn(const ml_config *c, int fractions, double *frequencies) {
    double first = correction_index(c, c->yarn_beta_fast), last = correction_index(c, c->yarn_beta_slow);
    if (!fractions) {
        first = floor(first);
        last = ceil(last);
    }
    const double low = fmax(first, 0), high = fmin(last, c->rope_dims - 1);
    for (int32_t i = 0; i < c->rope_dims / 2; i++) {
        const double ramp = fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);
        const double kept = (1 - ramp) * c->yarn_ext_factor;
        const double divided = ramp + (1 - ramp) * (1 - c->yarn_ext_factor);
        frequencies[i] = frequencies[i] / c->rope_factor * divided + frequencies[i] * kept;
    }
}

static const char LONG[] = "rope_factors_long.weight", SHORT[] = "rope_factors_short.weight",
                  PLAIN[] = "rope_freqs.weight";

int ml_rope_divides(const ml_config *c, const char *tensor) {
    if (c->rope_scaling != ML_ROPE_LONGROPE) return strcmp(tensor, PLAIN) == 0;
    return strcmp(tensor, LONG) == 0 || strcmp(tensor, SHORT) == 0;
}

/* Divides each frequency by its number in tensor `name`, {dims / 2} of f32. */
static int divide(ml_rope *rope, const ml_weights *weights, const char *name) {
    int64_t index;
    const int32_t count = rope->dims / 2;
    ml_tensor_info info;
    if (ml_weights_find(weights, name, &index) != ML_OK) {
        return ml_error(ML_E_FORMAT, "%s: tensor %s is missing", ml_weights_path(weights), name);
    }
    ml_weights_info(weights, index, &info);
    if (info.dtype != ML_F32 || info.ndim != 1 || info.shape[0] != count) {
        return ml_error(ML_E_FORMAT, "%s: %s must be f32 {%d}", ml_weights_path(weights), name, count);
    }
    float *factors = ml_calloc((size_t)count, sizeof *factors);
    if (!factors) return ML_E_MEMORY;
    ml_kernels_get()->decode_row[ML_F32](ml_weights_data(weights, index), factors, count);
    for (int32_t i = 0; i < count; i++) rope->frequencies[i] /= factors[i];
    free(factors);
    return ML_OK;
}

/* LongRoPE has divisors for sequences that fit the original context and for longer ones. Keys in the cache stay turned
 * as they were, so that one set must serve all positions: the set for the longest sequence that the model takes. */
static int apply_file_factors(ml_rope *rope, const ml_config *c, const ml_weights *weights) {
    int64_t index;
    if (c->rope_scaling == ML_ROPE_LONGROPE) {
        const int longer = c->context > c->rope_original;
        return divide(rope, weights, longer ? LONG : SHORT);
    }
    if (ml_weights_find(weights, PLAIN, &index) != ML_OK) return ML_OK;
    return divide(rope, weights, PLAIN);
}

/* Factors may be zero, NaN, too small or too large: angles or scores would be NaN, or all scores 0, and what comes out
 * need not show it. Scores have the square of the magnitude. */
static int check_numbers(const ml_rope *rope, const ml_weights *weights) {
    if (!(rope->magnitude > 1e-18 && rope->magnitude < 1e18)) {
        return ml_error(ML_E_FORMAT, "%s: RoPE multiplies cos and sin by %g: a factor of its scaling is damaged",
                        ml_weights_path(weights), rope->magnitude);
    }
    for (int32_t i = 0; i < rope->dims / 2; i++) {
        if (isfinite(rope->frequencies[i] * INT32_MAX)) continue;
        return ml_error(ML_E_FORMAT,
                        "%s: RoPE frequency %d is %g, no finite number: its base, factor or divisor is damaged",
                        ml_weights_path(weights), i, rope->frequencies[i]);
    }
    return ML_OK;
}

int ml_rope_prepare(ml_rope *rope, const ml_arch *arch, const ml_config *c, const ml_weights *weights) {
    double *frequencies = ml_calloc((size_t)c->rope_dims / 2, sizeof *frequencies);
    if (!frequencies) return ML_E_MEMORY;
    *rope = (ml_rope){c->rope_dims, c->head_dim, arch->rope_halves, c->rope_magnitude, frequencies};
    for (int32_t i = 0; i < c->rope_dims / 2; i++) frequencies[i] = pow(c->rope_base, -2.0 * i / c->rope_dims);
    if (c->rope_scaling == ML_ROPE_YARN) {
        apply_yarn(c, arch->yarn_fractions, frequencies);
    } else {
        for (int32_t i = 0; i < c->rope_dims / 2; i++) frequencies[i] /= c->rope_factor;
    }
    int status = apply_file_factors(rope, c, weights);
    return status == ML_OK ? check_numbers(rope, weights) : status;
}

void ml_rope_release(ml_rope *rope) {
    free(rope->frequencies);
}

/* ---- turning ---- */

void ml_rope_angles(const ml_rope *rope, int64_t position, float *cosines, float *sines) {
    for (int32_t i = 0; i < rope->dims / 2; i++) {
        const double angle = (double)position * rope->frequencies[i];
        cosines[i] = (float)(cos(angle) * rope->magnitude);
        sines[i] = (float)(sin(angle) * rope->magnitude);
    }
}

void ml_rope_apply(const ml_rope *rope, const float *cosines, const float *sines, float *vectors, int32_t heads) {
    const int32_t half = rope->dims / 2;
    const int32_t step = rope->halves ? 1 : 2;     /* from one pair to the next */
    const int32_t apart = rope->halves ? half : 1; /* between the two of a pair */
    for (int32_t head = 0; head < heads; head++) {
        float *v = vectors + (int64_t)head * rope->head_dim;
        for (int32_t i = 0; i < half; i++) {
            const float a = v[i * step], b = v[i * step + apart];
            v[i * step] = a * cosines[i] - b * sines[i];
            v[i * step + apart] = b * cosines[i] + a * sines[i];
        }
    }
}
