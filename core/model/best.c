/* The best token of rows that want no other logits: bounds of all logits from a sketch of the head, then the logits
 * that may be the largest, computed as they always are. */
#include "base/threads.h"
#include "base/tuning.h"
#include "kernels/kernels.h"
#include "model/batch.h"
#include "model/sketch.h"

#include <math.h>
#include <string.h>

/* More rows together gain nothing: they share what the head costs to read. Up to EXACT_COLUMNS, which memory alone
 * bounds, both bytes of activations are worth their time. */
enum { MOST_COLUMNS = 64, EXACT_COLUMNS = 2 };

/* With more logits to compute than a SHARE_LISTED-th of the vocabulary, all are computed instead. */
enum { SHARE_LISTED = 4 };

/* A norm beyond which f32 might overflow on the way. */
#define LARGEST_NORM 1e15f

/* Of a row of activations x, s being the scales of the sketch: s x is about unit times integers of two bytes, of
 * which the lower one counts if the columns are few. The logit of row r, whose codes give the sum S with them, is at
 * most step[r] (unit (S - middle) + deviation) + plain_norm[r] error + norm[r] rounding. */
typedef struct column_bound {
    float unit, middle; /* middle: 7.5 times the sum of the integers */
    float deviation;    /* what the rounding of the codes may do to a row of step 1 */
    float error;        /* norm of s x - unit times the integers */
    float rounding;     /* what the kernels of the logits themselves may be off by, for a row of norm 1 */
} column_bound;

/* Rows whose logits are computed, ascending, for a column or a group of columns. */
typedef struct list_part {
    int32_t first, rows; /* the first column; how many rows */
    int32_t row[ML_BEST_ROWS];
} list_part;

/* A search, which lies in the logits of its batch. C columns, n rows of the sketch. */
typedef struct search {
    const ml_sketch *sketch;
    const ml_matrix *head;
    const ml_input *in;
    int64_t columns, n;
    int64_t group;        /* columns that are multiplied together: all on a matrix unit, whose numbers depend on that */
    float off;            /* share of norm times norm that a computed logit may be off by */
    float *bound;         /* {C, n}: at least the logit; where it was computed, the logit */
    float *top;           /* {C, tiles}: the largest bound of a tile */
    int32_t *first;       /* {C}: the row of the largest bound */
    float *least;         /* {C}: its logit; the best is no less */
    column_bound *column; /* {C} */
    int parts;            /* bytes of an integer that count: 2 or 1 */
    uint8_t *query;       /* of ml_query_bytes(k): a column as it is prepared */
    int8_t *bytes;        /* {k / 8, C, parts, 8}: high, then low ones */
    list_part *list;      /* {most_parts} */
    int64_t parts_listed, most_parts;
} search;

static void *carve(float *area, size_t *used, int64_t bytes) {
    void *place = area ? area + *used : NULL;
    *used += (size_t)(bytes + 63) / 64 * 16;
    return place;
}

/* Returns the floats that it takes. */
static size_t lay_out(search *s, float *area, int64_t rows, int64_t k) {
    const int64_t tiles = (rows + ML_SKETCH_ROWS - 1) / ML_SKETCH_ROWS;
    size_t used = 0;
    s->n = tiles * ML_SKETCH_ROWS;
    s->bound = carve(area, &used, s->columns * s->n * 4);
    s->top = carve(area, &used, s->columns * tiles * 4);
    s->first = carve(area, &used, s->columns * 4);
    s->least = carve(area, &used, s->columns * 4);
    s->column = carve(area, &used, s->columns * (int64_t)sizeof *s->column);
    s->parts = s->columns <= EXACT_COLUMNS ? 2 : 1;
    s->query = carve(area, &used, ml_query_bytes(k));
    s->bytes = carve(area, &used, s->columns * s->parts * k);
    s->most_parts = s->columns + tiles * ML_SKETCH_ROWS / SHARE_LISTED / ML_BEST_ROWS;
    s->list = carve(area, &used, s->most_parts * (int64_t)sizeof *s->list);
    return used;
}

static int searchable(const ml_batch *b) {
    return b->wanted > 0 && b->wanted <= MOST_COLUMNS && b->wanted_logits == 0;
}

size_t ml_best_floats(const ml_batch *b) {
    const ml_config *c = &b->model->config;
    search s = {.columns = b->wanted};
    return searchable(b) ? lay_out(&s, NULL, c->vocabulary, ml_sketch_columns(c->width)) : 0;
}

/* ---- bounds ---- */

/* Fills column c. 0 if its numbers are too large to be sure of anything. */
static int prepare_column(search *s, int64_t c) {
    const ml_sketch *sketch = s->sketch;
    const float *x = s->in->x + c * s->in->ld;
    float *scaled = ml_scratch(0);
    double norm = 0, plain = 0, error = 0;
    for (int64_t i = 0; i < sketch->k; i++) {
        scaled[i] = i < s->head->cols ? x[i] * sketch->scale[i] : 0;
        norm += i < s->head->cols ? (double)x[i] * x[i] : 0;
        plain += (double)scaled[i] * scaled[i];
    }
    if (!(sqrt(norm) < LARGEST_NORM) || !(sqrt(plain) < LARGEST_NORM)) return 0;
    ml_query_quantize(scaled, sketch->k, s->query);
    const ml_query *q = (const void *)s->query;
    const ml_integer_row row = ml_query_row(s->query, sketch->k);
    for (int64_t i = 0; i < sketch->k; i += 8) {
        int8_t *bytes = s->bytes + (i * s->columns + c * 8) * s->parts;
        memcpy(bytes, row.high + i, 8);
        if (s->parts == 2) memcpy(bytes + 8, row.low + i, 8);
    }
    for (int64_t i = 0; i < sketch->k; i++) {
        const int integers = s->parts == 2 ? row.integers[i] : 256 * row.high[i];
        const double off = (double)scaled[i] - (double)q->scale * integers;
        error += off * off;
    }
    const int32_t sum = s->parts == 2 ? q->integer_sum : 256 * q->high_sum;
    s->column[c] = (column_bound){
        .unit = q->scale,
        .middle = 7.5f * (float)sum,
        .deviation =
            ML_SKETCH_DEVIATIONS * (float)(sqrt(plain) + sqrt(error)), /* at least the norm of unit times them */
        .error = (float)sqrt(error) * 1.0001f,
        .rounding = s->off * (float)sqrt(norm),
    };
    return 1;
}

/* Turns a column's sums of a tile into bounds and returns the largest. A loop that gcc makes vectors of. */
static float bound_tile(const search *s, int64_t tile, const column_bound *c, const int32_t *sums, float *bound) {
    const int64_t first = tile * ML_SKETCH_ROWS, left = s->head->rows - first;
    const float *step = s->sketch->step + first, *norm = s->sketch->norm + first,
                *plain = s->sketch->plain_norm + first;
    const int32_t *low = s->parts == 2 ? sums + ML_SKETCH_ROWS : NULL;
    for (int64_t r = 0; r < ML_SKETCH_ROWS; r++) {
        const float sum = 256.0f * (float)sums[r] + (low ? (float)low[r] : 0);
        bound[r] = step[r] * (c->unit * (sum - c->middle) + c->deviation) + plain[r] * c->error + norm[r] * c->rounding;
    }
    for (int64_t r = left; r < ML_SKETCH_ROWS; r++) bound[r] = -INFINITY;
    return ml_largest(bound, ML_SKETCH_ROWS);
}

static void bound_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const search *s = arg;
    const ml_sketch *sketch = s->sketch;
    int32_t sums[MOST_COLUMNS * ML_SKETCH_ROWS];
    for (int64_t t = begin; t < end; t++) {
        ml_kernels_get()->sketch(sketch->codes + t * ML_SKETCH_ROWS * sketch->k / 2, sketch->k, s->bytes,
                                 s->columns * s->parts, sums);
        for (int64_t c = 0; c < s->columns; c++) {
            s->top[c * sketch->tiles + t] = bound_tile(s, t, &s->column[c], sums + c * s->parts * ML_SKETCH_ROWS,
                                                       s->bound + c * s->n + t * ML_SKETCH_ROWS);
        }
    }
}

/* ---- logits ---- */

/* Puts a row on the list of the columns from `first` on, in parts of ML_BEST_ROWS. 0 if it is full. */
static int list_row(search *s, int64_t first, int32_t row) {
    list_part *part = s->parts_listed ? &s->list[s->parts_listed - 1] : NULL;
    if (!part || part->first != first || part->rows == ML_BEST_ROWS) {
        if (s->parts_listed == s->most_parts) return 0;
        part = &s->list[s->parts_listed++];
        *part = (list_part){.first = (int32_t)first};
    }
    part->row[part->rows++] = row;
    return 1;
}

/* Logits of the listed rows, which are brought together first, to their bounds' places. */
static void compute_parts(void *arg, int64_t begin, int64_t end, int thread) {
    const search *s = arg;
    const int64_t stride = s->head->stride, group = s->group;
    float *scratch = ml_scratch(thread), logits[MOST_COLUMNS * ML_BEST_ROWS];
    uint8_t *rows = (uint8_t *)scratch + ml_linear_scratch(s->head->cols);
    for (int64_t p = begin; p < end; p++) {
        const list_part *part = &s->list[p];
        for (int32_t i = 0; i < part->rows; i++) {
            memcpy(rows + i * stride, s->head->data + part->row[i] * stride, (size_t)stride);
        }
        const ml_matrix few = {rows, part->rows, s->head->cols, stride, s->head->dtype};
        const ml_input in = ml_input_part(s->in, s->head->cols, part->first, group);
        ml_linear_rows(&few, 0, part->rows, NULL, &in, logits, ML_BEST_ROWS, scratch);
        for (int64_t c = 0; c < group; c++) {
            float *bound = s->bound + (part->first + c) * s->n;
            for (int32_t i = 0; i < part->rows; i++) bound[part->row[i]] = logits[c * ML_BEST_ROWS + i];
        }
    }
}

static int64_t largest(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

/* Whether the row of column c's largest bound was on the list of an earlier column of its group. */
static int known_first(const search *s, int64_t c) {
    for (int64_t i = c / s->group * s->group; i < c; i++) {
        if (s->first[i] == s->first[c]) return 1;
    }
    return 0;
}

/* The logit of each column's largest bound: what the others have to reach. 0 if that is too much work. */
static int compute_first(search *s) {
    for (int64_t c = 0; c < s->columns; c++) {
        const int64_t tile = largest(s->top + c * s->sketch->tiles, s->sketch->tiles);
        const float *bound = s->bound + c * s->n + tile * ML_SKETCH_ROWS;
        s->first[c] = (int32_t)(tile * ML_SKETCH_ROWS + largest(bound, ML_SKETCH_ROWS));
        if (!known_first(s, c) && !list_row(s, c / s->group * s->group, s->first[c])) return 0;
    }
    ml_parallel(s->parts_listed, 1, compute_parts, s);
    for (int64_t c = 0; c < s->columns; c++) s->least[c] = s->bound[c * s->n + s->first[c]];
    return 1;
}

/* Lists the rows of a tile of which a bound of the columns from `first` on reaches the logit that is known. */
static int list_tile(search *s, int64_t first, int64_t tile) {
    const int64_t last = first + s->group;
    int reached = 0;
    for (int64_t c = first; c < last; c++) reached |= s->top[c * s->sketch->tiles + tile] >= s->least[c];
    for (int64_t r = tile * ML_SKETCH_ROWS; reached && r < (tile + 1) * ML_SKETCH_ROWS; r++) {
        int row = 0;
        for (int64_t c = first; c < last; c++) row |= s->bound[c * s->n + r] >= s->least[c];
        if (row && !list_row(s, first, (int32_t)r)) return 0;
    }
    return 1;
}

static int compute_rest(search *s) {
    s->parts_listed = 0;
    for (int64_t first = 0; first < s->columns; first += s->group) {
        for (int64_t t = 0; t < s->sketch->tiles; t++) {
            if (!list_tile(s, first, t)) return 0;
        }
    }
    ml_parallel(s->parts_listed, 1, compute_parts, s);
    return 1;
}

/* The best of the rows that are listed for column c, which come in ascending order. */
static int32_t best_listed(const search *s, int64_t c) {
    const float *logits = s->bound + c * s->n;
    const int64_t first = c / s->group * s->group;
    int32_t best = -1;
    for (int64_t p = 0; p < s->parts_listed; p++) {
        const list_part *part = &s->list[p];
        for (int32_t i = 0; part->first == first && i < part->rows; i++) {
            if (best < 0 || logits[part->row[i]] > logits[best]) best = part->row[i];
        }
    }
    return best;
}

/* 0 if a bound failed, so that for some column not even the logit that is known was reached. */
static int take_best(ml_batch *b, const search *s) {
    for (int64_t r = 0; r < b->active_rows; r++) {
        ml_row *row = &b->row[r];
        if (row->want == ML_WANT_NOTHING) continue;
        const int32_t best = best_listed(s, row->logits);
        if (best < 0) return 0;
        row->best = best;
        row->best_logit = s->bound[row->logits * s->n + best];
    }
    return 1;
}

int ml_best_find(ml_batch *b, const ml_input *in, int *found) {
    ml_model *m = b->model;
    const int way = ml_linear_way(&m->head, in);
    *found = 0;
    if (!searchable(b) || !ml_tuned(ML_TUNING_SKETCH) || way == ML_LINEAR_DENSE) return ML_OK;
    int status = m->sketch ? ML_OK : ml_sketch_create(&m->head, &m->sketch);
    if (status != ML_OK || !m->sketch->codes) return status;
    search s = {.sketch = m->sketch, .head = &m->head, .in = in, .columns = b->wanted};
    s.group = way == ML_LINEAR_TILES ? s.columns : 1;
    s.off = way == ML_LINEAR_TILES ? 0x1p-7f : 0x1p-12f; /* bf16 on both sides; int16 with scales, sums in f32 */
    lay_out(&s, b->logits, m->head.rows, m->sketch->k);
    for (int64_t c = 0; c < s.columns; c++) {
        if (!prepare_column(&s, c)) return ML_OK;
    }
    ml_parallel(m->sketch->tiles, 1, bound_tiles, &s);
    b->work.weight_bytes += m->sketch->bytes;
    b->work.operations += 2.0 * (double)(m->head.rows * m->head.cols * s.columns);
    if (!compute_first(&s) || !compute_rest(&s) || !take_best(b, &s)) return ML_OK;
    for (int64_t p = 0; p < s.parts_listed; p++) {
        b->work.weight_bytes += s.list[p].rows * m->head.stride;
        b->work.operations += 2.0 * (double)(s.list[p].rows * m->head.cols * s.group);
    }
    *found = 1;
    return ML_OK;
}
