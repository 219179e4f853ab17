#include "model/keys.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEY_LENGTH = 96 };

static void name_key(char out[KEY_LENGTH], const ml_keys *keys, const char *name) {
    snprintf(out, KEY_LENGTH, "%s.%s", keys->architecture, name);
}

int32_t ml_keys_int(ml_keys *keys, const char *name, int64_t low, int64_t high, int64_t otherwise) {
    if (keys->status != ML_OK) return 0;
    char key[KEY_LENGTH];
    name_key(key, keys, name);
    int64_t value = otherwise;
    int status = ml_meta_int(keys->weights, key, 0, &value);
    if (status != ML_OK && !(status == ML_E_NOT_FOUND && otherwise >= low)) {
        keys->status =
            ml_error(ML_E_FORMAT, "%s: the metadata lack an integer %s", ml_weights_path(keys->weights), key);
    } else if (value < low || value > high) {
        keys->status = ml_error(ML_E_FORMAT, "%s: %s is %lld, outside %lld..%lld", ml_weights_path(keys->weights), key,
                                (long long)value, (long long)low, (long long)high);
    }
    return keys->status == ML_OK ? (int32_t)value : 0;
}

/* A finite number above 0, or 0 where `zero` allows it; `missing` tells whether `otherwise` may stand for an absent
 * key. */
static double read_number(ml_keys *keys, const char *name, int zero, int missing, double otherwise) {
    if (keys->status != ML_OK) return 0;
    char key[KEY_LENGTH];
    name_key(key, keys, name);
    double value = otherwise;
    int status = ml_meta_float(keys->weights, key, 0, &value);
    if (status != ML_OK && !(status == ML_E_NOT_FOUND && missing)) {
        keys->status = ml_error(ML_E_FORMAT, "%s: the metadata lack a number %s", ml_weights_path(keys->weights), key);
    } else if (!(value > 0 || (zero && value == 0)) || !isfinite(value)) {
        keys->status = ml_error(ML_E_FORMAT, "%s: %s is %g, but must be %s", ml_weights_path(keys->weights), key, value,
                                zero ? "0 or above" : "above 0");
    }
    return keys->status == ML_OK ? value : 0;
}

double ml_keys_positive(ml_keys *keys, const char *name, double otherwise) {
    return read_number(keys, name, 0, otherwise > 0, otherwise);
}

double ml_keys_number(ml_keys *keys, const char *name, double otherwise) {
    return read_number(keys, name, 1, 1, otherwise);
}

int ml_keys_choice(ml_keys *keys, const char *name, const char *const *names, int otherwise) {
    if (keys->status != ML_OK) return 0;
    char key[KEY_LENGTH], known[128] = "";
    name_key(key, keys, name);
    const char *text;
    int64_t bytes;
    int status = ml_meta_string(keys->weights, key, 0, &text, &bytes);
    if (status == ML_E_NOT_FOUND) return otherwise;
    for (int i = 0; names[i]; i++) {
        if (status == ML_OK && (size_t)bytes == strlen(names[i]) && memcmp(text, names[i], (size_t)bytes) == 0)
            return i;
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", names[i]);
    }
    keys->status =
        ml_error(ML_E_UNSUPPORTED, "%s: %s is not one moonloom knows (%s)", ml_weights_path(keys->weights), key, known);
    return 0;
}

int ml_keys_has(const ml_keys *keys, const char *name) {
    if (keys->status != ML_OK) return 0; /* looking would replace the sentence of the failure */
    char key[KEY_LENGTH];
    int kind, item;
    int64_t count;
    name_key(key, keys, name);
    return ml_meta_kind(keys->weights, key, &kind, &item, &count) == ML_OK;
}
