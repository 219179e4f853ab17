#include "load/mapping.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
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
    void *data = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED) return ml_error(ML_E_IO, "%s cannot be mapped: %s", path, strerror(errno));
    *out = (ml_mapping){data, (size_t)facts.st_size};
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
    close(descriptor);
    return status;
}

void ml_mapping_close(ml_mapping *mapping) {
    if (mapping->data) munmap((void *)mapping->data, mapping->size);
    *mapping = (ml_mapping){0};
}
