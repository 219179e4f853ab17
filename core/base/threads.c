#include "base/threads.h"

#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/tuning.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 256, SPIN_ROUNDS = 4000 };

typedef struct ml_region {
    ml_task task;
    void *arg;
    int64_t count, grain;
    int shares; /* the items are split into this many equal shares, one for each thread that is awake */
    int steal;  /* threads that are done with their share help the others */
} ml_region;

typedef struct ml_share {
    _Alignas(64) atomic_llong next; /* the first run of the share that nobody has taken */
} ml_share;

static struct {
    pthread_mutex_t lock; /* guards start, stop, the sleepers and their tickets */
    pthread_cond_t wake, left;
    pthread_mutex_t region_lock; /* one region at a time */
    pthread_t workers[MAX_THREADS];
    void *scratch[MAX_THREADS];
    size_t scratch_size[MAX_THREADS];
    size_t scratch_bytes;                        /* that every thread in use has at least */
    int wanted;                                  /* threads with the caller; 0: not chosen yet */
    int running;                                 /* workers started, the caller not counted */
    void (*start_hook)(int thread, int threads); /* called by each worker that starts, or NULL */
    int most_awake;                              /* workers that there are processors for */
    ml_region region;                            /* written while no worker is inside */
    ml_share shares[MAX_THREADS];
    atomic_int stop;        /* workers leave */
    atomic_uint generation; /* of the region */
    atomic_int open;        /* workers may go in */
    atomic_int arrived;     /* threads that went in, where some sleep */
    atomic_int waiting;     /* the caller sleeps until nobody is inside */
    atomic_int inside;      /* workers that went in, or are about to see that they may not */
    int sleeping;           /* workers that sleep and have no ticket */
    int tickets;            /* for workers in the condition variable to wake up */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .left = PTHREAD_COND_INITIALIZER,
          .region_lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int inside_region;
static _Thread_local int current_thread;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int spin_rounds(void) {
    return ml_tuned(ML_TUNING_SPIN) ? SPIN_ROUNDS : 0;
}

/* The share that a thread begins with: always the same, but where some threads sleep, the next that nobody has. */
static int first_share(int thread, int shares) {
    if (shares == pool.running + 1) return thread;
    return thread == 0 ? 0 : atomic_fetch_add_explicit(&pool.arrived, 1, memory_order_relaxed) % shares;
}

/* Takes the runs of its own share in order, which keeps a thread on one stream of memory, then helps with the others'.
 */
static void take_runs(int thread) {
    const ml_region region = pool.region;
    const int64_t runs = (region.count + region.grain - 1) / region.grain;
    inside_region = 1;
    current_thread = thread;
    const int first = first_share(thread, region.shares);
    for (int i = 0; i < (region.steal ? region.shares : 1); i++) {
        const int share = (first + i) % region.shares;
        const int64_t last = runs * (share + 1) / region.shares;
        for (;;) {
            const int64_t run = atomic_fetch_add_explicit(&pool.shares[share].next, 1, memory_order_relaxed);
            if (run >= last) break;
            const int64_t begin = run * region.grain, end = begin + region.grain;
            region.task(region.arg, begin, end < region.count ? end : region.count, thread);
        }
    }
    inside_region = 0;
}

/* Waits until the generation differs from `seen`: spins for a while, then sleeps until it gets a ticket. */
static unsigned wait_generation(unsigned seen) {
    for (int i = spin_rounds(); i > 0; i--) {
        unsigned now = atomic_load_explicit(&pool.generation, memory_order_acquire);
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&pool.lock);
    if (atomic_load_explicit(&pool.generation, memory_order_acquire) == seen) {
        pool.sleeping++;
        while (!pool.tickets) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.tickets--;
    }
    const unsigned now = atomic_load_explicit(&pool.generation, memory_order_acquire);
    pthread_mutex_unlock(&pool.lock);
    return now;
}

typedef struct worker_start {
    int thread, threads;
    unsigned seen;
} worker_start;

static void leave(void) {
    if (atomic_fetch_sub(&pool.inside, 1) > 1 || !atomic_load(&pool.waiting)) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_signal(&pool.left);
    pthread_mutex_unlock(&pool.lock);
}

void ml_threads_on_start(void (*hook)(int thread, int threads)) {
    pool.start_hook = hook;
}

static void *worker_main(void *arg) {
    worker_start start = *(worker_start *)arg;
    free(arg);
    if (pool.start_hook) pool.start_hook(start.thread, start.threads);
    unsigned seen = start.seen;
    for (;;) {
        seen = wait_generation(seen);
        if (atomic_load(&pool.stop)) return NULL;
        atomic_fetch_add(&pool.inside, 1);
        if (atomic_load(&pool.open)) take_runs(start.thread);
        leave();
    }
}

/* Tells the workers of a new generation, and wakes sleeping ones until `most` are awake. */
static void announce(int most) {
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add_explicit(&pool.generation, 1, memory_order_release);
    for (int awake = pool.running - pool.sleeping; awake < most && pool.sleeping > 0; awake++) {
        pool.sleeping--;
        pool.tickets++;
        pthread_cond_signal(&pool.wake);
    }
    pthread_mutex_unlock(&pool.lock);
}

static void stop_workers(void) {
    if (!pool.running) return;
    atomic_store(&pool.stop, 1);
    announce(pool.running);
    for (int i = 1; i <= pool.running; i++) pthread_join(pool.workers[i], NULL);
    atomic_store(&pool.stop, 0);
    pool.running = 0;
}

/* After fork() the workers are gone; the child starts its own when it needs them. */
static void forget_workers(void) {
    pool.running = pool.sleeping = pool.tickets = 0;
    atomic_store(&pool.inside, 0);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_mutex_init(&pool.region_lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.left, NULL);
}

void ml_signals_block(sigset_t *before) {
    /* Signals that tell of what the thread itself does. */
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t block;
    sigfillset(&block);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&block, own[i]);
    pthread_sigmask(SIG_BLOCK, &block, before);
}

int ml_thread_start(pthread_t *thread, void *(*run)(void *), void *arg) {
    sigset_t before;
    ml_signals_block(&before);
    const int status = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

static void start_workers(void) {
    static int registered;
    if (!registered) {
        pthread_atfork(NULL, NULL, forget_workers);
        registered = 1;
    }
    if (!pool.wanted) pool.wanted = ml_cpu_cores();
    pool.most_awake = ml_cpu_processors() - 1;
    while (pool.running + 1 < pool.wanted) {
        worker_start *start = malloc(sizeof *start);
        if (!start) return; /* fewer workers do the same work */
        start->thread = pool.running + 1;
        start->threads = pool.wanted;
        start->seen = atomic_load(&pool.generation);
        if (ml_thread_start(&pool.workers[pool.running + 1], worker_main, start) != 0) {
            free(start);
            return;
        }
        pool.running++;
    }
}

/* Where threads do not help each other: waits until those whose shares they are have taken all runs. */
static void wait_taken(int64_t runs) {
    for (int i = 0; i < pool.region.shares; i++) {
        const int64_t last = runs * (i + 1) / pool.region.shares;
        for (int round = 0; atomic_load(&pool.shares[i].next) < last; round++) {
            if (round < spin_rounds()) {
                relax();
            } else {
                sched_yield();
            }
        }
    }
}

/* Lets no further worker in and waits for those inside. One that has not even woken up is not waited for: the others
 * did its share. One that lost its processor to another process is waited for asleep, so that it can have this one. */
static void close_region(void) {
    atomic_store(&pool.open, 0);
    for (int i = spin_rounds(); i > 0; i--) {
        if (atomic_load(&pool.inside) == 0) return;
        relax();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waiting, 1);
    while (atomic_load(&pool.inside) > 0) pthread_cond_wait(&pool.left, &pool.lock);
    atomic_store(&pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
}

void ml_parallel(int64_t count, int64_t grain, ml_task task, void *arg) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    if (inside_region) {
        for (int64_t i = 0; i < count; i += grain) task(arg, i, i + grain < count ? i + grain : count, current_thread);
        return;
    }
    pthread_mutex_lock(&pool.region_lock);
    if (pool.running + 1 < pool.wanted || !pool.wanted) start_workers();
    const int workers = pool.running < pool.most_awake ? pool.running : pool.most_awake;
    const int shares = count > grain ? workers + 1 : 1;
    pool.region = (ml_region){task, arg, count, grain, shares, ml_tuned(ML_TUNING_STEAL)};
    const int64_t runs = (count + grain - 1) / grain;
    for (int i = 0; i < shares; i++) atomic_store(&pool.shares[i].next, runs * i / shares);
    if (shares > 1) {
        atomic_store(&pool.arrived, 1);
        atomic_store(&pool.open, 1);
        announce(pool.most_awake);
    }
    take_runs(0);
    if (!pool.region.steal) wait_taken(runs);
    if (shares > 1) close_region();
    pthread_mutex_unlock(&pool.region_lock);
}

int ml_threads_set(int count) {
    if (count < 0 || count > MAX_THREADS) {
        return ml_error(ML_E_ARGUMENT, "threads must be 0 (all cores) to %d, not %d", MAX_THREADS, count);
    }
    pthread_mutex_lock(&pool.region_lock);
    stop_workers();
    const int before = pool.wanted;
    pool.wanted = count ? count : ml_cpu_cores();
    size_t bytes = pool.scratch_bytes;
    pool.scratch_bytes = 0; /* the new threads need theirs too */
    pthread_mutex_unlock(&pool.region_lock);
    int status = ml_scratch_reserve(bytes);
    if (status != ML_OK) { /* no thread may work without */
        pthread_mutex_lock(&pool.region_lock);
        pool.wanted = before;
        pool.scratch_bytes = bytes;
        pthread_mutex_unlock(&pool.region_lock);
    }
    return status;
}

int ml_threads_count(void) {
    return pool.wanted ? pool.wanted : ml_cpu_cores();
}

int ml_scratch_reserve(size_t bytes) {
    if (bytes <= pool.scratch_bytes) return ML_OK;
    pthread_mutex_lock(&pool.region_lock);
    int status = ML_OK;
    for (int i = 0; i < ml_threads_count(); i++) {
        if (pool.scratch_size[i] >= bytes) continue;
        void *area = ml_alloc_aligned(bytes, 1);
        if (!area) {
            status = ML_E_MEMORY;
            break;
        }
        ml_memory_huge(area, bytes);
        free(pool.scratch[i]);
        ml_memory_note(ML_MEMORY_SCRATCH, (int64_t)bytes - (int64_t)pool.scratch_size[i]);
        pool.scratch[i] = area;
        pool.scratch_size[i] = bytes;
    }
    if (status == ML_OK) pool.scratch_bytes = bytes;
    pthread_mutex_unlock(&pool.region_lock);
    return status;
}

void *ml_scratch(int thread) {
    return pool.scratch[thread];
}
