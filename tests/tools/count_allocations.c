/* Loaded with LD_PRELOAD: counts every call of malloc and its kin in the process, whichever library makes it, and lets
 * one of them fail. glibc. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *block, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_long calls, failing;

long count_allocations(void) {
    return atomic_load(&calls);
}

/* Call number `call` from now on returns NULL; 0: none does. */
void fail_allocation(long call) {
    atomic_store(&failing, call ? atomic_load(&calls) + call : 0);
}

static int fails(void) {
    return atomic_fetch_add(&calls, 1) + 1 == atomic_load(&failing);
}

void *malloc(size_t bytes) {
    return fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
    return fails() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes) {
    return fails() ? NULL : __libc_realloc(block, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
    return fails() ? NULL : __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    return memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    *out = memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}
