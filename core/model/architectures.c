/* The table of architectures: one more is a file beside llama.c and a line here. */
#include "model/architectures.h"

#include <stdio.h>
#include <string.h>

extern const ml_arch ml_arch_gpt_oss, ml_arch_llama, ml_arch_qwen2, ml_arch_qwen3;

static const ml_arch *const known[] = {&ml_arch_gpt_oss, &ml_arch_llama, &ml_arch_qwen2, &ml_arch_qwen3};

enum { COUNT = sizeof known / sizeof *known };

const ml_arch *ml_arch_find(const char *name, size_t bytes) {
    for (int i = 0; i < COUNT; i++) {
        if (strlen(known[i]->name) == bytes && memcmp(known[i]->name, name, bytes) == 0) return known[i];
    }
    return NULL;
}

void ml_arch_names(char *out, size_t size) {
    size_t used = 0;
    for (int i = 0; i < COUNT && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", known[i]->name);
    }
}
