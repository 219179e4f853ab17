#define _GNU_SOURCE /* mkostemp */
#include "kv/bytes/spill.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNIT = 1024 }; /* records begin at multiples of it, and are given new ones of as many units */

/* Places of one size that are free again. */
typedef struct vacancy {
    int64_t *offsets;
    size_t count, capacity;
} vacancy;

struct ml_spill {
    int64_t holders;
    pid_t process; /* a child after fork() has the same file, but must not change it */
    int descriptor;
    char *path;
    int64_t end, bytes; /* of the file; of the records in it */
    vacancy *vacant;    /* {units + 1}: by units */
    size_t vacant_count;
};

static int failed(const ml_spill *spill, const char *what) {
    return ml_error(ML_E_IO, "the spill file in %s cannot be %s: %s", spill->path, what, strerror(errno));
}

/* Opens a file that has no name from then on. */
static int open_nameless(ml_spill *spill) {
    static const char name[] = "/moonloom-spill-XXXXXX";
    struct stat there;
    const size_t length = strlen(spill->path);
    if (stat(spill->path, &there) != 0 && errno == ENOENT) {
        spill->descriptor = open(spill->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (spill->descriptor < 0 || unlink(spill->path) != 0) return failed(spill, "made");
        return ML_OK;
    }
    char *path = ml_calloc(length + sizeof name, 1);
    if (!path) return ML_E_MEMORY;
    memcpy(path, spill->path, length);
    memcpy(path + length, name, sizeof name);
    spill->descriptor = mkostemp(path, O_CLOEXEC);
    int status = spill->descriptor < 0 || unlink(path) != 0 ? failed(spill, "made") : ML_OK;
    free(path);
    return status;
}

int ml_spill_create(const char *path, ml_spill **out) {
    ml_spill *spill = ml_calloc(1, sizeof *spill);
    if (!spill) return ML_E_MEMORY;
    spill->holders = 1;
    spill->process = getpid();
    spill->descriptor = -1;
    spill->path = strdup(path);
    int status = spill->path ? open_nameless(spill) : ml_error(ML_E_MEMORY, "out of memory: opening a spill file");
    if (status != ML_OK) {
        ml_spill_release(spill);
        return status;
    }
    *out = spill;
    return ML_OK;
}

void ml_spill_release(ml_spill *spill) {
    if (!spill || --spill->holders > 0) return;
    if (spill->descriptor >= 0) close(spill->descriptor);
    for (size_t i = 0; i < spill->vacant_count; i++) free(spill->vacant[i].offsets);
    free(spill->vacant);
    free(spill->path);
    free(spill);
}

const char *ml_spill_path(const ml_spill *spill) {
    return spill->path;
}

int64_t ml_spill_bytes(const ml_spill *spill) {
    return spill->bytes;
}

static size_t units_of(size_t bytes) {
    return (bytes + UNIT - 1) / UNIT;
}

int ml_spill_write(ml_spill *spill, const uint8_t *data, size_t bytes, int64_t *offset, uint64_t *hash) {
    if (spill->process != getpid()) {
        return ml_error(ML_E_IO, "the spill file in %s is that of the process that made this one", spill->path);
    }
    const size_t units = units_of(bytes);
    vacancy *vacant = units < spill->vacant_count && spill->vacant[units].count ? &spill->vacant[units] : NULL;
    const int64_t place = vacant ? vacant->offsets[vacant->count - 1] : spill->end;
    for (size_t done = 0; done < bytes;) {
        const ssize_t count = pwrite(spill->descriptor, data + done, bytes - done, place + (int64_t)done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return failed(spill, "written");
        done += (size_t)count;
    }
    if (vacant) {
        vacant->count--;
    } else {
        spill->end += (int64_t)(units * UNIT);
    }
    spill->bytes += (int64_t)bytes;
    spill->holders++;
    *offset = place;
    *hash = ml_hash(data, (int64_t)bytes, 0);
    return ML_OK;
}

int ml_spill_read(const ml_spill *spill, int64_t offset, size_t bytes, uint64_t hash, uint8_t *out) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t count = pread(spill->descriptor, out + done, bytes - done, offset + (int64_t)done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return failed(spill, "read");
        if (count == 0) break; /* someone cut it: the checksum tells */
        done += (size_t)count;
    }
    if (ml_hash(out, (int64_t)bytes, 0) == hash) return ML_OK;
    return ml_error(ML_E_IO,
                    "the spill file in %s is damaged at byte %lld: rewind the session to before the page that was "
                    "there, or feed its tokens again",
                    spill->path, (long long)offset);
}

/* Remembers a free place; without memory for that it stays unused. */
static void add_vacancy(ml_spill *spill, size_t units, int64_t offset) {
    if (units >= spill->vacant_count) {
        vacancy *wide = realloc(spill->vacant, (units + 1) * sizeof *wide);
        if (!wide) return;
        memset(wide + spill->vacant_count, 0, (units + 1 - spill->vacant_count) * sizeof *wide);
        spill->vacant = wide;
        spill->vacant_count = units + 1;
    }
    vacancy *vacant = &spill->vacant[units];
    void *list = vacant->offsets;
    const int status = ml_grow(&list, &vacant->capacity, vacant->count + 1, sizeof *vacant->offsets);
    vacant->offsets = list;
    if (status == ML_OK) vacant->offsets[vacant->count++] = offset;
}

void ml_spill_forget(ml_spill *spill, int64_t offset, size_t bytes) {
    spill->bytes -= (int64_t)bytes;
    if (spill->bytes > 0) {
        add_vacancy(spill, units_of(bytes), offset);
    } else if (spill->process == getpid()) {
        /* The file is empty: its space goes back to the system, and if that fails it is written over. */
        for (size_t i = 0; i < spill->vacant_count; i++) spill->vacant[i].count = 0;
        spill->end = 0;
        if (ftruncate(spill->descriptor, 0) != 0) errno = 0;
    }
    ml_spill_release(spill);
}
