#define _GNU_SOURCE
#include "base/mapping.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int map_descriptor(const char *path, int descriptor, ml_mapping *out) {
    struct stat facts;
    if (fstat(descriptor, &facts) != 0) return ml_error(ML_E_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(facts.st_mode)) return ml_error(ML_E_IO, "%s is a folder; name the model file in it", path);
    if (!S_ISREG(facts.st_mode)) return ml_error(ML_E_IO, "%s is not a regular file, so it cannot be mapped", path);
    if (facts.st_size == 0) return ml_error(ML_E_FORMAT, "%s is empty; download it again", path);
    if ((uint64_t)facts.st_size > SIZE_MAX) return ml_error(ML_E_MEMORY, "%s is too large to be mapped", path);
    const size_t size = (size_t)facts.st_size;
    void *place = ml_memory_place(size);
    if (!place) return ML_E_MEMORY;
    void *data = mmap(place, size, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0);
    if (data == MAP_FAILED) {
        const int reason = errno;
        munmap(place, size);
        return ml_error(ML_E_IO, "%s cannot be mapped: %s", path, strerror(reason));
    }
    /* Where the kernel can (Linux 6.16 on ext4 or xfs), what is read from the disk then lies in huge pages, and a
     * process that maps them later has them at once: 2 ms instead of 60 for 512 MB. */
    ml_memory_huge(data, size);
    *out = (ml_mapping){.data = data, .size = size, .descriptor = descriptor};
    return ML_OK;
}

int ml_mapping_open(const char *path, ml_mapping *out) {
    /* O_NONBLOCK: opening a pipe must not wait for a writer. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        if (errno == ENOENT || errno == ENOTDIR) return ml_error(ML_E_IO, "there is no file %s", path);
        return ml_error(ML_E_IO, "%s cannot be opened: %s", path, strerror(errno));
    }
    int status = map_descriptor(path, descriptor, out);
    if (status != ML_OK) close(descriptor);
    return status;
}

void ml_mapping_release(ml_mapping *mapping) {
    if (mapping->descriptor >= 0) close(mapping->descriptor);
    mapping->descriptor = -1;
}

void ml_mapping_close(ml_mapping *mapping) {
    if (mapping->data) {
        munmap((void *)mapping->data, mapping->size);
        ml_mapping_release(mapping);
    }
    *mapping = (ml_mapping){0};
}

/* ---- copying ---- */

#if defined(__linux__)
enum { PART = 32 << 20, PIECE = 1 << 20 }; /* PART: a multiple of a huge page */

typedef struct reading {
    int descriptor;
    uint8_t *area;
    size_t offset, bytes; /* in the file */
    atomic_int problem;   /* errno, or -1 where the file ends too soon */
} reading;

static void read_pieces(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    reading *r = arg;
    size_t at = (size_t)begin * PIECE, last = (size_t)end * PIECE;
    if (last > r->bytes) last = r->bytes;
    while (at < last) {
        const ssize_t got = pread(r->descriptor, r->area + at, last - at, (off_t)(r->offset + at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            atomic_store(&r->problem, got < 0 ? errno : -1);
            return;
        }
        at += (size_t)got;
    }
}

int ml_mapping_copy(ml_mapping *mapping, const char *path) {
    const size_t left = mapping->size - mapping->copied, bytes = left < PART ? left : PART;
    if (bytes == 0) return ML_OK;
    void *area = ml_memory_map(bytes), *place = (void *)(mapping->data + mapping->copied);
    if (!area) return ML_E_MEMORY;
    reading r = {.descriptor = mapping->descriptor, .area = area, .offset = mapping->copied, .bytes = bytes};
    posix_fadvise(r.descriptor, (off_t)(r.offset + bytes), PART, POSIX_FADV_WILLNEED);
    ml_parallel((int64_t)((bytes + PIECE - 1) / PIECE), 1, read_pieces, &r);
    const int problem = atomic_load(&r.problem);
    if (problem) {
        munmap(area, bytes);
        return ml_error(ML_E_IO, "%s cannot be read: %s", path,
                        problem > 0 ? strerror(problem) : "it has become shorter since it was opened");
    }
    mprotect(area, bytes, PROT_READ);
    if (mremap(area, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
        const int reason = errno;
        munmap(area, bytes);
        return ml_error(ML_E_MEMORY, "%s cannot be copied into memory: %s", path, strerror(reason));
    }
    /* Else the system would hold a second copy until it needs the room. */
    posix_fadvise(r.descriptor, (off_t)r.offset, (off_t)bytes, POSIX_FADV_DONTNEED);
    mapping->copied += bytes;
    return ML_OK;
}
#else
int ml_mapping_copy(ml_mapping *mapping, const char *path) {
    (void)mapping;
    return ml_error(ML_E_UNSUPPORTED, "%s stays mapped: copying weights into memory works on Linux only", path);
}
#endif
