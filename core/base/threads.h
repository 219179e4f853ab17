/* The thread pool: persistent workers, one parallel region at a time. */
#ifndef ML_BASE_THREADS_H
#define ML_BASE_THREADS_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* Works on items [begin, end) of a region; `thread` is 0 (the caller) .. ml_threads_count() - 1. */
typedef void (*ml_task)(void *arg, int64_t begin, int64_t end, int thread);

/* Runs `task` over items [0, count), handed out in runs of `grain` (the last may be shorter), on all threads, and
 * returns when all are done. The runs do not depend on the number of threads, so neither do results. Each
 * thread begins with an equal share of neighbouring runs and then helps the others; one that is not awake is not waited
 * for. A region inside a region runs on its own thread alone. */
void ml_parallel(int64_t count, int64_t grain, ml_task task, void *arg);

/* Has every worker that starts from now on call hook(thread, threads) first, its number of how many; NULL for none. */
void ml_threads_on_start(void (*hook)(int thread, int threads));

/* pthread_create() for a thread of the core, which takes no signals of the process: their handlers (Ctrl-C) run on the
 * threads of the program, as they may expect. */
int ml_thread_start(pthread_t *thread, void *(*run)(void *), void *arg);
/* Blocks these on the calling thread, for what starts threads by itself. `before` receives the mask that was. */
void ml_signals_block(sigset_t *before);

/* Makes sure that every thread has at least `bytes` of scratch. Not inside a region. ML_E_MEMORY on failure. */
int ml_scratch_reserve(size_t bytes);
/* The scratch of a thread, 64-byte aligned: its content lasts as long as the region. */
void *ml_scratch(int thread);

#endif
