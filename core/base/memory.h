/* Memory: aligned, zeroed where it is cheap, huge pages where the kernel gives them. */
#ifndef ML_BASE_MEMORY_H
#define ML_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* `count` items of `size` bytes, zeroed, or NULL with ml_last_error() set (also when the product overflows).
 * Release with free(). */
void *ml_calloc(size_t count, size_t size);
/* `count` items of `size` bytes, aligned to a cache line of 64 bytes (to 2 MiB from that size on, for huge pages) and
 * not zeroed. Release with free(). */
void *ml_alloc_aligned(size_t count, size_t size);
/* Grows `block` to hold `need` items of `size` bytes, at least doubling; `capacity` is in items. On failure
 * returns ML_E_MEMORY and leaves both as they were. */
int ml_grow(void **block, size_t *capacity, size_t need, size_t size);
/* Address space for `bytes`, at a multiple of 2 MiB where it is that large: nothing may touch it yet. NULL with
 * ml_last_error() set. Release with munmap(). */
void *ml_memory_place(size_t bytes);
/* `bytes` of memory as ml_memory_place() places them: zeroed, under huge pages where the kernel gives them.
 * Not counted by ml_memory_allocations(). */
void *ml_memory_map(size_t bytes);
/* Counts `change` bytes more, or less, that are held for a purpose (ML_MEMORY_...). Any thread. */
void ml_memory_note(int purpose, int64_t change);
/* Asks for huge pages under an area of at least 2 MiB; a hint only. */
void ml_memory_huge(void *area, size_t bytes);

#endif
