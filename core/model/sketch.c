#include "model/sketch.h"

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLED_ROWS = 4096 };

typedef struct sketch_task {
    ml_sketch *sketch;
    const ml_matrix *matrix;
} sketch_task;

static const float *decode(const ml_matrix *m, int64_t row, float *out) {
    ml_kernels_get()->decode_row[m->dtype](m->data + row * m->stride, out, m->cols);
    return out;
}

/* The scale of a column: about the root mean square of its elements, so that columns of large ones do not make the
 * steps of all others large. */
static void find_scales(ml_sketch *s, const ml_matrix *m) {
    const int64_t some = m->rows < SAMPLED_ROWS ? m->rows : SAMPLED_ROWS;
    for (int64_t i = 0; i < some; i++) {
        const float *w = decode(m, i * m->rows / some, ml_scratch(0));
        for (int64_t j = 0; j < m->cols; j++) s->scale[j] += w[j] * w[j];
    }
    for (int64_t j = 0; j < m->cols; j++) {
        const float scale = sqrtf(s->scale[j] / (float)some);
        s->scale[j] = scale > 1e-20f && scale < 1e20f ? scale : 1;
    }
}

/* 64 random bits for place `at` (splitmix64: see tensor/synth.c). */
static uint64_t random_bits(uint64_t at) {
    uint64_t z = (at + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Codes of row `row`, w already divided by the scales, to lane `codes` of its tile. */
static void round_row(const float *w, int64_t cols, int64_t k, int64_t row, float step, uint8_t *codes) {
    const float inverse = step > 0 ? 1 / step : 0;
    for (int64_t j = 0; j < cols; j += 4) {
        uint64_t bits = random_bits((uint64_t)(row * k + j));
        uint8_t *four = codes + j / 8 * ML_SKETCH_ROWS * 4;
        for (int64_t i = 0; i < 4 && j + i < cols; i++, bits >>= 16) {
            const float up = (float)(bits & 0xffff) * 0x1p-16f; /* rounds up with the probability of the fraction */
            const int code = (int)(w[j + i] * inverse + 7.5f + up);
            four[i] |= (uint8_t)((code > 15 ? 15 : code) << (j % 8));
        }
    }
}

static void sketch_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const sketch_task *t = arg;
    ml_sketch *s = t->sketch;
    const ml_matrix *m = t->matrix;
    const int64_t tile_bytes = ML_SKETCH_ROWS * s->k / 2;
    float *w = ml_scratch(thread);
    memset(s->codes + begin * tile_bytes, 0, (size_t)((end - begin) * tile_bytes));
    for (int64_t row = begin * ML_SKETCH_ROWS; row < end * ML_SKETCH_ROWS && row < m->rows; row++) {
        double norm = 0, plain = 0;
        float top = 0;
        decode(m, row, w);
        for (int64_t j = 0; j < m->cols; j++) {
            norm += (double)w[j] * w[j];
            w[j] /= s->scale[j];
            plain += (double)w[j] * w[j];
            top = fabsf(w[j]) > top ? fabsf(w[j]) : top;
        }
        s->norm[row] = (float)sqrt(norm);
        s->plain_norm[row] = (float)sqrt(plain);
        s->step[row] = top / 7.5f;
        if (!isfinite(s->norm[row]) || !isfinite(s->plain_norm[row])) continue;
        round_row(w, m->cols, s->k, row, s->step[row],
                  s->codes + row / ML_SKETCH_ROWS * tile_bytes + row % ML_SKETCH_ROWS * 4);
    }
}

static int all_finite(const ml_sketch *s, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) {
        if (!isfinite(s->norm[r]) || !isfinite(s->plain_norm[r])) return 0;
    }
    return 1;
}

int ml_sketch_create(const ml_matrix *matrix, ml_sketch **out) {
    int status = ml_scratch_reserve((size_t)matrix->cols * sizeof(float));
    if (status != ML_OK) return status;
    ml_sketch *s = ml_calloc(1, sizeof *s);
    if (!s) return ML_E_MEMORY;
    s->tiles = (matrix->rows + ML_SKETCH_ROWS - 1) / ML_SKETCH_ROWS;
    s->k = (matrix->cols + 7) / 8 * 8;
    const size_t rows = (size_t)(s->tiles * ML_SKETCH_ROWS), codes = rows * (size_t)s->k / 2;
    s->step = ml_calloc(rows * 3 + (size_t)s->k, sizeof(float));
    s->codes = ml_alloc_aligned(1, codes);
    if (!s->step || !s->codes) {
        ml_sketch_free(s);
        return ML_E_MEMORY;
    }
    ml_memory_huge(s->codes, codes);
    s->norm = s->step + rows;
    s->plain_norm = s->norm + rows;
    s->scale = s->plain_norm + rows;
    s->bytes = (int64_t)(codes + (rows * 3 + (size_t)s->k) * sizeof(float));
    ml_memory_note(ML_MEMORY_SKETCH, s->bytes);
    find_scales(s, matrix);
    ml_parallel(s->tiles, 1, sketch_tiles, &(sketch_task){s, matrix});
    if (!all_finite(s, matrix->rows)) {
        free(s->codes);
        s->codes = NULL;
    }
    *out = s;
    return ML_OK;
}

void ml_sketch_free(ml_sketch *s) {
    if (!s) return;
    ml_memory_note(ML_MEMORY_SKETCH, -s->bytes);
    free(s->codes);
    free(s->step);
    free(s);
}
