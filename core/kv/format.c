#include "kv/format.h"

#include "dtype/dtype.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PAGE = ML_PAGE_TOKENS, LINE = 64, MAX = ML_MAX_HEAD_DIM };

/* ---- layout ---- */

static int64_t lines(int64_t bytes) {
    return (bytes + LINE - 1) / LINE * LINE;
}

static int64_t side_bytes(int dtype, int64_t head_dim, int bits, int values) {
    if (bits == 16) return lines(PAGE * head_dim * ml_dtype_bytes(dtype));
    return lines(ml_codes_offset(head_dim, bits, values) + PAGE * head_dim * bits / 8);
}

size_t ml_format_size(int32_t kv_heads) {
    return sizeof(ml_format) + 2 * (size_t)kv_heads * sizeof(ml_side);
}

void ml_format_lay_out(ml_format *format, int dtype, int32_t kv_heads, int32_t head_dim, int rotated,
                       const uint8_t *key_bits, const uint8_t *value_bits) {
    format->dtype = dtype;
    format->kv_heads = kv_heads;
    format->head_dim = head_dim;
    format->rotated = rotated;
    format->plain = 1;
    for (int32_t i = 0; i < 2 * kv_heads; i++) {
        const uint8_t *bits = i < kv_heads ? key_bits : value_bits;
        format->sides[i].bits = bits ? bits[i % kv_heads] : 16;
        if (format->sides[i].bits != 16) format->plain = 0;
    }
    int64_t offset = format->plain ? 0 : lines(2 * kv_heads * (int64_t)sizeof(float));
    for (int32_t i = 0; i < 2 * kv_heads; i++) {
        format->sides[i].offset = offset;
        offset += side_bytes(dtype, head_dim, format->sides[i].bits, i >= kv_heads);
    }
    format->bytes = offset;
}

int ml_format_same(const ml_format *a, const ml_format *b) {
    if (a->dtype != b->dtype || a->kv_heads != b->kv_heads || a->head_dim != b->head_dim) return 0;
    if (a->plain && b->plain) return 1;
    int same = a->rotated == b->rotated;
    for (int32_t i = 0; i < 2 * a->kv_heads; i++) same &= a->sides[i].bits == b->sides[i].bits;
    return same;
}

void ml_page_show(const ml_format *format, const uint8_t *page, int32_t head, ml_attend *work) {
    const ml_side *key = &format->sides[head], *value = key + format->kv_heads;
    const float *units = (const float *)(const void *)page;
    work->dtype = format->dtype;
    work->keys = ml_page_side(format, page, head, 0);
    work->values = ml_page_side(format, page, head, 1);
    work->key_bits = key->bits;
    work->value_bits = value->bits;
    work->key_unit = format->plain ? 1 : units[head];
    work->value_unit = format->plain ? 1 : units[format->kv_heads + head];
}

/* ---- rotation ---- */

/* 1 or -1, a fixed pattern without structure (a multiplicative hash): plain Hadamard would gather what is equal, or
 * alternates, in all elements into one of them. */
static float sign_of(int64_t i) {
    return ((uint32_t)(i + 1) * UINT32_C(2654435769)) >> 31 ? -1.0f : 1.0f;
}

static int64_t rotation_block(int64_t n) {
    return n & -n;
}

/* `lanes` vectors side by side, {n, lanes}, all turned. */
static void rotate_lanes(float *x, int64_t n, int64_t lanes) {
    const int64_t block = rotation_block(n);
    const float root = 1.0f / sqrtf((float)block);
    for (int64_t i = 0; i < n; i++) {
        const float sign = sign_of(i);
        for (int64_t l = 0; l < lanes; l++) x[i * lanes + l] *= sign;
    }
    for (int64_t half = 1; half < block; half *= 2) {
        for (int64_t i = 0; i < n; i++) {
            if (i & half) continue;
            float *a = x + i * lanes, *b = x + (i + half) * lanes;
            for (int64_t l = 0; l < lanes; l++) {
                const float sum = a[l] + b[l], difference = a[l] - b[l];
                a[l] = sum;
                b[l] = difference;
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const float sign = sign_of(i) * root;
        for (int64_t l = 0; l < lanes; l++) x[i * lanes + l] *= sign;
    }
}

void ml_rotate(float *x, int64_t n) {
    rotate_lanes(x, n, 1);
}

/* ---- one side ---- */

/* Where the parts of a quantised side lie. */
typedef struct parts {
    uint16_t *steps, *zeros;
    int16_t *means; /* NULL where there are none */
    uint8_t *codes;
} parts;

static parts parts_of(const uint8_t *side, int64_t head_dim, int bits, int values) {
    uint16_t *numbers = (uint16_t *)(void *)side;
    int16_t *means = (int16_t *)(numbers + 2 * PAGE);
    if (ml_codes_offset(head_dim, bits, values) == 4 * PAGE) means = NULL;
    return (parts){numbers, numbers + PAGE, means, (uint8_t *)side + ml_codes_offset(head_dim, bits, values)};
}

/* The byte of the codes that holds element `i` of the reduced dimension in lane `lane`, and how far up in it. */
static int64_t code_place(int bits, int64_t i, int64_t lane, int64_t lanes, int *shift) {
    if (bits == 8) {
        *shift = 0;
        return (i / 4 * lanes + lane) * 4 + i % 4;
    }
    *shift = i % 8 / 4 * 4;
    return (i / 8 * lanes + lane) * 4 + i % 4;
}

/* A plain side as f32 {head_dim, PAGE}, keys and values alike. */
static void load_side(const uint8_t *side, int dtype, int64_t head_dim, int values, float *x) {
    for (int64_t i = 0; i < head_dim * PAGE; i++) {
        const int64_t to = values ? i % head_dim * PAGE + i / head_dim : i;
        if (dtype == ML_F32) {
            memcpy(&x[to], side + i * 4, sizeof *x);
        } else {
            uint16_t bits;
            memcpy(&bits, side + i * 2, sizeof bits);
            x[to] = ml_bf16_to_f32(bits);
        }
    }
}

static void store_side(uint8_t *side, int dtype, int64_t head_dim, int values, const float *x) {
    for (int64_t i = 0; i < head_dim * PAGE; i++) {
        const int64_t from = values ? i % head_dim * PAGE + i / head_dim : i;
        if (dtype == ML_F32) {
            memcpy(side + i * 4, &x[from], sizeof *x);
        } else {
            const uint16_t bits = ml_f32_to_bf16(x[from]);
            memcpy(side + i * 2, &bits, sizeof bits);
        }
    }
}

/* The power of two that makes the largest of x at most 2^10; 0 if there is no such because of an infinity or a NaN.
 * Turning makes elements at most sqrt(256) times as large and taking means out twice, which f16 (65504) still holds;
 * what is 2^-24 of the largest and more keeps all bits of an f16. */
static float unit_of(const float *x, int64_t n) {
    float top = 0, check = 0;
    for (int64_t i = 0; i < n; i++) {
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        check += x[i] * 0.0f;
    }
    if (check != 0 || isnan(check)) return 0;
    int exponent;
    frexpf(top, &exponent);
    if (top == 0 || exponent < -100) exponent = -100;
    return ldexpf(1.0f, exponent - 10);
}

static float rounded_f16(float x, uint16_t *bits) {
    *bits = ml_f32_to_f16(x);
    return ml_f16_to_f32(*bits);
}

/* Takes the mean of each element over the tokens out, as it is stored: or, with `kept`, what is already there. */
static void take_means(float *x, int64_t head_dim, int kept, int16_t *means) {
    for (int64_t i = 0; i < head_dim; i++) {
        float *row = x + i * PAGE, sum = 0;
        for (int64_t t = 0; t < PAGE; t++) sum += row[t];
        if (!kept) means[i] = (int16_t)lrintf(sum / PAGE);
        const float mean = means[i];
        for (int64_t t = 0; t < PAGE; t++) row[t] -= mean;
    }
}

/* Codes of the tokens [first, PAGE) of x {head_dim, PAGE}, in units. */
static void put_codes(const float *x, int64_t head_dim, int bits, int values, int64_t first, parts to) {
    const int middle = bits == 8 ? 128 : 8, most = 2 * middle - 1;
    float low[PAGE], high[PAGE], zero[PAGE], inverse[PAGE];
    for (int64_t t = 0; t < PAGE; t++) low[t] = high[t] = x[t];
    for (int64_t i = 1; i < head_dim; i++) {
        for (int64_t t = 0; t < PAGE; t++) {
            const float v = x[i * PAGE + t];
            low[t] = v < low[t] ? v : low[t];
            high[t] = v > high[t] ? v : high[t];
        }
    }
    for (int64_t t = first; t < PAGE; t++) {
        const float step = rounded_f16((high[t] - low[t]) / (float)most, &to.steps[t]);
        zero[t] = rounded_f16(low[t] + step * (float)middle, &to.zeros[t]);
        inverse[t] = step > 0 ? 1 / step : 0;
    }
    for (int64_t i = 0; i < head_dim; i++) {
        for (int64_t t = first; t < PAGE; t++) {
            const int code = (int)lrintf((x[i * PAGE + t] - zero[t]) * inverse[t]) + middle;
            int shift;
            uint8_t *byte =
                to.codes + (values ? code_place(bits, t, i, head_dim, &shift) : code_place(bits, i, t, PAGE, &shift));
            const int fitting = code < 0 ? 0 : code > most ? most : code;
            *byte = (uint8_t)((*byte & ~(most << shift)) | fitting << shift);
        }
    }
}

/* One side; `before` as in ml_page_convert, its unit in *unit, or NULL. 0 if a number is not finite. */
static int encode_side(float *x, int64_t head_dim, int bits, int values, int rotated, const uint8_t *before,
                       int64_t frozen, int64_t bytes, uint8_t *side, float *unit) {
    const float own = unit_of(x, head_dim * PAGE);
    if (own == 0) return 0;
    if (own > *unit) before = NULL; /* the new tokens would not fit */
    if (before) {
        memcpy(side, before, (size_t)bytes);
    } else {
        frozen = 0;
        *unit = own;
    }
    const float inverse = 1 / *unit;
    for (int64_t i = 0; i < head_dim * PAGE; i++) x[i] *= inverse;
    if (rotated) rotate_lanes(x, head_dim, PAGE);
    const parts to = parts_of(side, head_dim, bits, values);
    if (to.means) take_means(x, head_dim, frozen > 0, to.means);
    put_codes(x, head_dim, bits, values, frozen, to);
    return 1;
}

static void decode_side(const uint8_t *side, int64_t head_dim, int bits, int values, int rotated, float unit,
                        float *x) {
    const parts from = parts_of(side, head_dim, bits, values);
    const int middle = bits == 8 ? 128 : 8;
    for (int64_t i = 0; i < head_dim; i++) {
        const float mean = from.means ? from.means[i] : 0;
        for (int64_t t = 0; t < PAGE; t++) {
            int shift;
            const uint8_t byte =
                from.codes[values ? code_place(bits, t, i, head_dim, &shift) : code_place(bits, i, t, PAGE, &shift)];
            const int code = (byte >> shift & (2 * middle - 1)) - middle;
            const float step = ml_f16_to_f32(from.steps[t]), zero = ml_f16_to_f32(from.zeros[t]);
            x[i * PAGE + t] = zero + step * (float)code + mean;
        }
    }
    if (rotated) rotate_lanes(x, head_dim, PAGE);
    for (int64_t i = 0; i < head_dim * PAGE; i++) { /* last: turned elements can be larger than an f32 */
        x[i] = fmaxf(-FLT_MAX, fminf(FLT_MAX, x[i] * unit));
    }
}

/* ---- pages ---- */

static float unit_at(const ml_format *format, const uint8_t *page, int32_t side) {
    return format->plain ? 1 : ((const float *)(const void *)page)[side];
}

int ml_page_convert(const ml_format *format, const uint8_t *from, const ml_format *to, uint8_t *out,
                    const uint8_t *before, int64_t frozen) {
    float x[MAX * PAGE];
    float *units = (float *)(void *)out;
    if (!to->plain) memset(out, 0, (size_t)to->bytes);
    for (int32_t i = 0; i < 2 * to->kv_heads; i++) {
        const ml_side *old = &format->sides[i], *new = &to->sides[i];
        const int values = i >= to->kv_heads, dim = to->head_dim;
        const int turned = format->rotated && !values, turn = to->rotated && !values;
        const uint8_t *side = from + old->offset;
        const float unit = unit_at(format, from, i);
        const int64_t bytes = side_bytes(to->dtype, dim, new->bits, values);
        if (new->bits == old->bits && (new->bits == 16 || turn == turned)) {
            memcpy(out + new->offset, side, (size_t)bytes);
            if (!to->plain) units[i] = unit;
            continue;
        }
        if (old->bits == 16) {
            load_side(side, format->dtype, dim, values, x);
        } else {
            decode_side(side, dim, old->bits, values, turned, unit, x);
        }
        if (new->bits == 16) {
            store_side(out + new->offset, to->dtype, dim, values, x);
            continue;
        }
        const uint8_t *codes = frozen > 0 ? before + new->offset : NULL;
        if (codes) units[i] = unit_at(to, before, i);
        if (!encode_side(x, dim, new->bits, values, turn, codes, frozen, bytes, out + new->offset, &units[i])) return 0;
    }
    return 1;
}
