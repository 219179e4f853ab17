#include "base/tuning.h"

#include "base/error.h"
#include "moonloom.h"

#include <string.h>

atomic_uint ml_tuning_off;

static const struct {
    const char *name, *meaning;
} switches[ML_TUNING_LIMIT] = {
    [ML_TUNING_INTEGER] = {"integers",
                           "MXFP4 and Q8_0 are multiplied in integers (int16); off: in f32, many columns by "
                           "OpenBLAS"},
    [ML_TUNING_COLUMNS] = {"columns",
                           "columns that the same weights serve share what is read and unpacked; off: one by "
                           "one, but on a matrix unit"},
    [ML_TUNING_MATRIX] = {"matrix", "the matrix unit, where there is one; off: the vector units alone"},
    [ML_TUNING_FUSED] = {"fused",
                         "q, k and v in one parallel region; gate, up and the activation in one; off: in three "
                         "each"},
    [ML_TUNING_EXPERTS] = {"experts", "all experts that have work in one parallel region; off: expert after expert"},
    [ML_TUNING_FLASH] = {"flash", "neighbouring rows of a prompt attend together, page by page; off: row by row"},
    [ML_TUNING_GROUPED] = {"grouped", "query heads that share keys and values attend together; off: one by one"},
    [ML_TUNING_SHARE] = {"share", "threads share the context of a few rows; off: a row and head is one thread's"},
    [ML_TUNING_PREFETCH] = {"prefetch",
                            "the next page of keys and values is fetched during this one; off: when its turn "
                            "comes"},
    [ML_TUNING_STEAL] = {"steal", "threads that are done help the others; off: they wait"},
    [ML_TUNING_SPIN] = {"spin", "threads spin for a while before they sleep; off: they sleep at once"},
    [ML_TUNING_HUGE] = {"huge", "huge pages under caches and activations; off: none under new ones"},
    [ML_TUNING_SKETCH] = {"sketch", "best tokens are found by a sketch of the head in 4 bits; off: among all logits"},
};

const char *ml_tuning_name(int i) {
    return i >= 0 && i < ML_TUNING_LIMIT ? switches[i].name : NULL;
}

const char *ml_tuning_meaning(int i) {
    return i >= 0 && i < ML_TUNING_LIMIT ? switches[i].meaning : NULL;
}

static int find(const char *name) {
    for (int i = 0; name && i < ML_TUNING_LIMIT; i++) {
        if (strcmp(name, switches[i].name) == 0) return i;
    }
    return ml_error(ML_E_ARGUMENT, "'%.32s' is no switch: ml_tuning_name() tells them", name ? name : "");
}

int ml_tuning_get(const char *name) {
    const int i = find(name);
    return i < 0 ? i : ml_tuned(i);
}

int ml_tuning_set(const char *name, int on) {
    const int i = find(name);
    if (i < 0) return i;
    if (on) {
        atomic_fetch_and(&ml_tuning_off, ~(1u << i));
    } else {
        atomic_fetch_or(&ml_tuning_off, 1u << i);
    }
    return ML_OK;
}
