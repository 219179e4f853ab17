/* The reference kernels: plain C that is obviously right. Sums run in eight interleaved parts, which keeps their
 * rounding small and lets any compiler use the vectors that its target has. */
#include "dtype/decode.h"
#include "dtype/dtype.h"
#include "kernels/set.h"

#include <math.h>

enum { LANES = 8, CHUNK = 256, PAGE = ML_PAGE_TOKENS };

static float dot(const float *a, const float *b, int64_t n) {
    float part[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int l = 0; l < LANES; l++) part[l] += a[i + l] * b[i + l];
    }
    for (; i < n; i++) part[0] += a[i] * b[i];
    return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

/* dot_rows of any dtype: decodes a chunk of a row, then multiplies it with every column. */
static void dot_rows(int dtype, const void *w, int64_t stride, int64_t rows, int64_t k, const float *x, int64_t ldx,
                     int64_t columns, float *y, int64_t ldy) {
    const ml_decode decode = ml_decode_reference(dtype);
    const int64_t chunk_bytes = ml_row_bytes(dtype, CHUNK);
    float chunk[CHUNK];
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)w + r * stride;
        float sum[ML_DOT_COLUMNS] = {0};
        for (int64_t i = 0; i < k; i += CHUNK, row += chunk_bytes) {
            int64_t n = k - i < CHUNK ? k - i : CHUNK;
            decode(row, chunk, n);
            for (int64_t c = 0; c < columns; c++) sum[c] += dot(chunk, x + c * ldx + i, n);
        }
        for (int64_t c = 0; c < columns; c++) y[c * ldy + r] = sum[c];
    }
}

#define DOT_ROWS(name, dtype)                                                                                          \
    static void dot_rows_##name(const void *w, int64_t stride, int64_t rows, int64_t k, const float *x, int64_t ldx,   \
                                int64_t columns, float *y, int64_t ldy) {                                              \
        dot_rows(dtype, w, stride, rows, k, x, ldx, columns, y, ldy);                                                  \
    }

DOT_ROWS(f32, ML_F32)
DOT_ROWS(f16, ML_F16)
DOT_ROWS(bf16, ML_BF16)
DOT_ROWS(q4_0, ML_Q4_0)
DOT_ROWS(q4_1, ML_Q4_1)
DOT_ROWS(q5_0, ML_Q5_0)
DOT_ROWS(q5_1, ML_Q5_1)
DOT_ROWS(q8_0, ML_Q8_0)
DOT_ROWS(q2_k, ML_Q2_K)
DOT_ROWS(q3_k, ML_Q3_K)
DOT_ROWS(q4_k, ML_Q4_K)
DOT_ROWS(q5_k, ML_Q5_K)
DOT_ROWS(q6_k, ML_Q6_K)
DOT_ROWS(iq4_nl, ML_IQ4_NL)
DOT_ROWS(iq4_xs, ML_IQ4_XS)
DOT_ROWS(mxfp4, ML_MXFP4)

static void rms_norm(const float *x, const float *weight, double epsilon, float *out, int64_t n) {
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
    float scale = (float)(1.0 / sqrt(squares / (double)n + epsilon));
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

static void softmax(float *x, int64_t n) {
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - top);
    float scale = (float)(1.0 / sum);
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
}

static double exp_sum(const float *x, int64_t n, double scale, double top) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp(scale * (double)x[i] - top);
    return sum;
}

static void swiglu_clamped(const float *gate, const float *up, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i] > 7 ? 7 : gate[i], u = up[i] > 7 ? 7 : up[i] < -7 ? -7 : up[i];
        out[i] = g / (1 + expf(-1.702f * g)) * (u + 1);
    }
}

static void swiglu(const float *gate, const float *up, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void axpy(float a, const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* One query; keys {head_dim, PAGE} and values {PAGE, head_dim} as f32. */
static void attend_query(const float *q, int64_t head_dim, const float *keys, const float *values, int64_t from,
                         int64_t to, float *top, float *sum, float *acc) {
    float score[PAGE] = {0};
    for (int64_t i = 0; i < head_dim; i++) {
        for (int64_t t = from; t < to; t++) score[t] += q[i] * keys[i * PAGE + t];
    }
    float best = *top;
    for (int64_t t = from; t < to; t++) best = score[t] > best ? score[t] : best;
    const float keep = expf(*top - best); /* what was summed so far, in the new scale */
    *sum *= keep;
    for (int64_t i = 0; i < head_dim; i++) acc[i] *= keep;
    for (int64_t t = from; t < to; t++) {
        const float p = expf(score[t] - best);
        *sum += p;
        for (int64_t i = 0; i < head_dim; i++) acc[i] += p * values[t * head_dim + i];
    }
    *top = best;
}

static void attend(const ml_attend *work) {
    const ml_decode decode = ml_decode_reference(work->dtype);
    const int64_t dim = work->head_dim;
    float *keys = work->area, *values = work->area + dim * PAGE;
    decode(work->keys, keys, dim * PAGE);
    decode(work->values, values, dim * PAGE);
    for (int64_t r = 0; r < work->rows; r++) {
        for (int64_t h = r * work->group; work->from[r] < work->to[r] && h < (r + 1) * work->group; h++) {
            attend_query(work->q + h * dim, dim, keys, values, work->from[r], work->to[r], work->top + h, work->sum + h,
                         work->acc + h * dim);
        }
    }
}

static void to_bf16(const float *x, uint16_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = ml_f32_to_bf16(x[i]);
}

static uint64_t read_stream(const void *area, int64_t bytes) {
    const uint64_t *words = area;
    uint64_t sum[LANES] = {0};
    for (int64_t i = 0; i < bytes / 8; i += LANES) {
        for (int l = 0; l < LANES; l++) sum[l] += words[i + l];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static double multiply_rounds(int64_t rounds) {
    enum { SUMS = 8 };
    volatile float factor = 0; /* so that the loop cannot be worked out before it runs */
    const float x = factor;
    float sum[SUMS] = {0};
    for (int64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * x + x;
    }
    for (int i = 0; i < SUMS; i++) factor = sum[i];
    return (double)rounds * SUMS * 2;
}

void ml_kernels_scalar(ml_kernels *table) {
    *table = (ml_kernels){
        .isa = "scalar",
        .few_columns = ML_DOT_COLUMNS,
        .multiply_rounds = multiply_rounds,
        .dot_rows =
            {
                [ML_F32] = dot_rows_f32,
                [ML_F16] = dot_rows_f16,
                [ML_BF16] = dot_rows_bf16,
                [ML_Q4_0] = dot_rows_q4_0,
                [ML_Q4_1] = dot_rows_q4_1,
                [ML_Q5_0] = dot_rows_q5_0,
                [ML_Q5_1] = dot_rows_q5_1,
                [ML_Q8_0] = dot_rows_q8_0,
                [ML_Q2_K] = dot_rows_q2_k,
                [ML_Q3_K] = dot_rows_q3_k,
                [ML_Q4_K] = dot_rows_q4_k,
                [ML_Q5_K] = dot_rows_q5_k,
                [ML_Q6_K] = dot_rows_q6_k,
                [ML_IQ4_NL] = dot_rows_iq4_nl,
                [ML_IQ4_XS] = dot_rows_iq4_xs,
                [ML_MXFP4] = dot_rows_mxfp4,
            },
        .rms_norm = rms_norm,
        .softmax = softmax,
        .exp_sum = exp_sum,
        .swiglu_clamped = swiglu_clamped,
        .swiglu = swiglu,
        .axpy = axpy,
        .attend = attend,
        .to_bf16 = to_bf16,
        .read_stream = read_stream,
    };
    for (int dtype = 0; dtype < ML_DTYPE_LIMIT; dtype++) table->decode_row[dtype] = ml_decode_reference(dtype);
    ml_kernels_scalar_warm(table);
}
