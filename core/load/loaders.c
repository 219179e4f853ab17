#include "load/loaders.h"

#include "base/error.h"
#include "load/gguf.h"
#include "load/gguf_vocabulary.h"

#include <stdio.h>
#include <string.h>

/* Asked in this order. */
static const ml_loader loaders[] = {
    {"GGUF", "begins with the bytes \"GGUF\"", ml_gguf_recognise, ml_gguf_load, ml_gguf_vocabulary},
};

enum { LOADERS = sizeof loaders / sizeof *loaders };

/* A safetensors file begins with the length of its header in 8 bytes, and the header, JSON. */
static int is_safetensors(const ml_mapping *file) {
    uint64_t header;
    if (file->size <= sizeof header || file->data[sizeof header] != '{') return 0;
    memcpy(&header, file->data, sizeof header);
    return header <= file->size - sizeof header;
}

/* Says of a file that no loader takes what it is, or which formats there are. */
static int refuse(const char *path, const ml_mapping *file) {
    if (is_safetensors(file)) {
        return ml_error(ML_E_UNSUPPORTED, "%s is a safetensors file; open the model's GGUF file instead", path);
    }
    char formats[512] = "";
    size_t used = 0;
    for (size_t i = 0; i < LOADERS && used < sizeof formats; i++) {
        used += (size_t)snprintf(formats + used, sizeof formats - used, "%s not a %s file, which %s",
                                 i > 0 ? ", and" : "", loaders[i].name, loaders[i].sign);
    }
    return ml_error(ML_E_FORMAT, "%s is in no format that moonloom reads: it is%s", path, formats);
}

int ml_loader_find(const char *path, const ml_mapping *file, const ml_loader **out) {
    for (size_t i = 0; i < LOADERS; i++) {
        if (!loaders[i].recognise(file->data, file->size)) continue;
        *out = &loaders[i];
        return ML_OK;
    }
    return refuse(path, file);
}
