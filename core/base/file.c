#include "base/file.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed(const ml_file *file, const char *what) {
    return ml_error(ML_E_IO, "%s cannot be %s: %s", file->path, what, strerror(errno));
}

/* Opens and locks the part. It may have been renamed or removed between the two: then *again is set. */
static int open_part(ml_file *file, int *again) {
    struct stat mine, there;
    *again = 0;
    /* O_NONBLOCK: opening a pipe of that name must not wait for a reader. */
    file->descriptor = open(file->part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (file->descriptor < 0) return failed(file, "written");
    if (flock(file->descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return failed(file, "written");
        return ml_error(ML_E_IO, "%s is just being written by another process", file->path);
    }
    if (fstat(file->descriptor, &mine) != 0) return failed(file, "written");
    if (!S_ISREG(mine.st_mode)) {
        return ml_error(ML_E_IO, "%s cannot be written: %s is not a regular file", file->path, file->part);
    }
    *again = stat(file->part, &there) != 0 || there.st_ino != mine.st_ino || there.st_dev != mine.st_dev;
    return ML_OK;
}

static void end(ml_file *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    free(file->part);
    *file = (ml_file){.descriptor = -1};
}

int ml_file_create(const char *path, ml_file *file) {
    static const char suffix[] = ".part";
    const size_t length = strlen(path);
    int again = 0, status = ML_OK;
    *file = (ml_file){.descriptor = -1, .path = strdup(path), .part = malloc(length + sizeof suffix)};
    if (!file->path || !file->part) status = ml_error(ML_E_MEMORY, "out of memory: writing %s", path);
    if (status == ML_OK) {
        memcpy(file->part, path, length);
        memcpy(file->part + length, suffix, sizeof suffix);
    }
    for (int attempt = 0; status == ML_OK && attempt < 8; attempt++) {
        status = open_part(file, &again);
        if (!again) break;
        close(file->descriptor);
        file->descriptor = -1;
    }
    if (status == ML_OK && again) status = ml_error(ML_E_IO, "%s is just being written by another process", path);
    if (status == ML_OK && ftruncate(file->descriptor, 0) != 0) status = failed(file, "written");
    if (status != ML_OK) end(file);
    return status;
}

static int write_at(ml_file *file, int64_t offset, const uint8_t *data, size_t bytes) {
    while (bytes > 0) {
        const ssize_t count = pwrite(file->descriptor, data, bytes, offset);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return failed(file, "written");
        data += count;
        bytes -= (size_t)count;
        offset += count;
    }
    return ML_OK;
}

int ml_file_write(ml_file *file, const void *data, size_t bytes) {
    int status = write_at(file, file->bytes, data, bytes);
    if (status == ML_OK) file->bytes += (int64_t)bytes;
    return status;
}

int ml_file_rewrite(ml_file *file, const void *data, size_t bytes) {
    return write_at(file, 0, data, bytes);
}

/* So that the new name outlives a power failure. */
static int sync_folder(const ml_file *file) {
    char *slash = strrchr(file->path, '/'),
         *folder = slash ? strndup(file->path, (size_t)(slash - file->path + 1)) : NULL;
    if (slash && !folder) return ml_error(ML_E_MEMORY, "out of memory: writing %s", file->path);
    const int descriptor = open(folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (descriptor < 0) return failed(file, "synced");
    /* File systems that cannot sync a folder say EINVAL. */
    const int status = fsync(descriptor) == 0 || errno == EINVAL ? ML_OK : failed(file, "synced");
    close(descriptor);
    return status;
}

int ml_file_commit(ml_file *file) {
    int status = fsync(file->descriptor) == 0 ? ML_OK : failed(file, "written");
    if (status == ML_OK && rename(file->part, file->path) != 0) status = failed(file, "written");
    if (status != ML_OK) {
        ml_file_abandon(file);
        return status;
    }
    status = sync_folder(file);
    end(file);
    return status;
}

void ml_file_abandon(ml_file *file) {
    if (file->descriptor < 0) return;
    unlink(file->part);
    end(file);
}
