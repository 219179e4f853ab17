#include "model/sketch.h"

#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLED_ROWS = 4096 };

/* The square of a smaller norm is no normal f32. */
#define LEAST_NORM 1e-15f

typedef struct sketch_task {
    ml_sketch *sketch;
    const ml_matrix *matrix;
    const float *inverse; /* {k}: of the scales */
} sketch_task;

static float *decode(const ml_matrix *m, int64_t row, float *out) {
    ml_kernels_get()->decode_row[m->dtype](m->data + row * m->stride, out, m->cols);
    return out;
}

/* The scale of a column: about the root mean square of its elements, so that columns of large ones do not make the
 * steps of all others large. `inverse` receives 1 / scale. */
static void find_scales(ml_sketch *s, const ml_matrix *m, float *inverse) {
    const int64_t some = m->rows < SAMPLED_ROWS ? m->rows : SAMPLED_ROWS;
    for (int64_t i = 0; i < some; i++) {
        const float *w = decode(m, i * m->rows / some, ml_scratch(0));
        for (int64_t j = 0; j < m->cols; j++) s->scale[j] += w[j] * w[j];
    }
    for (int64_t j = 0; j < m->cols; j++) {
        const float scale = sqrtf(s->scale[j] / (float)some);
        s->scale[j] = scale > 1e-20f && scale < 1e20f ? scale : 1;
        inverse[j] = 1 / s->scale[j];
    }
}

/* What is known of a row: its norm, that of the row divided by the scales, which takes its place, and the largest
 * element of that. Loops over lanes, so that gcc makes vectors of them. */
typedef struct row_size {
    float norm, plain, top;
} row_size;

static row_size divide_row(float *w, const float *inverse, int64_t k) {
    enum { LANES = 8 };
    float norm[LANES] = {0}, plain[LANES] = {0}, top[LANES] = {0};
    for (int64_t j = 0; j < k; j += LANES) {
        for (int i = 0; i < LANES; i++) {
            norm[i] += w[j + i] * w[j + i];
            w[j + i] *= inverse[j + i];
            plain[i] += w[j + i] * w[j + i];
            const float size = fabsf(w[j + i]);
            top[i] = size > top[i] ? size : top[i];
        }
    }
    row_size all = {0};
    for (int i = 0; i < LANES; i++) {
        all.norm += norm[i];
        all.plain += plain[i];
        all.top = top[i] > all.top ? top[i] : all.top;
    }
    const float more = 1.0001f; /* than rounding takes away */
    return (row_size){sqrtf(all.norm) * more, sqrtf(all.plain) * more, all.top};
}

/* Codes of row `row`, already divided by the scales, to lane `codes` of its tile. */
static void round_row(const float *w, int64_t k, int64_t row, float step, uint8_t *codes) {
    const float inverse = step > 0 ? 1 / step : 0;
    for (int64_t j = 0; j < k; j += 8, codes += ML_SKETCH_ROWS * 4) {
        uint64_t bits[2] = {ml_random_at(0, (uint64_t)(row * k + j)), ml_random_at(0, (uint64_t)(row * k + j + 4))};
        uint16_t up[8]; /* rounds up with the probability of the fraction */
        int32_t code[8];
        memcpy(up, bits, sizeof up);
        for (int i = 0; i < 8; i++) {
            code[i] = (int32_t)(w[j + i] * inverse + 7.5f + (float)up[i] * 0x1p-16f);
            code[i] = code[i] > 15 ? 15 : code[i];
        }
        for (int i = 0; i < 4; i++) codes[i] = (uint8_t)(code[i] | code[4 + i] << 4);
    }
}

static void sketch_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    const sketch_task *t = arg;
    ml_sketch *s = t->sketch;
    const ml_matrix *m = t->matrix;
    const int64_t tile_bytes = ML_SKETCH_ROWS * s->k / 2;
    float *w = ml_scratch(thread);
    for (int64_t row = begin * ML_SKETCH_ROWS; row < end * ML_SKETCH_ROWS; row++) {
        uint8_t *codes = s->codes + row / ML_SKETCH_ROWS * tile_bytes + row % ML_SKETCH_ROWS * 4;
        for (int64_t j = m->cols; j < s->k; j++) w[j] = 0;
        if (row < m->rows) {
            const row_size size = divide_row(decode(m, row, w), t->inverse, s->k);
            const int sound = isfinite(size.norm) && isfinite(size.plain) && (size.norm > LEAST_NORM || size.top == 0);
            s->norm[row] = sound ? size.norm : NAN;
            s->plain_norm[row] = size.plain;
            s->step[row] = sound ? size.top / 7.5f : 0;
        }
        if (s->step[row] == 0) memset(w, 0, (size_t)s->k * sizeof *w);
        round_row(w, s->k, row, s->step[row], codes);
    }
}

static int all_sound(const ml_sketch *s, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) {
        if (isnan(s->norm[r])) return 0;
    }
    return 1;
}

int ml_sketch_create(const ml_matrix *matrix, ml_sketch **out) {
    int status = ml_scratch_reserve((size_t)(matrix->cols + 8) * sizeof(float));
    if (status != ML_OK) return status;
    ml_sketch *s = ml_calloc(1, sizeof *s);
    if (!s) return ML_E_MEMORY;
    s->tiles = (matrix->rows + ML_SKETCH_ROWS - 1) / ML_SKETCH_ROWS;
    s->k = ml_sketch_columns(matrix->cols);
    const size_t rows = (size_t)(s->tiles * ML_SKETCH_ROWS), codes = rows * (size_t)s->k / 2;
    s->step = ml_calloc(rows * 3 + (size_t)s->k, sizeof(float));
    s->codes = ml_alloc_aligned(1, codes);
    float *inverse = ml_calloc((size_t)s->k, sizeof *inverse);
    if (!s->step || !s->codes || !inverse) {
        free(inverse);
        ml_sketch_free(s);
        return ML_E_MEMORY;
    }
    ml_memory_huge(s->codes, codes);
    s->norm = s->step + rows;
    s->plain_norm = s->norm + rows;
    s->scale = s->plain_norm + rows;
    s->bytes = (int64_t)(codes + (rows * 3 + (size_t)s->k) * sizeof(float));
    ml_memory_note(ML_MEMORY_SKETCH, s->bytes);
    find_scales(s, matrix, inverse);
    ml_parallel(s->tiles, 1, sketch_tiles, &(sketch_task){s, matrix, inverse});
    free(inverse);
    if (!all_sound(s, matrix->rows)) {
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
