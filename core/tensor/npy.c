/* NumPy's .npy files (numpy/lib/format.py, NEP 1): the bytes \x93NUMPY, two bytes of version, the length of the header
 * (2 bytes in version 1, 4 in 2 and 3), a Python dictionary literal, then the elements. */
#include "base/error.h"
#include "base/memory.h"
#include "dtype/dtype.h"
#include "tensor/convert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { MAX_HEADER = 65536 };

static const struct {
    int dtype;
    const char *descr;
} names[] = {
    {ML_F32, "<f4"}, {ML_F64, "<f8"}, {ML_F16, "<f2"}, {ML_I8, "|i1"},
    {ML_I16, "<i2"}, {ML_I32, "<i4"}, {ML_I64, "<i8"},
};
enum { NAMES = sizeof names / sizeof names[0] };

static const char *descr_of(int dtype) {
    for (int i = 0; i < NAMES; i++) {
        if (names[i].dtype == dtype) return names[i].descr;
    }
    return NULL;
}

/* ---- reading the header ----------------------------------------------------------------------- */

typedef struct npy_header {
    char descr[16];
    int fortran;
    int ndim;
    int64_t shape[ML_TENSOR_MAX_DIMS];
    int seen; /* bit 0: descr, 1: fortran_order, 2: shape */
} npy_header;

static const char *skip_space(const char *p) {
    return p + strspn(p, " \t\r\n");
}

/* A quoted word into `out` (of `capacity` bytes); NULL if there is none. */
static const char *take_word(const char *p, char *out, size_t capacity) {
    char quote = *p;
    if (quote != '\'' && quote != '"') return NULL;
    const char *end = strchr(++p, quote);
    if (!end || (size_t)(end - p) >= capacity) return NULL;
    memcpy(out, p, (size_t)(end - p));
    out[end - p] = 0;
    return end + 1;
}

/* "(2, 3)", "(2,)" or "()", which becomes {1}. */
static const char *take_shape(const char *p, npy_header *h) {
    if (*p != '(') return NULL;
    for (p = skip_space(p + 1); *p != ')'; p = skip_space(p)) {
        char *end;
        if (h->ndim == ML_TENSOR_MAX_DIMS || *p < '0' || *p > '9') return NULL;
        errno = 0;
        h->shape[h->ndim++] = strtoll(p, &end, 10);
        if (errno) return NULL;
        p = skip_space(end);
        if (*p == ',') {
            p++;
        } else if (*p != ')') {
            return NULL;
        }
    }
    if (h->ndim == 0) h->shape[h->ndim++] = 1;
    return p + 1;
}

/* The dictionary; NULL where it cannot be read. */
static const char *take_dictionary(const char *p, npy_header *h) {
    p = skip_space(p);
    if (*p != '{') return NULL;
    for (p = skip_space(p + 1); *p != '}'; p = skip_space(p)) {
        char key[32];
        p = take_word(p, key, sizeof key);
        p = p ? skip_space(p) : NULL;
        if (!p || *p != ':') return NULL;
        p = skip_space(p + 1);
        if (strcmp(key, "descr") == 0 && !(h->seen & 1)) {
            p = take_word(p, h->descr, sizeof h->descr);
            h->seen |= 1;
        } else if (strcmp(key, "fortran_order") == 0 && !(h->seen & 2)) {
            h->fortran = strncmp(p, "True", 4) == 0;
            p = h->fortran ? p + 4 : strncmp(p, "False", 5) == 0 ? p + 5 : NULL;
            h->seen |= 2;
        } else if (strcmp(key, "shape") == 0 && !(h->seen & 4)) {
            p = take_shape(p, h);
            h->seen |= 4;
        } else {
            return NULL;
        }
        if (!p) return NULL;
        p = skip_space(p);
        if (*p == ',') p++;
    }
    return h->seen == 7 ? p + 1 : NULL;
}

static int read_header(FILE *file, const char *path, npy_header *h) {
    uint8_t start[12];
    size_t length = 0;
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) {
        return ml_error(ML_E_FORMAT, "%s is not an .npy file: it does not begin with \\x93NUMPY", path);
    }
    length = start[8] | (size_t)start[9] << 8;
    if (start[6] >= 2 && start[6] <= 3 && fread(start + 10, 1, 2, file) == 2) {
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    } else if (start[6] != 1) {
        return ml_error(ML_E_UNSUPPORTED, "%s is of .npy version %d.%d; 1.0 to 3.0 can be read", path, start[6],
                        start[7]);
    }
    if (length > MAX_HEADER) return ml_error(ML_E_FORMAT, "%s has a header of %zu bytes: damaged", path, length);
    char *text = ml_calloc(length + 1, 1);
    if (!text) return ML_E_MEMORY;
    int fine = fread(text, 1, length, file) == length && take_dictionary(text, h);
    free(text);
    if (fine) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s has a header that cannot be read, or more than %d dimensions", path,
                    ML_TENSOR_MAX_DIMS);
}

/* ---- reading the elements --------------------------------------------------------------------- */

/* Reads `count` unsigned bytes as i16. */
static int read_unsigned(FILE *file, int16_t *out, size_t count) {
    uint8_t bytes[4096];
    while (count > 0) {
        size_t some = count < sizeof bytes ? count : sizeof bytes;
        if (fread(bytes, 1, some, file) != some) return 0;
        for (size_t i = 0; i < some; i++) out[i] = bytes[i];
        out += some;
        count -= some;
    }
    return 1;
}

/* Columns first in memory: the shape and its strides the other way round. */
static void reverse(ml_tensor *t) {
    for (int i = 0, j = t->ndim - 1; i < j; i++, j--) {
        int64_t shape = t->shape[i], stride = t->stride[i];
        t->shape[i] = t->shape[j];
        t->stride[i] = t->stride[j];
        t->shape[j] = shape;
        t->stride[j] = stride;
    }
}

static int read_elements(FILE *file, const char *path, npy_header *h, ml_tensor **out) {
    int dtype = -1, bytes_unsigned = strcmp(h->descr, "|u1") == 0;
    for (int i = 0; i < NAMES; i++) {
        if (strcmp(h->descr, names[i].descr) == 0) dtype = names[i].dtype;
    }
    if (bytes_unsigned) dtype = ML_I16;
    if (dtype < 0) {
        return ml_error(ML_E_UNSUPPORTED,
                        "%s holds elements of type '%s'; f2 f4 f8 i1 i2 i4 i8 u1, little endian, can "
                        "be read",
                        path, h->descr);
    }
    int64_t width = bytes_unsigned ? 1 : ml_dtype_bytes(dtype), bytes = width, reversed[ML_TENSOR_MAX_DIMS];
    int huge = 0;
    for (int i = 0; i < h->ndim; i++) {
        reversed[h->ndim - 1 - i] = h->shape[i];
        huge |= __builtin_mul_overflow(bytes, h->shape[i], &bytes);
    }
    struct stat facts;
    long at = ftell(file);
    if (at < 0 || fstat(fileno(file), &facts) != 0) return ml_error(ML_E_IO, "%s cannot be read", path);
    if (huge || bytes > facts.st_size - at) {
        return ml_error(ML_E_FORMAT, "%s is cut short: its header promises more elements than the file holds", path);
    }
    ml_tensor *tensor;
    int status = ml_tensor_new(dtype, h->ndim, h->fortran ? reversed : h->shape, 0, &tensor);
    if (status != ML_OK) return status;
    size_t count = (size_t)(bytes / width);
    int fine = bytes_unsigned ? read_unsigned(file, (int16_t *)(void *)tensor->data, count)
                              : fread(tensor->data, (size_t)width, count, file) == count;
    if (!fine) {
        ml_tensor_free(tensor);
        return ml_error(ML_E_IO, "%s cannot be read to its end", path);
    }
    if (h->fortran) reverse(tensor);
    *out = tensor;
    return ML_OK;
}

int ml_tensor_load(const char *path, ml_tensor **out) {
    FILE *file = fopen(path, "rb");
    if (!file) return ml_error(ML_E_IO, "%s cannot be opened: %s", path, strerror(errno));
    npy_header header = {0};
    int status = read_header(file, path, &header);
    if (status == ML_OK) status = read_elements(file, path, &header, out);
    fclose(file);
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------- */

/* Magic, version and dictionary, padded with spaces so that the elements begin at a multiple of 64. */
static int write_header(FILE *file, const ml_tensor *t) {
    char text[192];
    int used = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr_of(t->dtype));
    for (int i = 0; i < t->ndim; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, i ? " %lld," : "%lld,", (long long)t->shape[i]);
    }
    used += snprintf(text + used, sizeof text - (size_t)used, "), }");
    int padded = (10 + used + 1 + 63) / 64 * 64 - 10;
    uint8_t start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)(padded & 255), (uint8_t)(padded >> 8)};
    return fwrite(start, 1, 10, file) == 10 && fprintf(file, "%s%*s\n", text, padded - used - 1, "") == padded;
}

int ml_tensor_save(const ml_tensor *tensor, const char *path) {
    ml_tensor *packed;
    int status = ml_tensor_convert(tensor, descr_of(tensor->dtype) ? tensor->dtype : ML_F32, &packed);
    if (status != ML_OK) return status;
    FILE *file = fopen(path, "wb");
    if (!file) {
        status = ml_error(ML_E_IO, "%s cannot be written: %s", path, strerror(errno));
    } else {
        size_t bytes = (size_t)(ml_tensor_elements(packed) * ml_dtype_bytes(packed->dtype));
        int fine = write_header(file, packed) && fwrite(packed->data, 1, bytes, file) == bytes;
        int reason = errno;
        if (fclose(file) != 0 || !fine) {
            status = ml_error(ML_E_IO, "%s cannot be written to its end: %s", path, strerror(fine ? errno : reason));
            remove(path);
        }
    }
    ml_tensor_free(packed);
    return status;
}
