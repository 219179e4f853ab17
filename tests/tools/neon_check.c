/* Compares the kernels of neon.c with those of scalar.c on random data: what tests/core/kernels/neon_test.lua builds
 * for aarch64 and runs under qemu. Prints a line for each kernel; the exit code is the number of those that differ. */
#include "dtype/blocks.h"
#include "dtype/dtype.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static ml_kernels scalar, neon;
static int bad; /* of the kernel that is looked at */
static int failures;

static void finish(const char *name) {
    printf("%s %s\n", bad ? "differs:" : "agrees:", name);
    failures += bad != 0;
    bad = 0;
}

static void expect(int fine, const char *what, int64_t i, double got, double expected) {
    if (fine) return;
    if (bad++ < 5) printf("  %s, %lld: %.9g, not %.9g\n", what, (long long)i, got, expected);
}

/* ---- random data ---- */

static uint64_t state = 88172645463325252ull;

static uint64_t next(void) { /* xorshift64 (Marsaglia 2003) */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}
static float uniform(float size) {
    return size * ((float)(next() >> 40) * 0x1p-23f - 1.0f);
}
static int64_t below(int64_t n) {
    return (int64_t)(next() >> 8) % n;
}

static void *room(size_t bytes) {
    void *area = NULL;
    if (posix_memalign(&area, 64, (bytes + 4096) / 64 * 64)) exit(99);
    memset(area, 0xff, (bytes + 4096) / 64 * 64); /* NaN as floats: whoever reads past the end shows it */
    return area;
}
static float *floats(int64_t n, float size) {
    float *x = room((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = uniform(size);
    return x;
}
static void put_f16(uint8_t *at, float value) {
    const uint16_t bits = ml_f32_to_f16(value);
    memcpy(at, &bits, sizeof bits);
}

/* A stored row of k elements, none of them infinite. */
static void fill_row(int dtype, uint8_t *row, int64_t k) {
    const int64_t bytes = ml_row_bytes(dtype, k), block = ml_dtype_bytes(dtype);
    for (int64_t i = 0; i < bytes; i++) row[i] = (uint8_t)next();
    for (int64_t at = 0; at < bytes; at += block) {
        uint8_t *p = row + at;
        const float value = uniform(1);
        const uint16_t bf16 = ml_f32_to_bf16(value);
        switch (dtype) {
        case ML_F32:
            memcpy(p, &value, sizeof value);
            break;
        case ML_BF16:
            memcpy(p, &bf16, sizeof bf16);
            break;
        case ML_Q4_K:
            put_f16(p, value);
            put_f16(p + offsetof(ml_block_q4_k, dmin), uniform(1));
            break;
        case ML_Q6_K:
            put_f16(p + offsetof(ml_block_q6_k, d), value);
            break;
        case ML_MXFP4:
            p[0] = (uint8_t)(120 + below(16));
            break;
        default: /* F16, Q5_0, Q8_0: an f16 first */
            put_f16(p, value);
        }
    }
}

/* ---- rows of weights ---- */

static const int row_dtypes[] = {ML_F32, ML_F16, ML_BF16, ML_Q5_0, ML_Q8_0, ML_Q4_K, ML_Q6_K, ML_MXFP4};
enum { ROW_DTYPES = sizeof row_dtypes / sizeof row_dtypes[0], ROWS = 5, COLUMNS = ML_DOT_COLUMNS };

/* Any bytes: equal to the bit, but that all NaN are one, and both zeros. */
static void check_decode(int dtype) {
    for (int64_t n = 1; n <= 70; n++) {
        const int64_t k = n * ml_dtype_block(dtype), bytes = ml_row_bytes(dtype, k);
        uint8_t *row = room((size_t)bytes);
        for (int64_t i = 0; i < bytes; i++) row[i] = (uint8_t)next();
        float *a = floats(k, 0), *b = floats(k, 0);
        scalar.decode_row[dtype](row, a, k);
        neon.decode_row[dtype](row, b, k);
        for (int64_t i = 0; i < k; i++) {
            const int same = ml_f32_to_bits(a[i]) == ml_f32_to_bits(b[i]) || (a[i] == 0 && b[i] == 0);
            expect(same || (isnan(a[i]) && isnan(b[i])), "element", i, b[i], a[i]);
        }
        expect(isnan(b[k]), "past the end of", k, b[k], NAN);
        free(row), free(a), free(b);
    }
}

/* The sum of |w x| is what rounding is measured by. */
static double size_of_sum(int dtype, const uint8_t *row, int64_t k, const float *x) {
    float *w = floats(k, 0);
    double sum = 0;
    scalar.decode_row[dtype](row, w, k);
    for (int64_t i = 0; i < k; i++) sum += fabs((double)w[i] * x[i]);
    free(w);
    return sum;
}

static void check_dot(int dtype, int64_t k) {
    const int64_t bytes = ml_row_bytes(dtype, k), stride = bytes + 6, ldx = k + 3;
    uint8_t *w = room((size_t)(stride * ROWS));
    float *x = room((size_t)(ldx * COLUMNS) * sizeof *x);
    for (int64_t r = 0; r < ROWS; r++) fill_row(dtype, w + r * stride, k);
    for (int64_t i = 0; i < ldx * COLUMNS; i++) {
        if (i % ldx < k) x[i] = uniform(1);
    }
    for (int64_t columns = 1; columns <= COLUMNS; columns++) {
        float a[ROWS * COLUMNS], b[ROWS * COLUMNS], one[ROWS];
        scalar.dot_rows[dtype](w, stride, ROWS, k, x, ldx, columns, a, ROWS);
        neon.dot_rows[dtype](w, stride, ROWS, k, x, ldx, columns, b, ROWS);
        for (int64_t i = 0; i < ROWS * columns; i++) {
            const double size = size_of_sum(dtype, w + i % ROWS * stride, k, x + i / ROWS * ldx);
            expect(fabs((double)a[i] - b[i]) <= 1e-6 * size, "sum", i, b[i], a[i]);
        }
        for (int64_t c = 0; c < columns; c++) {
            neon.dot_rows[dtype](w, stride, ROWS, k, x + c * ldx, ldx, 1, one, ROWS);
            for (int64_t r = 0; r < ROWS; r++) expect(one[r] == b[c * ROWS + r], "alone", r, b[c * ROWS + r], one[r]);
        }
    }
    free(w), free(x);
}

static void check_rows(void) {
    for (int i = 0; i < ROW_DTYPES; i++) {
        const int dtype = row_dtypes[i];
        char name[64];
        check_decode(dtype);
        snprintf(name, sizeof name, "decode_row %s", ml_dtype_name(dtype));
        finish(name);
        for (int64_t n = 1; n <= (ml_dtype_block(dtype) == 1 ? 131 : 7); n++)
            check_dot(dtype, n * ml_dtype_block(dtype));
        snprintf(name, sizeof name, "dot_rows %s", ml_dtype_name(dtype));
        finish(name);
    }
}

/* ---- activations ---- */

static void expect_near(const float *a, const float *b, int64_t n, float relative, float absolute) {
    for (int64_t i = 0; i < n; i++) {
        expect(fabsf(a[i] - b[i]) <= relative * fabsf(a[i]) + absolute, "element", i, b[i], a[i]);
    }
    expect(isnan(b[n]), "past the end of", n, b[n], NAN);
}

enum { RMS_NORM, SOFTMAX, SWIGLU_CLAMPED, SWIGLU, AXPY, ACTIVATIONS };
static const char *const activation_names[] = {"rms_norm", "softmax", "swiglu_clamped", "swiglu", "axpy"};

static void activate(const ml_kernels *kernels, int which, const float *x, const float *y, float *out, int64_t n) {
    memcpy(out, x, (size_t)n * sizeof *out);
    if (which == RMS_NORM) kernels->rms_norm(x, y, 1e-5, out, n);
    if (which == SOFTMAX) kernels->softmax(out, n);
    if (which == SWIGLU_CLAMPED) kernels->swiglu_clamped(x, y, out, n);
    if (which == SWIGLU) kernels->swiglu(x, y, out, n);
    if (which == AXPY) kernels->axpy(0.37f, y, out, n);
}

static void check_activations(void) {
    for (int which = 0; which < ACTIVATIONS; which++) {
        for (int64_t n = 1; n <= 140; n++) {
            float *x = floats(n, 12), *y = floats(n, 12), *a = floats(n, 0), *b = floats(n, 0);
            activate(&scalar, which, x, y, a, n);
            activate(&neon, which, x, y, b, n);
            expect_near(a, b, n, 3e-6f, 1e-6f);
            free(x), free(y), free(a), free(b);
        }
        finish(activation_names[which]);
    }
}

static void check_exp_sum(void) {
    for (int64_t n = 1; n <= 140; n++) {
        float *x = floats(n, 30);
        x[n / 2] = n % 3 ? x[n / 2] : -INFINITY;
        const double a = scalar.exp_sum(x, n, 1.7, 40), b = neon.exp_sum(x, n, 1.7, 40);
        expect(fabs(a - b) <= 1e-11 * a, "sum", n, b, a);
        free(x);
    }
    finish("exp_sum");
}

static void check_bits(void) {
    for (int64_t n = 1; n <= 70; n++) {
        uint32_t *x = room((size_t)n * sizeof *x);
        uint16_t *a = room((size_t)n * sizeof *a), *b = room((size_t)n * sizeof *b);
        for (int64_t i = 0; i < n; i++) x[i] = (uint32_t)next() & (i % 3 ? 0xffffffffu : 0xffff8000u); /* with ties */
        x[0] = n % 2 ? 0x7f800001u : 0x7f7fffffu; /* a NaN, and what rounds up to infinity */
        scalar.to_bf16((const float *)(void *)x, a, n);
        neon.to_bf16((const float *)(void *)x, b, n);
        for (int64_t i = 0; i <= n; i++) expect(a[i] == b[i], "bf16", i, b[i], a[i]);
        free(x), free(a), free(b);
    }
    finish("to_bf16");
    uint64_t *area = room(64 * 33);
    for (int64_t i = 0; i < 8 * 33; i++) area[i] = next();
    for (int64_t bytes = 0; bytes <= 64 * 33; bytes += 64) {
        expect(scalar.read_stream(area, bytes) == neon.read_stream(area, bytes), "bytes", bytes, 0, 0);
    }
    free(area);
    finish("read_stream");
}

/* ---- attention ---- */

enum { PAGE = ML_PAGE_TOKENS, PAGES = 2 };

typedef struct state {
    float *top, *sum, *acc;
} state_of;

static state_of start_state(int64_t queries, int64_t dim) {
    state_of s = {floats(queries, 0), floats(queries, 0), floats(queries * dim, 0)};
    for (int64_t i = 0; i < queries; i++) s.top[i] = -INFINITY;
    return s;
}
static void end_state(state_of s) {
    free(s.top), free(s.sum), free(s.acc);
}

static void *side(int dtype, int64_t n) {
    float *wide = floats(n, 1);
    if (dtype == ML_F32) return wide;
    uint16_t *narrow = room((size_t)n * sizeof *narrow);
    scalar.to_bf16(wide, narrow, n);
    free(wide);
    return narrow;
}

static void check_attend(int dtype, int64_t rows, int64_t group, int64_t dim) {
    const int64_t queries = rows * group;
    int32_t *from = room((size_t)rows * sizeof *from), *to = room((size_t)rows * sizeof *to);
    float *q = floats(queries * dim, 1), *area = floats(2 * dim * PAGE, 0);
    state_of a = start_state(queries, dim), b = start_state(queries, dim), c = start_state(queries, dim);
    for (int page = 0; page < PAGES; page++) {
        for (int64_t r = 0; r < rows; r++) {
            from[r] = r % 3 ? 0 : (int32_t)below(PAGE);
            to[r] = r % 3 == 1 ? PAGE : (int32_t)below(PAGE + 1);
        }
        void *keys = side(dtype, dim * PAGE), *values = side(dtype, dim * PAGE);
        ml_attend work = {.rows = rows,
                          .group = group,
                          .head_dim = dim,
                          .q = q,
                          .from = from,
                          .to = to,
                          .keys = keys,
                          .values = values,
                          .next_keys = keys,
                          .next_values = values,
                          .dtype = dtype,
                          .area = area,
                          .top = a.top,
                          .sum = a.sum,
                          .acc = a.acc};
        scalar.attend(&work);
        work.top = b.top, work.sum = b.sum, work.acc = b.acc;
        neon.attend(&work);
        for (int64_t r = 0; r < rows; r++) { /* row by row */
            ml_attend row = work;
            row.rows = 1, row.q = q + r * group * dim, row.from = from + r, row.to = to + r;
            row.top = c.top + r * group, row.sum = c.sum + r * group, row.acc = c.acc + r * group * dim;
            neon.attend(&row);
        }
        free(keys), free(values);
    }
    for (int64_t i = 0; i < queries; i++) {
        if (a.top[i] != -INFINITY) expect(fabsf(a.top[i] - b.top[i]) <= 1e-4f, "top", i, b.top[i], a.top[i]);
        expect(fabsf(a.sum[i] - b.sum[i]) <= 1e-4f * fabsf(a.sum[i]), "sum", i, b.sum[i], a.sum[i]);
    }
    for (int64_t i = 0; i < queries * dim; i++) {
        expect(fabsf(a.acc[i] - b.acc[i]) <= 2e-4f * (1 + a.sum[i / dim]), "acc", i, b.acc[i], a.acc[i]);
        expect(b.acc[i] == c.acc[i], "acc of a row alone", i, b.acc[i], c.acc[i]);
    }
    end_state(a), end_state(b), end_state(c);
    free(from), free(to), free(q), free(area);
}

static void check_attention(void) {
    static const int dims[] = {8, 24, 64, 80, 256};
    for (int dtype = ML_F32; dtype <= ML_BF16; dtype += ML_BF16 - ML_F32) {
        for (int d = 0; d < 5; d++) {
            for (int64_t group = 1; group <= 8; group++) {
                check_attend(dtype, 1, group, dims[d]);
                check_attend(dtype, 1 + below(9), group, dims[d]);
            }
        }
        finish(dtype == ML_F32 ? "attend f32" : "attend bf16");
    }
}

/* ---- attention to quantised pages ---- */

#define KEY_UNIT   0x1p-12f
#define VALUE_UNIT 0.5f

/* A side of `bits` bits with random codes. Its steps are integers up to 127, which the first token has, times
 * `step` of the units: so weights that are all 1 become integers without rounding. */
static uint8_t *warm_side(int bits, int values, int64_t dim, float step, float unit) {
    const int64_t offset = ml_codes_offset(dim, bits, values), codes = dim * PAGE * bits / 8;
    uint8_t *p = room((size_t)(offset + codes));
    for (int64_t t = 0; t < PAGE; t++) {
        put_f16(p + 2 * t, step / unit * (float)(t == 0 ? 127 : 1 + below(127)));
        put_f16(p + 2 * (PAGE + t), uniform(0.25f / unit));
    }
    int16_t *means = (int16_t *)(void *)p + 2 * PAGE;
    for (int64_t i = 0; 256 + 2 * i < offset; i++) means[i] = (int16_t)uniform(0.5f / unit);
    for (int64_t i = 0; i < codes; i++) p[offset + i] = (uint8_t)next();
    return p;
}

static uint8_t *warm_queries(const float *q, int64_t queries, int64_t dim) {
    uint8_t *integers = room((size_t)(queries * ml_query_bytes(dim)));
    for (int64_t i = 0; i < queries; i++) ml_query_quantize(q + i * dim, dim, integers + i * ml_query_bytes(dim));
    return integers;
}

/* Over all tokens of a page. With `flat` queries of zeros, nothing but the last bits of f32 may differ; else a weight
 * may fall on the other side of a half, which is one part of 127 (4 bits) or 32512. */
static void check_warm(int key_bits, int value_bits, int64_t rows, int64_t group, int64_t dim, int flat) {
    const int64_t queries = rows * group;
    int32_t *from = room((size_t)rows * sizeof *from), *to = room((size_t)rows * sizeof *to);
    float *q = floats(queries * dim, flat ? 0 : 2 / sqrtf((float)dim)), *area = floats(2 * dim * PAGE, 0);
    uint8_t *integers = warm_queries(q, queries, dim);
    state_of a = start_state(queries, dim), b = start_state(queries, dim), c = start_state(queries, dim);
    float most = 0.25f; /* of an element */
    for (int page = 0; page < PAGES; page++) {
        for (int64_t r = 0; r < rows; r++) {
            from[r] = flat || r % 3 ? 0 : (int32_t)below(PAGE);
            to[r] = flat || r % 3 == 1 ? PAGE : (int32_t)below(PAGE + 1);
        }
        const float key_step = 0x1p-8f / (float)(1 << key_bits), value_step = 0x1p-6f / (float)(1 << value_bits);
        void *keys = key_bits == 16 ? side(ML_BF16, dim * PAGE) : warm_side(key_bits, 0, dim, key_step, KEY_UNIT);
        void *values =
            value_bits == 16 ? side(ML_BF16, dim * PAGE) : warm_side(value_bits, 1, dim, value_step, VALUE_UNIT);
        most = value_bits == 16 ? 1 : most + 127 * value_step * (float)(1 << value_bits) / 2;
        ml_attend work = {.rows = rows,
                          .group = group,
                          .head_dim = dim,
                          .q = q,
                          .integers = integers,
                          .from = from,
                          .to = to,
                          .keys = keys,
                          .values = values,
                          .next_keys = keys,
                          .next_values = values,
                          .dtype = ML_BF16,
                          .key_bits = key_bits,
                          .value_bits = value_bits,
                          .key_unit = KEY_UNIT,
                          .value_unit = VALUE_UNIT,
                          .area = area,
                          .top = a.top,
                          .sum = a.sum,
                          .acc = a.acc};
        scalar.attend_warm(&work);
        work.top = b.top, work.sum = b.sum, work.acc = b.acc;
        neon.attend_warm(&work);
        for (int64_t r = 0; r < rows; r++) { /* row by row */
            ml_attend row = work;
            row.rows = 1, row.q = q + r * group * dim, row.from = from + r, row.to = to + r;
            row.integers = integers + r * group * ml_query_bytes(dim);
            row.top = c.top + r * group, row.sum = c.sum + r * group, row.acc = c.acc + r * group * dim;
            neon.attend_warm(&row);
        }
        free(keys), free(values);
    }
    const float near = flat || value_bits == 16 ? 2e-5f : value_bits == 8 ? 1e-4f : 0.02f;
    for (int64_t i = 0; i < queries; i++) {
        if (a.top[i] != -INFINITY) {
            expect(fabsf(a.top[i] - b.top[i]) <= 2e-6f * fabsf(a.top[i]) + 2e-5f, "top", i, b.top[i], a.top[i]);
        }
        expect(fabsf(a.sum[i] - b.sum[i]) <= 5e-5f * fabsf(a.sum[i]), "sum", i, b.sum[i], a.sum[i]);
    }
    for (int64_t i = 0; i < queries * dim; i++) {
        expect(fabsf(a.acc[i] - b.acc[i]) <= near * most * a.sum[i / dim], "acc", i, b.acc[i], a.acc[i]);
        expect(b.acc[i] == c.acc[i], "acc of a row alone", i, b.acc[i], c.acc[i]);
    }
    end_state(a), end_state(b), end_state(c);
    free(from), free(to), free(q), free(area), free(integers);
}

static void check_warm_attention(void) {
    static const int dims[] = {8, 40, 64};
    static const int bits[][2] = {{8, 8}, {4, 4}, {8, 4}, {4, 8}, {16, 8}, {16, 4}, {8, 16}, {4, 16}};
    for (int m = 0; m < 8; m++) {
        check_warm(bits[m][0], bits[m][1], 2, 8, 256, 0);
        for (int d = 0; d < 3; d++) {
            for (int64_t group = 1; group <= 8; group++) {
                check_warm(bits[m][0], bits[m][1], 1, group, dims[d], 0);
                check_warm(bits[m][0], bits[m][1], 1 + below(9), group, dims[d], 0);
                check_warm(bits[m][0], bits[m][1], 1 + below(3), group, dims[d], 1);
            }
        }
        char name[64];
        snprintf(name, sizeof name, "attend_warm, %d and %d bits", bits[m][0], bits[m][1]);
        finish(name);
    }
}

/* ---- products in integers ---- */

static void check_whole_shape(int dtype, int64_t rows, int64_t k, int64_t count) {
    const int64_t bytes = ml_row_bytes(dtype, k), stride = bytes + 6, step = ml_integer_bytes(k), ldy = rows + 2;
    uint8_t *w = room((size_t)(stride * rows)), *columns = room((size_t)(step * count));
    float *x = floats(k * count, 3), *y = floats(ldy * count, 0), *one = floats(rows, 0), *exact = floats(rows, 0);
    void *scratch = room(ML_INTEGER_SCRATCH);
    for (int64_t r = 0; r < rows; r++) fill_row(dtype, w + r * stride, k);
    for (int64_t c = 0; c < count; c++) neon.integer_quantize(x + c * k, k, columns + c * step);
    for (int64_t i = 0; i < ldy * count; i++) y[i] = 42;
    neon.integer_multiply(dtype, w, stride, rows, k, columns, count, y, ldy, scratch);
    for (int64_t c = 0; c < count; c++) {
        neon.integer_dot[dtype](w, stride, rows, k, columns + c * step, one);
        scalar.dot_rows[dtype](w, stride, rows, k, x + c * k, k, 1, exact, rows);
        for (int64_t r = 0; r < rows; r++) {
            const double size = size_of_sum(dtype, w + r * stride, k, x + c * k);
            expect(fabs((double)one[r] - exact[r]) <= 2e-5 * size, "sum", r, one[r], exact[r]);
            expect(one[r] == y[c * ldy + r], "among many", r, y[c * ldy + r], one[r]);
        }
        expect(isnan(one[rows]), "past the end of", rows, one[rows], NAN);
        expect(y[c * ldy + rows] == 42, "past the end of", rows, y[c * ldy + rows], 42);
    }
    free(w), free(columns), free(x), free(y), free(one), free(exact), free(scratch);
}

/* Blocks of all zeros, of tiny numbers, with an infinity and with a NaN. */
static void check_whole_edges(void) {
    enum { K = 4 * ML_INTEGER_BLOCK };
    float *x = floats(K, 0);
    uint8_t *column = room((size_t)ml_integer_bytes(K)), *w = room(K * 2);
    float y;
    fill_row(ML_Q8_0, w, K);
    for (int i = 0; i < K; i++) x[i] = i < K / 2 ? 0 : uniform(1e-38f);
    neon.integer_quantize(x, K, column);
    neon.integer_dot[ML_Q8_0](w, ml_row_bytes(ML_Q8_0, K), 1, K, column, &y);
    expect(fabsf(y) < 1e-30f, "tiny", 0, y, 0);
    for (int i = 0; i < 2; i++) {
        x[3] = i ? INFINITY : NAN;
        neon.integer_quantize(x, K, column);
        neon.integer_dot[ML_Q8_0](w, ml_row_bytes(ML_Q8_0, K), 1, K, column, &y);
        expect(isnan(y), "of a NaN", i, y, NAN);
    }
    free(x), free(column), free(w);
    finish("integer_quantize at its edges");
}

static void check_whole(void) {
    static const int dtypes[] = {ML_MXFP4, ML_Q8_0};
    if (!neon.integer_multiply) {
        printf("this CPU has no SDOT: no products in integers\n");
        return;
    }
    for (int d = 0; d < 2; d++) {
        char name[64];
        for (int64_t rows = 1; rows <= 19; rows += 3) {
            for (int64_t count = 1; count <= 9; count++) check_whole_shape(dtypes[d], rows, 32 * (1 + below(9)), count);
        }
        check_whole_shape(dtypes[d], 32, 2880, 5);
        check_whole_shape(dtypes[d], 11, 2 * ML_INTEGER_CHUNK + 96, 6); /* in chunks */
        snprintf(name, sizeof name, "integers products %s", ml_dtype_name(dtypes[d]));
        finish(name);
    }
    check_whole_edges();
}

/* Sums of codes and bytes, exact: `count` columns. */
static void check_sketch_columns(int64_t k, int64_t count) {
    const int64_t n = count * ML_SKETCH_ROWS;
    uint8_t *codes = room((size_t)(k / 2 * ML_SKETCH_ROWS));
    int8_t *columns = room((size_t)(k * count));
    int32_t *a = room((size_t)n * sizeof *a), *b = room((size_t)n * sizeof *b);
    for (int64_t i = 0; i < k / 2 * ML_SKETCH_ROWS; i++) codes[i] = (uint8_t)next();
    for (int64_t i = 0; i < k * count; i++) columns[i] = (int8_t)next();
    scalar.sketch(codes, k, columns, count, a);
    neon.sketch(codes, k, columns, count, b);
    for (int64_t i = 0; i < n; i++) expect(a[i] == b[i], "sum", i, b[i], a[i]);
    expect(b[n] == -1, "past the end of", n, b[n], -1);
    free(codes), free(columns), free(a), free(b);
}

static void check_sketch(void) {
    for (int64_t count = 1; count <= 12; count++) check_sketch_columns(8 * (1 + below(40)), count);
    check_sketch_columns(2880, 20);
    finish("sketch");
}

int main(void) {
    ml_kernels_scalar(&scalar);
    ml_kernels_neon(&neon);
    check_rows();
    check_activations();
    check_exp_sum();
    check_bits();
    check_attention();
    check_warm_attention();
    check_whole();
    check_sketch();
    const double operations = neon.multiply_rounds(10);
    expect(operations > 0, "operations", 10, operations, 1);
    finish("multiply_rounds");
    return failures;
}
