/* The vector kernels, written once for any width. avx2.c, avx512.c and neon.c define the few primitives that differ and
 * then include this file; nothing else does, and everything here is static, so that no code compiled with their flags
 * can be linked into the rest.
 *
 * Expected before: the primitives that lanes.c.h names. */
#include "base/memory.h"
#include "kernels/attend.c.h"

static void rms_norm(const float *x, const float *weight, double epsilon, float *out, int64_t n) {
    vf a = v_set(0), b = v_set(0);
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        vf u = v_load(x + i), v = v_load(x + i + W);
        a = v_fma(u, u, a);
        b = v_fma(v, v, b);
    }
    for (; i < n; i += W) {
        vf u = n - i < W ? v_load_part(x + i, n - i) : v_load(x + i);
        a = v_fma(u, u, a);
    }
    vf scale = v_set((float)(1.0 / sqrt((double)v_sum(a + b) / (double)n + epsilon)));
    for (i = 0; i + W <= n; i += W) v_store(out + i, v_load(x + i) * scale * v_load(weight + i));
    if (i < n) v_store_part(out + i, v_load_part(x + i, n - i) * scale * v_load_part(weight + i, n - i), n - i);
}

static float top_of(const float *x, int64_t n) {
    vf top = v_set(-INFINITY);
    int64_t i = 0;
    for (; i + W <= n; i += W) top = v_max(top, v_load(x + i));
    float best = v_top(top);
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

/* x[i] = exp(x[i] - top); returns the sum. */
static float exp_all(float *x, int64_t n, float top) {
    vf base = v_set(top), sum = v_set(0);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf e = v_exp(v_load(x + i) - base);
        v_store(x + i, e);
        sum = sum + e;
    }
    float total = v_sum(sum);
    if (i < n) {
        v_store_part(x + i, v_exp(v_load_part(x + i, n - i) - base), n - i);
        for (; i < n; i++) total += x[i];
    }
    return total;
}

static void softmax(float *x, int64_t n) {
    const vf scale = v_set(1.0f / exp_all(x, n, top_of(x, n)));
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(x + i, v_load(x + i) * scale);
    if (i < n) v_store_part(x + i, v_load_part(x + i, n - i) * scale, n - i);
}

/* W / 2 doubles, and what belongs to them. */
enum { D = W / 2 };
typedef uint64_t vd_bits __attribute__((vector_size(D * 8)));
typedef float vd_floats __attribute__((vector_size(D * 4)));

/* exp(x) in double, 1e-11 relative: 2^n * exp(r) with |r| <= ln(2)/2 and Taylor's polynomial of degree 9. 0 below -708,
 * infinite above 709.8; NaN stays. */
static inline vd d_exp(vd x) {
    const vd zero = {0};
    const vd_bits low = (vd_bits)(x < -708);
    const vd near = d_min(zero + 710, x);
    const vd shifted = d_fma(near, zero + 0x1.71547652b82fep0, zero + 0x1.8p52); /* n in the lowest bits */
    const vd n = shifted - 0x1.8p52;
    vd r = d_fma(n, zero - 0x1.62e42feep-1, near); /* ln(2) in two parts, as in v_exp() */
    r = d_fma(n, zero - 0x1.a39ef35793c76p-33, r);
    vd p = zero + 1.0 / 362880;
    p = d_fma(p, r, zero + 1.0 / 40320);
    p = d_fma(p, r, zero + 1.0 / 5040);
    p = d_fma(p, r, zero + 1.0 / 720);
    p = d_fma(p, r, zero + 1.0 / 120);
    p = d_fma(p, r, zero + 1.0 / 24);
    p = d_fma(p, r, zero + 1.0 / 6);
    p = d_fma(p, r, zero + 0.5);
    p = d_fma(p, r, zero + 1.0);
    p = d_fma(p, r, zero + 1.0);
    const vd power = (vd)(((vd_bits)shifted + 1023) << 52);
    return (vd)((vd_bits)(p * power) & ~low);
}

static inline vd d_load(const float *x) {
    vd_floats v;
    memcpy(&v, x, sizeof v);
    return __builtin_convertvector(v, vd);
}

static double exp_sum(const float *x, int64_t n, double scale, double top) {
    vd sum = {0};
    float last[D];
    double total = 0;
    int64_t i = 0;
    for (; i + D <= n; i += D) sum += d_exp(d_load(x + i) * scale - top);
    for (int lane = 0; lane < D; lane++) last[lane] = i + lane < n ? x[i + lane] : -INFINITY;
    sum += d_exp(d_load(last) * scale - top);
    for (int lane = 0; lane < D; lane++) total += sum[lane];
    return total;
}

/* g * sigmoid(slope * g). */
static inline vf v_gate(vf g, float slope) {
    return g / (v_set(1) + v_exp(g * v_set(-slope)));
}

static inline vf v_swiglu_clamped(vf gate, vf up) {
    vf g = v_min(v_set(7), gate), u = v_min(v_set(7), v_max(v_set(-7), up));
    return v_gate(g, 1.702f) * (u + v_set(1));
}

static void swiglu_clamped(const float *gate, const float *up, float *out, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(out + i, v_swiglu_clamped(v_load(gate + i), v_load(up + i)));
    if (i < n) {
        v_store_part(out + i, v_swiglu_clamped(v_load_part(gate + i, n - i), v_load_part(up + i, n - i)), n - i);
    }
}

static void swiglu(const float *gate, const float *up, float *out, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(out + i, v_gate(v_load(gate + i), 1) * v_load(up + i));
    if (i < n) v_store_part(out + i, v_gate(v_load_part(gate + i, n - i), 1) * v_load_part(up + i, n - i), n - i);
}

static void axpy(float a, const float *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(y + i, v_fma(v_set(a), v_load(x + i), v_load(y + i)));
    if (i < n) v_store_part(y + i, v_fma(v_set(a), v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
}

static void to_bf16(const float *x, uint16_t *out, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store_bf16(out + i, v_load(x + i));
    for (; i < n; i++) out[i] = ml_f32_to_bf16(x[i]);
}

/* ---- attention to a plain page: see attend.c.h ------------------------------------------------- */

/* Tokens outside [from, to) get no weight. */
static void mask_scores(float *score, int64_t queries, int64_t from, int64_t to) {
    for (int64_t h = 0; h < queries; h++, score += PAGE) {
        for (int64_t t = 0; t < from; t++) score[t] = -INFINITY;
        for (int64_t t = to; t < PAGE; t++) score[t] = -INFINITY;
    }
}

/* Scores of up to BLOCK queries to weights exp(score - top). Brings top and sum up to date; keep is what the sums so
 * far shrink by. */
static ALWAYS_INLINE void weigh_block(float *score, const int64_t queries, float *top, float *sum, float *keep) {
    float after[BLOCK], total[BLOCK];
    vf v[BLOCK];
    for (int64_t h = 0; h < BLOCK; h++) {
        v[h] = v_set(0);
        if (h >= queries) continue;
        v[h] = v_load(score + h * PAGE);
        for (int t = W; t < PAGE; t += W) v[h] = v_max(v[h], v_load(score + h * PAGE + t));
    }
    v_join_tops(v, after);
    for (int64_t h = 0; h < queries; h += W) {
        const int64_t some = queries - h < W ? queries - h : W;
        const vf before = v_load_part(top + h, some), now = v_max(before, v_load_part(after + h, some));
        v_store_part(keep + h, v_exp_below(before - now), some);
        v_store_part(after + h, now, some);
        v_store_part(top + h, now, some);
    }
    for (int64_t h = 0; h < BLOCK; h++) {
        v[h] = v_set(0);
        if (h >= queries) continue;
        const vf base = v_set(after[h]);
        for (int t = 0; t < PAGE; t += W) {
            const vf p = v_exp_below(v_load(score + h * PAGE + t) - base);
            v_store(score + h * PAGE + t, p);
            v[h] = v[h] + p;
        }
    }
    v_join_sums(v, total);
    for (int64_t h = 0; h < queries; h++) sum[h] = sum[h] * keep[h] + total[h];
}

static void weigh(float *score, int64_t queries, int64_t from, int64_t to, float *top, float *sum, float *keep) {
    if (from > 0 || to < PAGE) mask_scores(score, queries, from, to);
    if (queries == BLOCK) {
        weigh_block(score, BLOCK, top, sum, keep);
    } else {
        weigh_block(score, queries, top, sum, keep);
    }
}

/* A side as f32 in `area`, asking for what comes next meanwhile. */
static attend_side widen(attend_side b, int64_t rows, float *area) {
    for (int64_t i = 0; i < rows * b.lanes; i += W) v_store(area + i, side_load(b, i, ML_BF16, i % LINE_BF16 == 0));
    return (attend_side){area, b.lanes, 0};
}

/* Neighbouring rows that attend to the same tokens are worked on together, BLOCK queries at a time. */
static void attend(const ml_attend *work) {
    const int64_t group = work->group, dim = work->head_dim;
    attend_side keys = {work->keys, PAGE, (uintptr_t)work->next_keys - (uintptr_t)work->keys};
    attend_side values = {work->values, dim, (uintptr_t)work->next_values - (uintptr_t)work->values};
    int dtype = work->dtype;
    if (dtype == ML_BF16 && work->rows * group > 4 * BLOCK) {
        keys = widen(keys, dim, work->area);
        values = widen(values, PAGE, work->area + dim * PAGE);
        dtype = ML_F32;
    }
    _Alignas(64) float score[BLOCK * PAGE];
    float keep[BLOCK];
    for (int64_t r = 0; r < work->rows;) {
        const int64_t from = work->from[r], to = work->to[r], first = r * group;
        do r++;
        while (r < work->rows && work->from[r] == from && work->to[r] == to);
        for (int64_t h = first; from < to && h < r * group; h += BLOCK) {
            const int64_t some = r * group - h < BLOCK ? r * group - h : BLOCK;
            multiply(work->q + h * dim, dim, some, keys, dtype, 0, dim, NULL, score);
            weigh(score, some, from, to, work->top + h, work->sum + h, keep);
            multiply(score, PAGE, some, values, dtype, from, to, keep, work->acc + h * dim);
        }
    }
}

/* ---- rows of weights -------------------------------------------------------------------------- */

/* How the rows of a dtype are unpacked: `prepare` turns the scales of a block into f32 once, `unpack` gives elements
 * [64 part, 64 part + 64) of it, or all of a block that is smaller. Passed to always_inline functions as constants, so
 * every dtype gets its own loop. */
typedef struct row_format {
    int elements, bytes; /* of a block */
    void (*prepare)(const uint8_t *block, float *scales);
    void (*unpack)(const uint8_t *block, int part, const float *scales, vf *w);
} row_format;

enum { PART = 64, PART_VECTORS = PART / W, BLOCK_VECTORS = 32 / W };

/* Sums that run side by side for one column: enough to hide the latency of v_fma, few enough for the registers (16 of
 * 8 floats; 32 of 16 or 4) with any number of columns: a column's result does not depend on how many there are. */
enum { CHAINS = W == 8 ? 2 : 4 };

/* sum[c][..] += w[v] * x of column c, for `vectors` vectors. */
static ALWAYS_INLINE void add_products(const vf *w, const int vectors, const float *x, int64_t ldx, const int columns,
                                       vf sum[][4], const int shift) {
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            vf *s = &sum[c][(v + shift) % CHAINS];
            *s = v_fma(w[v], v_load(x + c * ldx + v * W), *s);
        }
    }
}

/* Rows follow one another in memory, and the hardware alone does not fetch far enough ahead: measured on Zen 5, 4 KiB
 * give bf16 a fifth more, and the others a little. Past the end of the weights it does nothing. */
static ALWAYS_INLINE void prefetch(const uint8_t *row, const int bytes) {
    enum { AHEAD = 4096, LINE = 64 };
    for (int b = 0; b < bytes; b += LINE) __builtin_prefetch((const void *)((uintptr_t)row + AHEAD + (uintptr_t)b));
}

/* One row of blocks of 32 against `columns` columns; two blocks a round, so that four sums run side by side. */
static ALWAYS_INLINE void dot_small_blocks(const row_format f, const uint8_t *row, int64_t k, const float *x,
                                           int64_t ldx, const int columns, vf sum[][4]) {
    int64_t i = 0;
    for (; i + 64 <= k; i += 64, row += 2 * f.bytes) {
        vf w[BLOCK_VECTORS];
        prefetch(row, 2 * f.bytes);
        f.unpack(row, 0, NULL, w);
        add_products(w, BLOCK_VECTORS, x + i, ldx, columns, sum, 0);
        f.unpack(row + f.bytes, 0, NULL, w);
        add_products(w, BLOCK_VECTORS, x + i + 32, ldx, columns, sum, BLOCK_VECTORS);
    }
    if (i + 32 <= k) {
        vf w[BLOCK_VECTORS];
        f.unpack(row, 0, NULL, w);
        add_products(w, BLOCK_VECTORS, x + i, ldx, columns, sum, 0);
        i += 32;
        row += f.bytes;
    }
    if (i < k) { /* plain dtypes only: the rest, padded with zeros */
        _Alignas(64) uint8_t rest[128] = {0};
        memcpy(rest, row, (size_t)((k - i) * f.bytes / 32));
        vf w[BLOCK_VECTORS];
        f.unpack(rest, 0, NULL, w);
        for (int c = 0; c < columns; c++) {
            _Alignas(64) float part[32] = {0};
            memcpy(part, x + c * ldx + i, (size_t)(k - i) * sizeof *part);
            for (int v = 0; v < BLOCK_VECTORS; v++) sum[c][0] = v_fma(w[v], v_load(part + v * W), sum[c][0]);
        }
    }
}

/* One row of blocks of 256, in parts of 64. */
static ALWAYS_INLINE void dot_large_blocks(const row_format f, const uint8_t *row, int64_t k, const float *x,
                                           int64_t ldx, const int columns, vf sum[][4]) {
    for (int64_t i = 0; i < k; i += 256, row += f.bytes) {
        _Alignas(64) float scales[16];
        f.prepare(row, scales);
        prefetch(row, f.bytes);
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            vf w[PART_VECTORS];
            f.unpack(row, part, scales, w);
            add_products(w, PART_VECTORS, x + i + part * PART, ldx, columns, sum, 0);
        }
    }
}

static ALWAYS_INLINE void dot_columns(const row_format f, const uint8_t *w, int64_t stride, int64_t rows, int64_t k,
                                      const float *x, int64_t ldx, const int columns, float *y, int64_t ldy) {
    for (int64_t r = 0; r < rows; r++) {
        vf sum[ML_DOT_COLUMNS][4];
        for (int c = 0; c < columns; c++) {
            for (int v = 0; v < 4; v++) sum[c][v] = v_set(0);
        }
        if (f.elements == 256) {
            dot_large_blocks(f, w + r * stride, k, x, ldx, columns, sum);
        } else {
            dot_small_blocks(f, w + r * stride, k, x, ldx, columns, sum);
        }
        for (int c = 0; c < columns; c++) {
            y[c * ldy + r] = v_sum((sum[c][0] + sum[c][1]) + (sum[c][2] + sum[c][3]));
        }
    }
}

static ALWAYS_INLINE void dot_rows(const row_format f, const void *w, int64_t stride, int64_t rows, int64_t k,
                                   const float *x, int64_t ldx, int64_t columns, float *y, int64_t ldy) {
    switch (columns) {
    case 1:
        dot_columns(f, w, stride, rows, k, x, ldx, 1, y, ldy);
        break;
    case 2:
        dot_columns(f, w, stride, rows, k, x, ldx, 2, y, ldy);
        break;
    case 3:
        dot_columns(f, w, stride, rows, k, x, ldx, 3, y, ldy);
        break;
    case 4:
        dot_columns(f, w, stride, rows, k, x, ldx, 4, y, ldy);
        break;
    }
}

static ALWAYS_INLINE void decode_row(const row_format f, const uint8_t *row, float *out, int64_t k) {
    vf w[PART_VECTORS];
    if (f.elements == 256) {
        for (int64_t i = 0; i < k; i += 256, row += f.bytes) {
            _Alignas(64) float scales[16];
            f.prepare(row, scales);
            for (int part = 0; part < 4; part++) {
                f.unpack(row, part, scales, w);
                for (int v = 0; v < PART_VECTORS; v++) v_store(out + i + part * PART + v * W, w[v]);
            }
        }
        return;
    }
    int64_t i = 0;
    for (; i + 32 <= k; i += 32, row += f.bytes) {
        f.unpack(row, 0, NULL, w);
        for (int v = 0; v < BLOCK_VECTORS; v++) v_store(out + i + v * W, w[v]);
    }
    if (i < k) {
        _Alignas(64) uint8_t rest[128] = {0};
        _Alignas(64) float part[32];
        memcpy(rest, row, (size_t)((k - i) * f.bytes / 32));
        f.unpack(rest, 0, NULL, w);
        for (int v = 0; v < BLOCK_VECTORS; v++) v_store(part + v * W, w[v]);
        memcpy(out + i, part, (size_t)(k - i) * sizeof *part);
    }
}

/* The two kernels of a dtype, from its format. */
#define ROW_KERNELS(name, ...)                                                                                         \
    static void decode_row_##name(const void *row, float *out, int64_t k) {                                            \
        decode_row((row_format){__VA_ARGS__}, row, out, k);                                                            \
    }                                                                                                                  \
    static void dot_rows_##name(const void *w, int64_t stride, int64_t rows, int64_t k, const float *x, int64_t ldx,   \
                                int64_t columns, float *y, int64_t ldy) {                                              \
        dot_rows((row_format){__VA_ARGS__}, w, stride, rows, k, x, ldx, columns, y, ldy);                              \
    }

ROW_KERNELS(f32, 32, 128, NULL, unpack_f32)
ROW_KERNELS(f16, 32, 64, NULL, unpack_f16)
ROW_KERNELS(bf16, 32, 64, NULL, unpack_bf16)
ROW_KERNELS(q5_0, 32, sizeof(ml_block_q5_0), NULL, unpack_q5_0)
ROW_KERNELS(q4_k, 256, sizeof(ml_block_q4_k), prepare_q4_k, unpack_q4_k)
ROW_KERNELS(q6_k, 256, sizeof(ml_block_q6_k), prepare_q6_k, unpack_q6_k)

/* A vector register as an operand of inline assembly, under the letter it has on each processor. */
#if defined(__aarch64__)
#define V(vector) "+w"(vector)
#else
#define V(vector) "+v"(vector)
#endif

/* Ten sums hide the latency of a fused multiplication and addition. */
static double multiply_rounds(int64_t rounds) {
    const vf x = v_set(0);
    vf a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
    for (int64_t r = 0; r < rounds; r++) {
        a = v_fma(x, x, a), b = v_fma(x, x, b), c = v_fma(x, x, c), d = v_fma(x, x, d), e = v_fma(x, x, e);
        f = v_fma(x, x, f), g = v_fma(x, x, g), h = v_fma(x, x, h), i = v_fma(x, x, i), j = v_fma(x, x, j);
        __asm__ volatile("" : V(a), V(b), V(c), V(d), V(e), V(f), V(g), V(h), V(i), V(j));
    }
    return (double)rounds * 10 * W * 2;
}

/* Puts the kernels of this file into a table that holds narrower ones. */
static void fill(ml_kernels *table, const char *isa, int64_t few_columns) {
    table->isa = isa;
    table->few_columns = few_columns;
    table->multiply_rounds = multiply_rounds;
#define PUT(dtype, name)                                                                                               \
    table->decode_row[dtype] = decode_row_##name;                                                                      \
    table->dot_rows[dtype] = dot_rows_##name
    PUT(ML_F32, f32);
    PUT(ML_F16, f16);
    PUT(ML_BF16, bf16);
    PUT(ML_Q5_0, q5_0);
    PUT(ML_Q4_K, q4_k);
    PUT(ML_Q6_K, q6_k);
    table->rms_norm = rms_norm;
    table->softmax = softmax;
    table->exp_sum = exp_sum;
    table->swiglu_clamped = swiglu_clamped;
    table->swiglu = swiglu;
    table->axpy = axpy;
    table->attend = attend;
    table->to_bf16 = to_bf16;
    table->read_stream = read_stream;
}
