/* Rotary position embedding (arXiv:2104.09864) with YaRN (arXiv:2309.00071) as gpt-oss has it: the ramp between kept
 * and divided frequencies keeps its fractional ends (llama.cpp rounds them). */
#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "load/weights.h"
#include "model/model.h"

#include <math.h>
#include <stdlib.h>

/* The frequency index at which a context of `rope_original` tokens holds `rotations` full turns. */
static double correction_index(const ml_config *c, double rotations) {
    return c->rope_dims * log(c->rope_original / (rotations * 2 * M_PI)) / (2 * log(c->rope_base));
}

static void apply_yarn(const ml_config *c, double *frequencies) {
    const double low = fmax(correction_index(c, c->yarn_beta_fast), 0);
    const double high = fmin(correction_index(c, c->yarn_beta_slow), c->rope_dims - 1);
    for (int32_t i = 0; i < c->rope_dims / 2; i++) {
        const double ramp = fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);
        frequencies[i] = frequencies[i] / c->rope_factor * ramp + frequencies[i] * (1 - ramp);
    }
}

/* Llama 3 files carry a divisor for each frequency. */
static int apply_file_factors(const ml_model *model, double *frequencies) {
    int64_t index;
    if (ml_weights_find(model->weights, "rope_freqs.weight", &index) != ML_OK) return ML_OK;
    const int32_t count = model->config.rope_dims / 2;
    ml_tensor_info info;
    ml_weights_info(model->weights, index, &info);
    if (info.dtype != ML_F32 || info.ndim != 1 || info.shape[0] != count) {
        return ml_error(ML_E_FORMAT, "%s: rope_freqs.weight must be f32 {%d}", ml_weights_path(model->weights), count);
    }
    float *factors = ml_calloc((size_t)count, sizeof *factors);
    if (!factors) return ML_E_MEMORY;
    ml_kernels_get()->decode_row[ML_F32](ml_weights_data(model->weights, index), factors, count);
    for (int32_t i = 0; i < count; i++) frequencies[i] /= factors[i];
    free(factors);
    return ML_OK;
}

/* Factors may be zero, NaN, or too small: the angles would be NaN, and what comes out need not show it. */
static int check_frequencies(const ml_model *model) {
    for (int32_t i = 0; i < model->config.rope_dims / 2; i++) {
        if (isfinite(model->rope_frequencies[i] * INT32_MAX)) continue;
        return ml_error(ML_E_FORMAT,
                        "%s: RoPE frequency %d is %g, no finite number: its base, factor or divisor is damaged",
                        ml_weights_path(model->weights), i, model->rope_frequencies[i]);
    }
    return ML_OK;
}

int ml_rope_prepare(ml_model *model) {
    const ml_config *c = &model->config;
    double *frequencies = ml_calloc((size_t)c->rope_dims / 2, sizeof *frequencies);
    if (!frequencies) return ML_E_MEMORY;
    model->rope_frequencies = frequencies;
    model->rope_scale = 1;
    for (int32_t i = 0; i < c->rope_dims / 2; i++) frequencies[i] = pow(c->rope_base, -2.0 * i / c->rope_dims);
    if (c->rope_original > 0) {
        apply_yarn(c, frequencies);
        model->rope_scale = 0.1 * log(c->rope_factor) + 1;
    } else {
        for (int32_t i = 0; i < c->rope_dims / 2; i++) frequencies[i] /= c->rope_factor;
    }
    int status = apply_file_factors(model, frequencies);
    return status == ML_OK ? check_frequencies(model) : status;
}

void ml_rope_angles(const ml_model *model, int64_t position, float *cosines, float *sines) {
    for (int32_t i = 0; i < model->config.rope_dims / 2; i++) {
        const double angle = (double)position * model->rope_frequencies[i];
        cosines[i] = (float)(cos(angle) * model->rope_scale);
        sines[i] = (float)(sin(angle) * model->rope_scale);
    }
}

void ml_rope_apply(const ml_model *model, const float *cosines, const float *sines, float *vectors, int32_t heads) {
    const int32_t half = model->config.rope_dims / 2;
    const int32_t step = model->rope_halves ? 1 : 2;     /* from one pair to the next */
    const int32_t apart = model->rope_halves ? half : 1; /* between the two of a pair */
    for (int32_t head = 0; head < heads; head++) {
        float *v = vectors + (int64_t)head * model->config.head_dim;
        for (int32_t i = 0; i < half; i++) {
            const float a = v[i * step], b = v[i * step + apart];
            v[i * step] = a * cosines[i] - b * sines[i];
            v[i * step + apart] = b * cosines[i] + a * sines[i];
        }
    }
}
