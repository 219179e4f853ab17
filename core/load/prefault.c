#define _GNU_SOURCE
#include "load/prefault.h"

#include "base/threads.h"

#include <stddef.h>
#include <sys/mman.h>

#if defined(__linux__) && defined(MADV_POPULATE_READ)
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* on every architecture; the headers may be older than the kernel */
#endif

/* CHUNK: a huge page. To map one takes one fault, where it is made of small pages about 32, and 60 times as long:
 * MOST_FAULTS is the most on average, with SLACK for a bad beginning. */
enum { CHUNK = 2 << 20, MOST_FAULTS = 4, SLACK = 256 };

struct ml_prefault {
    const ml_mapping *files;
    size_t count;
    pthread_t thread;
    pid_t process; /* a child after fork() has no such thread */
    atomic_int stop;
};

/* 1 if all of the chunk lies in the page cache, 0 if not, -1 where the system does not tell. cachestat(2). */
static int is_cached(const ml_mapping *file, size_t at) {
    const struct { uint64_t offset, bytes; } range = {at, CHUNK};
    struct {
        uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
    } pages;
    if (syscall(SYS_cachestat, file->descriptor, &range, &pages, 0) != 0) return -1;
    return pages.cached * (uint64_t)sysconf(_SC_PAGESIZE) >= CHUNK;
}

static long faults(void) {
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_minflt : 0;
}

/* What one thread has done so far. */
typedef struct tally {
    long faults_before, mapped;
} tally;

/* 0 if it is not worth going on, or to be stopped. */
static int map_file(const ml_prefault *prefault, const ml_mapping *file, tally *tally) {
    for (size_t at = 0; file->size - at >= CHUNK; at += CHUNK) {
        if (atomic_load_explicit(&prefault->stop, memory_order_relaxed)) return 0;
        const int cached = is_cached(file, at);
        if (cached < 0) return 0;
        if (!cached) continue;
        if (madvise((void *)(file->data + at), CHUNK, MADV_POPULATE_READ) != 0) return 0;
        tally->mapped++;
        if (faults() - tally->faults_before > MOST_FAULTS * tally->mapped + SLACK) return 0;
    }
    return 1;
}

static void *run(void *arg) {
    const ml_prefault *prefault = arg;
    tally tally = {.faults_before = faults()};
    int going = 1;
    for (size_t i = 0; going && i < prefault->count; i++) {
        const ml_mapping *file = &prefault->files[i];
        /* Else to map what was read ahead would make the system read on. */
        madvise((void *)file->data, file->size, MADV_RANDOM);
        going = map_file(prefault, file, &tally);
        madvise((void *)file->data, file->size, MADV_NORMAL);
    }
    return NULL;
}

ml_prefault *ml_prefault_start(const ml_mapping *files, size_t count) {
    ml_prefault *prefault = calloc(1, sizeof *prefault);
    if (!prefault) return NULL;
    prefault->files = files;
    prefault->count = count;
    prefault->process = getpid();
    atomic_init(&prefault->stop, 0);
    if (ml_thread_start(&prefault->thread, run, prefault) == 0) return prefault;
    free(prefault);
    return NULL;
}

void ml_prefault_stop(ml_prefault *prefault) {
    if (!prefault) return;
    atomic_store(&prefault->stop, 1);
    if (getpid() == prefault->process) pthread_join(prefault->thread, NULL);
    free(prefault);
}
#else
ml_prefault *ml_prefault_start(const ml_mapping *files, size_t count) {
    (void)files, (void)count;
    return NULL;
}

void ml_prefault_stop(ml_prefault *prefault) {
    (void)prefault;
}
#endif
