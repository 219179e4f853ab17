#include "base/memory.h"

#include "base/error.h"
#include "base/tuning.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Areas of that size start where a huge page can. */
enum { HUGE_PAGE = 2 << 20 };

static atomic_llong allocations, held[ML_MEMORY_PURPOSES], peaks[ML_MEMORY_PURPOSES];

void ml_memory_note(int purpose, int64_t change) {
    const long long now = atomic_fetch_add(&held[purpose], change) + change;
    long long peak = atomic_load(&peaks[purpose]);
    while (now > peak && !atomic_compare_exchange_weak(&peaks[purpose], &peak, now)) {
    }
}

int ml_memory_use(int purpose, int64_t *bytes, int64_t *peak) {
    if (purpose < 0 || purpose >= ML_MEMORY_PURPOSES) {
        return ml_error(ML_E_ARGUMENT, "memory is held for purposes 0 to %d, not %d", ML_MEMORY_PURPOSES - 1, purpose);
    }
    *bytes = atomic_load(&held[purpose]);
    *peak = atomic_load(&peaks[purpose]);
    return ML_OK;
}

int64_t ml_memory_allocations(void) {
    return atomic_load(&allocations);
}

void *ml_calloc(size_t count, size_t size) {
    atomic_fetch_add(&allocations, 1);
    void *block = calloc(count ? count : 1, size ? size : 1);
    if (!block) ml_error(ML_E_MEMORY, "out of memory: %zu x %zu bytes asked for", count, size);
    return block;
}

void *ml_alloc_aligned(size_t count, size_t size) {
    size_t bytes;
    void *block = NULL;
    atomic_fetch_add(&allocations, 1);
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 64 ||
        posix_memalign(&block, bytes >= HUGE_PAGE ? HUGE_PAGE : 64, bytes ? bytes : 64) != 0) {
        ml_error(ML_E_MEMORY, "out of memory: %zu x %zu bytes asked for", count, size);
        return NULL;
    }
    return block;
}

int ml_grow(void **block, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return ML_OK;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    if (wanted < need) wanted = need;
    atomic_fetch_add(&allocations, 1);
    size_t bytes;
    void *grown = __builtin_mul_overflow(wanted, size, &bytes) ? NULL : realloc(*block, bytes);
    if (!grown) return ml_error(ML_E_MEMORY, "out of memory: %zu x %zu bytes asked for", wanted, size);
    *block = grown;
    *capacity = wanted;
    return ML_OK;
}

void ml_memory_huge(void *area, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096;
    uintptr_t begin = ((uintptr_t)area + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)area + bytes) & ~(page - 1);
    const int advice = ml_tuned(ML_TUNING_HUGE) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (end > begin && bytes >= HUGE_PAGE) madvise((void *)begin, end - begin, advice);
#else
    (void)area;
    (void)bytes;
#endif
}

void *ml_memory_place(size_t bytes) {
    const size_t room = bytes >= HUGE_PAGE && bytes <= SIZE_MAX - HUGE_PAGE ? bytes + HUGE_PAGE : bytes;
    uint8_t *area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        ml_error(ML_E_MEMORY, "out of memory: the system has no room for %zu bytes", bytes);
        return NULL;
    }
    if (room == bytes) return area;
    const size_t before = (HUGE_PAGE - (uintptr_t)area % HUGE_PAGE) % HUGE_PAGE;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), end = before + (bytes + page - 1) / page * page;
    if (before) munmap(area, before);
    if (end < room) munmap(area + end, room - end);
    return area + before;
}

void *ml_memory_map(size_t bytes) {
    void *area = ml_memory_place(bytes);
    if (!area) return NULL;
    if (mprotect(area, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(area, bytes);
        ml_error(ML_E_MEMORY, "out of memory: the system has no %zu bytes", bytes);
        return NULL;
    }
    ml_memory_huge(area, bytes);
    return area;
}

/* A line such as "VmHWM:  123 kB" of /proc/self/status, in bytes; 0 where there is none. */
static int64_t status_bytes(const char *field) {
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    char line[256];
    long long kilobytes = 0;
    size_t length = strlen(field);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, field, length) == 0 && line[length] == ':') {
            kilobytes = strtoll(line + length + 1, NULL, 10);
            break;
        }
    }
    fclose(file);
    return (int64_t)kilobytes * 1024;
}

int64_t ml_memory_peak(void) {
    const int64_t peak = status_bytes("VmHWM");
    struct rusage usage;
    if (peak > 0 || getrusage(RUSAGE_SELF, &usage) != 0) return peak;
    return (int64_t)usage.ru_maxrss * 1024; /* where /proc is not mounted; it may count what ran before exec() */
}

int64_t ml_memory_resident(void) {
    return status_bytes("VmRSS");
}
