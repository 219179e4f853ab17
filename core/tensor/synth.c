/* Random weights, made directly as stored blocks: nothing is quantised, so a large file is written at disk speed.
 * Each run of blocks has a stream of bits of its own, so that the result does not depend on threads. */
#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "dtype/blocks.h"
#include "dtype/dtype.h"

#include <math.h>

static void fill_bytes(uint64_t *s, uint8_t *out, size_t bytes) {
    uint64_t word;
    for (; bytes >= 8; out += 8, bytes -= 8) {
        word = ml_random_next(s);
        memcpy(out, &word, 8);
    }
    word = ml_random_next(s);
    memcpy(out, &word, bytes);
}

/* Uniform in (-1, 1), times `width`. */
static float uniform(uint64_t *s, double width) {
    return (float)(((double)(ml_random_next(s) >> 11) * 0x1p-52 - 1) * width);
}

/* `scale` or -scale, as f16 bits. Signs make the mean 0 where the codes of a block are not symmetric. */
static uint16_t signed_scale(uint64_t *s, double scale) {
    return ml_f32_to_f16((float)(ml_random_next(s) >> 63 ? -scale : scale));
}

/* Fills one block with random codes and scales, so that its values have mean 0 and the deviation asked for. `unit` is
 * the scale d for that. */
static void fill_block(int dtype, uint64_t *s, double unit, uint8_t *out, size_t bytes) {
    fill_bytes(s, out, bytes);
    uint16_t d = ml_f32_to_f16((float)unit);
    switch (dtype) {
    case ML_Q8_0:
        memcpy(out, &d, 2);
        break;
    case ML_Q4_0:
    case ML_Q5_0:
    case ML_IQ4_NL:
    case ML_IQ4_XS:
        d = signed_scale(s, unit);
        memcpy(out, &d, 2);
        break;
    case ML_Q4_1:
    case ML_Q5_1: {
        uint16_t m = ml_f32_to_f16((float)(unit * (dtype == ML_Q4_1 ? -7.5 : -15.5)));
        memcpy(out, &d, 2);
        memcpy(out + 2, &m, 2);
        break;
    }
    case ML_Q2_K: {
        ml_block_q2_k *block = (ml_block_q2_k *)out;
        for (int i = 0; i < 16; i++) block->scales[i] = (uint8_t)((block->scales[i] & 15) * 17);
        block->d = d;
        block->dmin = ml_f32_to_f16((float)(unit * 1.5));
        break;
    }
    case ML_Q3_K:
        ((ml_block_q3_k *)out)->d = d;
        break;
    case ML_Q4_K:
    case ML_Q5_K: { /* as each group's min is its scale, dmin = d * (middle code) gives it the mean 0 */
        ml_block_q4_k *block = (ml_block_q4_k *)out; /* Q5_K begins alike */
        for (int i = 0; i < 4; i++) {
            block->scales[i + 4] = block->scales[i];
            block->scales[i + 8] = (uint8_t)((block->scales[i + 8] & 15) * 17);
        }
        block->d = d;
        block->dmin = ml_f32_to_f16((float)(unit * (dtype == ML_Q4_K ? 7.5 : 15.5)));
        break;
    }
    case ML_Q6_K:
        ((ml_block_q6_k *)out)->d = d;
        break;
    default:
        break;
    }
}

/* Root of the mean square of a block's values where d is 1: codes and inner scales are uniform over what their bits
 * can say. 0 for other dtypes. */
static double block_deviation(int dtype) {
    static const double iq4[16] = ML_IQ4_VALUES;
    double table = 0;
    for (int i = 0; i < 16; i++) table += iq4[i] * iq4[i] / 16;
    const double six_signed = 341.5, six = 1333.5; /* mean squares of -32..31 and of 0..63 */
    switch (dtype) {
    case ML_Q8_0:
        return sqrt(5461.5); /* -128..127 */
    case ML_Q4_0:
        return sqrt(21.5); /* -8..7 */
    case ML_Q4_1:
        return sqrt(21.25); /* 0..15 around 7.5 */
    case ML_Q5_0:
        return sqrt(85.5); /* -16..15 */
    case ML_Q5_1:
        return sqrt(85.25); /* 0..31 around 15.5 */
    case ML_Q2_K:
        return sqrt(77.5 * 1.25); /* scale 0..15, 0..3 around 1.5 */
    case ML_Q3_K:
        return sqrt(six_signed * 5.5); /* -4..3 */
    case ML_Q4_K:
        return sqrt(six * 21.25); /* 0..15 around 7.5 */
    case ML_Q5_K:
        return sqrt(six * 85.25); /* 0..31 around 15.5 */
    case ML_Q6_K:
        return sqrt(5461.5 * six_signed); /* scale -128..127 */
    case ML_IQ4_NL:
        return sqrt(table);
    case ML_IQ4_XS:
        return sqrt(six_signed * table);
    default:
        return 0;
    }
}

/* What is asked for, ready for the tasks. */
typedef struct fill {
    int dtype;
    size_t block_bytes;
    uint64_t seed;
    double width;   /* plain dtypes: values are uniform in (-width, width) */
    double unit;    /* block dtypes: d */
    int exponent;   /* MXFP4: the lower of two scale codes, */
    uint64_t raise; /* and how often, of 2^32, the next one is taken */
    uint8_t *out;
} fill;

/* Scales are powers of two: mixes two so that the mean square of the values (8.5625 at scale 1) comes out right. */
static void prepare_mxfp4(fill *f, double deviation) {
    double wanted = deviation * deviation / 8.5625;
    int exponent = (int)floor(log2(wanted) / 2);
    double low = ldexp(1, 2 * exponent);
    f->exponent = exponent + 127; /* deviations from 1e-6 to 1e3 keep it well within 0..254 */
    f->raise = (uint64_t)((wanted - low) / (3 * low) * 0x1p32);
}

static void fill_mxfp4(const fill *f, uint64_t *s, uint8_t *out) {
    uint64_t low = ml_random_next(s), high = ml_random_next(s);
    uint64_t chance = ml_random_next(s) >> 32;
    out[0] = (uint8_t)(f->exponent + (chance < f->raise));
    memcpy(out + 1, &low, 8);
    memcpy(out + 9, &high, 8);
}

enum { GRAIN = 4096 }; /* blocks, or elements of plain dtypes */

static void fill_run(void *arg, int64_t begin, int64_t end, int thread) {
    const fill *f = arg;
    (void)thread;
    uint64_t s = f->seed ^ ((uint64_t)begin << 20);
    s = ml_random_next(&s);
    uint8_t *out = f->out + (size_t)begin * f->block_bytes;
    for (int64_t i = begin; i < end; i++, out += f->block_bytes) {
        if (f->dtype == ML_MXFP4) {
            fill_mxfp4(f, &s, out);
        } else if (f->block_bytes == 4) {
            float value = uniform(&s, f->width);
            memcpy(out, &value, 4);
        } else if (f->block_bytes == 2) {
            float value = uniform(&s, f->width);
            uint16_t bits = f->dtype == ML_F16 ? ml_f32_to_f16(value) : ml_f32_to_bf16(value);
            memcpy(out, &bits, 2);
        } else {
            fill_block(f->dtype, &s, f->unit, out, f->block_bytes);
        }
    }
}

int ml_synth_fill(int dtype, int64_t elements, double deviation, uint64_t seed, void *out) {
    double unit = block_deviation(dtype);
    if (unit == 0 && dtype != ML_F32 && dtype != ML_F16 && dtype != ML_BF16 && dtype != ML_MXFP4) {
        return ml_error(ML_E_UNSUPPORTED, "random weights of type %s are not made; take f32, bf16, q8_0 or mxfp4",
                        ml_dtype_name(dtype) ? ml_dtype_name(dtype) : "unknown");
    }
    if (elements < 0 || elements % ml_dtype_block(dtype) != 0) {
        return ml_error(ML_E_ARGUMENT, "%lld elements do not fill whole blocks of %lld (%s)", (long long)elements,
                        (long long)ml_dtype_block(dtype), ml_dtype_name(dtype));
    }
    if (!(deviation >= 1e-6 && deviation <= 1e3)) {
        return ml_error(ML_E_ARGUMENT, "a standard deviation of random weights is from 1e-6 to 1e3, not %g", deviation);
    }
    if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
    fill f = {.dtype = dtype, .block_bytes = (size_t)ml_dtype_bytes(dtype), .seed = seed, .out = out};
    f.width = deviation * sqrt(3.0);
    f.unit = unit > 0 ? deviation / unit : 0;
    if (dtype == ML_MXFP4) prepare_mxfp4(&f, deviation);
    ml_parallel(elements / ml_dtype_block(dtype), GRAIN, fill_run, &f);
    return ML_OK;
}
