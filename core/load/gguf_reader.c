#include "load/gguf_reader.h"

#include "base/error.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "moonloom reads numbers from little-endian files in place and needs a little-endian machine"
#endif

enum { MAX_NAME = 65535 }; /* longest metadata key that the specification allows */

int ml_gguf_short(const ml_gguf_reader *r, uint64_t bytes) {
    return ml_error(ML_E_FORMAT, "%s is cut short or damaged: %s needs %llu bytes at byte %zu, and %zu are left",
                    r->path, r->what, (unsigned long long)bytes, r->at, r->size - r->at);
}

int ml_gguf_check_count(const ml_gguf_reader *r, uint64_t count, size_t least) {
    if (count <= (r->size - r->at) / least) return ML_OK;
    return ml_error(ML_E_FORMAT, "%s is damaged: %s says %llu items follow byte %zu, but only %zu bytes are left",
                    r->path, r->what, (unsigned long long)count, r->at, r->size - r->at);
}

int ml_gguf_take_name(ml_gguf_reader *r, const char **name, size_t *bytes) {
    uint64_t length = 0;
    const uint8_t *text = NULL;
    int status = ml_gguf_take_u64(r, &length);
    if (!status && (length == 0 || length > MAX_NAME)) {
        return ml_error(ML_E_FORMAT, "%s is damaged: the name of %s has %llu bytes (at byte %zu)", r->path, r->what,
                        (unsigned long long)length, r->at - 8);
    }
    if (!status) status = ml_gguf_take(r, length, &text);
    if (status) return status;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f) {
            return ml_error(ML_E_FORMAT, "%s is damaged: the name of %s holds a control character (at byte %zu)",
                            r->path, r->what, r->at - (size_t)length + i);
        }
    }
    *name = (const char *)text;
    *bytes = (size_t)length;
    return ML_OK;
}
