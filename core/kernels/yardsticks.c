/* The yardsticks: how fast this machine reads memory and multiplies, measured when asked. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    RUN = 4 << 20,
    RUNS = 128, /* a buffer of 512 MiB, read in runs of 4 MiB */
    PASSES = 1000
};

typedef struct stream {
    uint8_t *area;
    atomic_ullong sum; /* kept, so that reading cannot be left out */
} stream;

static void touch(void *arg, int64_t begin, int64_t end, int thread) {
    const stream *s = arg;
    memset(s->area + begin * RUN, thread + 1, (size_t)(end - begin) * RUN);
}

static void read_runs(void *arg, int64_t begin, int64_t end, int thread) {
    stream *s = arg;
    (void)thread;
    atomic_fetch_add(&s->sum, ml_kernels_get()->read_stream(s->area + begin * RUN, (end - begin) * RUN));
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median: a shared machine has short spells of being much slower or faster than what can be kept up. */
int ml_machine_bandwidth(double milliseconds, double *bytes_per_second) {
    if (!(milliseconds > 0) || !bytes_per_second) {
        return ml_error(ML_E_ARGUMENT, "measuring the bandwidth needs a time above 0 ms");
    }
    int status = ml_kernels_ready();
    if (status != ML_OK) return status;
    stream s = {.area = ml_alloc_aligned(RUNS, RUN)};
    if (!s.area) return ML_E_MEMORY;
    ml_memory_huge(s.area, (size_t)RUNS * RUN);
    ml_parallel(RUNS, 1, touch, &s);
    double rates[PASSES], start = ml_time_now(), now = start;
    size_t passes = 0;
    do {
        double before = now;
        ml_parallel(RUNS, 1, read_runs, &s);
        now = ml_time_now();
        rates[passes++] = (double)RUNS * RUN / (now - before) * 1e3;
    } while (now - start < milliseconds && passes < PASSES && !ml_interrupt_pending());
    free(s.area);
    qsort(rates, passes, sizeof *rates, by_size);
    *bytes_per_second = rates[passes / 2];
    return ML_OK;
}

/* ---- arithmetic ---- */

enum { ROUNDS = 1 << 20, SHARES = 64 };

typedef struct multiplied {
    _Atomic double operations[SHARES];
} multiplied;

static void multiply(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    multiplied *m = arg;
    for (int64_t i = begin; i < end; i++) m->operations[i] = ml_kernels_get()->multiply_rounds(ROUNDS);
}

int ml_machine_multiply_peak(double milliseconds, double *operations_per_second) {
    if (!(milliseconds > 0) || !operations_per_second) {
        return ml_error(ML_E_ARGUMENT, "measuring the multiply peak needs a time above 0 ms");
    }
    int status = ml_kernels_ready();
    if (status != ML_OK) return status;
    multiplied m;
    double best = 0, start = ml_time_now(), now = start;
    do {
        const double before = now;
        double operations = 0;
        ml_parallel(SHARES, 1, multiply, &m);
        now = ml_time_now();
        for (int i = 0; i < SHARES; i++) operations += m.operations[i];
        const double rate = operations / (now - before) * 1e3;
        best = rate > best ? rate : best;
    } while (now - start < milliseconds && !ml_interrupt_pending());
    *operations_per_second = best;
    return ML_OK;
}
