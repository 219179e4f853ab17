#include "base/memory.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* Areas of that size start where a huge page can. */
enum { HUGE_PAGE = 2 << 20 };

void *ml_calloc(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size ? size : 1);
    if (!block) ml_error(ML_E_MEMORY, "out of memory: %zu x %zu bytes asked for", count, size);
    return block;
}

void *ml_alloc_aligned(size_t count, size_t size) {
    size_t bytes;
    void *block = NULL;
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
    if (end > begin && bytes >= HUGE_PAGE) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)area;
    (void)bytes;
#endif
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
