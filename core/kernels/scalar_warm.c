/* Attention to quantised pages, the reference: plain C that is obviously right. */
#include "dtype/decode.h"
#include "dtype/dtype.h"
#include "kernels/set.h"

#include <math.h>

enum { PAGE = ML_PAGE_TOKENS };

void ml_query_quantize(const float *x, int64_t head_dim, void *query) {
    ml_query *q = query;
    int16_t *integers = (int16_t *)(void *)(q + 1);
    int8_t *high = (int8_t *)(integers + head_dim), *low = high + head_dim;
    float top = 0, sum = 0;
    for (int64_t i = 0; i < head_dim; i++) {
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        sum += x[i];
    }
    *q = (ml_query){.scale = top / ML_INTEGER_TOP, .sum = sum};
    if (!isfinite(sum)) q->scale = NAN;
    const float inverse = isfinite(sum) && top > 1e-30f ? ML_INTEGER_TOP / top : 0;
    for (int64_t i = 0; i < head_dim; i++) {
        const int value = inverse > 0 ? (int)lrintf(x[i] * inverse) : 0;
        integers[i] = (int16_t)value;
        high[i] = (int8_t)((value + 128) >> 8);
        low[i] = (int8_t)(value - 256 * high[i]);
        q->integer_sum += value;
        q->high_sum += high[i];
    }
}

/* Code of element i of the reduced dimension in lane `lane`, less the middle one. */
static int code_at(const uint8_t *codes, int bits, int64_t i, int64_t lane, int64_t lanes) {
    if (bits == 8) return codes[(i / 4 * lanes + lane) * 4 + i % 4] - 128;
    return (codes[(i / 8 * lanes + lane) * 4 + i % 4] >> (i % 8 / 4 * 4) & 15) - 8;
}

static float f16_at(const void *numbers, int64_t i) {
    return ml_f16_to_f32(((const uint16_t *)numbers)[i]);
}

static void warm_scores(const ml_attend *work, int64_t h, float *score) {
    const int64_t dim = work->head_dim;
    const ml_query *q = (const void *)(work->integers + h * ml_query_bytes(dim));
    const int16_t *integers = (const void *)(q + 1);
    const int8_t *high = (const void *)(integers + dim);
    const uint8_t *side = work->keys, *codes = side + ml_codes_offset(dim, work->key_bits, 0);
    const int16_t *means = (const int16_t *)(const void *)side + 2 * PAGE;
    float shared = 0;
    for (int64_t i = 0; work->key_bits == 4 && i < dim; i++) shared += (float)(integers[i] * means[i]);
    shared *= q->scale * work->key_unit;
    const float scale = q->scale * work->key_unit * (work->key_bits == 4 ? 256 : 1);
    for (int64_t t = 0; t < PAGE; t++) {
        int32_t dot = 0;
        for (int64_t i = 0; i < dim; i++) {
            dot += (work->key_bits == 4 ? high[i] : integers[i]) * code_at(codes, work->key_bits, i, t, PAGE);
        }
        score[t] = (float)dot * (f16_at(side, t) * scale) + f16_at(side, PAGE + t) * (q->sum * work->key_unit) + shared;
    }
}

static void plain_scores(const ml_attend *work, int64_t h, const float *keys, float *score) {
    const float *q = work->q + h * work->head_dim;
    for (int64_t t = 0; t < PAGE; t++) score[t] = 0;
    for (int64_t i = 0; i < work->head_dim; i++) {
        for (int64_t t = 0; t < PAGE; t++) score[t] += q[i] * keys[i * PAGE + t];
    }
}

/* acc += the values weighted with p, which is 0 for tokens that do not count. */
static void warm_values(const ml_attend *work, const float *p, float *acc) {
    const int64_t dim = work->head_dim;
    const uint8_t *side = work->values, *codes = side + ml_codes_offset(dim, work->value_bits, 1);
    float top = 0, shared = 0;
    int integers[PAGE];
    for (int64_t t = 0; t < PAGE; t++) {
        const float weight = p[t] * f16_at(side, t);
        top = weight > top ? weight : top;
        shared += p[t] * f16_at(side, PAGE + t);
    }
    const float parts = work->value_bits == 4 ? ML_INTEGER_TOP / 256 : ML_INTEGER_TOP, unit = work->value_unit;
    const float inverse = top > 1e-30f ? parts / top : 0;
    for (int64_t t = 0; t < PAGE; t++) {
        integers[t] = inverse > 0 ? (int)lrintf(p[t] * f16_at(side, t) * inverse) : 0;
    }
    const float scale = top / parts;
    for (int64_t i = 0; i < dim; i++) {
        int32_t dot = 0;
        for (int64_t t = 0; t < PAGE; t++) dot += integers[t] * code_at(codes, work->value_bits, t, i, dim);
        acc[i] += ((float)dot * scale + shared) * unit;
    }
}

static void plain_values(const ml_attend *work, const float *p, int64_t from, int64_t to, const float *values,
                         float *acc) {
    for (int64_t t = from; t < to; t++) {
        for (int64_t i = 0; i < work->head_dim; i++) acc[i] += p[t] * values[t * work->head_dim + i];
    }
}

static void attend_query(const ml_attend *work, int64_t h, int64_t from, int64_t to, const float *keys,
                         const float *values) {
    float score[PAGE], best = work->top[h], *acc = work->acc + h * work->head_dim;
    if (work->key_bits == 16) {
        plain_scores(work, h, keys, score);
    } else {
        warm_scores(work, h, score);
    }
    for (int64_t t = from; t < to; t++) best = score[t] > best ? score[t] : best;
    const float keep = expf(work->top[h] - best); /* what was summed so far, in the new scale */
    work->top[h] = best;
    work->sum[h] *= keep;
    for (int64_t i = 0; i < work->head_dim; i++) acc[i] *= keep;
    for (int64_t t = 0; t < PAGE; t++) {
        score[t] = t >= from && t < to ? expf(score[t] - best) : 0;
        work->sum[h] += score[t];
    }
    if (work->value_bits == 16) {
        plain_values(work, score, from, to, values, acc);
    } else {
        warm_values(work, score, acc);
    }
}

static void attend_warm(const ml_attend *work) {
    const ml_decode decode = ml_decode_reference(work->dtype);
    const int64_t n = work->head_dim * PAGE;
    float *keys = work->area, *values = work->area + n;
    if (work->key_bits == 16) decode(work->keys, keys, n);
    if (work->value_bits == 16) decode(work->values, values, n);
    for (int64_t r = 0; r < work->rows; r++) {
        for (int64_t h = r * work->group; work->from[r] < work->to[r] && h < (r + 1) * work->group; h++) {
            attend_query(work, h, work->from[r], work->to[r], keys, values);
        }
    }
}

static void sketch(const uint8_t *codes, int64_t k, const int8_t *columns, int64_t count, int32_t *sums) {
    for (int64_t c = 0; c < count; c++) {
        for (int64_t r = 0; r < ML_SKETCH_ROWS; r++) {
            int32_t sum = 0;
            for (int64_t i = 0; i < k; i++) {
                const int code = code_at(codes, 4, i, r, ML_SKETCH_ROWS) + 8;
                sum += columns[(i / 8 * count + c) * 8 + i % 8] * code;
            }
            sums[c * ML_SKETCH_ROWS + r] = sum;
        }
    }
}

void ml_kernels_scalar_warm(ml_kernels *table) {
    table->attend_warm = attend_warm;
    table->sketch = sketch;
}
