#include "kernels/kernels.h"

#include "base/cpu.h"
#include "base/error.h"
#include "base/tuning.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The instruction sets of this build, the plainest first. */
static struct {
    const char *name;
    void (*fill)(ml_kernels *table);
    size_t flag;           /* what it needs: the place of a flag in ml_cpu; 0 if nothing */
    int hidden;            /* for tests: "auto" passes over it */
    int promised;          /* by the CPU and the system; only then is `table` filled and used */
    char in_floats[2][24]; /* names of its numbers without products in integers; [1]: under precision "exact" */
    ml_kernels table;
} sets[] = {
    {.name = "scalar", .fill = ml_kernels_scalar},
#if defined(__x86_64__)
    {.name = "avx2", .fill = ml_kernels_avx2, .flag = offsetof(ml_cpu, avx2)},
    {.name = "avx512", .fill = ml_kernels_avx512, .flag = offsetof(ml_cpu, avx512)},
    {.name = "amx", .fill = ml_kernels_amx, .flag = offsetof(ml_cpu, amx)},
    {.name = "amx-emulated", .fill = ml_kernels_amx_emulated, .flag = offsetof(ml_cpu, vnni), .hidden = 1},
#elif defined(__aarch64__)
    {.name = "neon", .fill = ml_kernels_neon, .flag = offsetof(ml_cpu, neon)},
#endif
};
enum { SETS = sizeof sets / sizeof sets[0] };

static const ml_kernels *current = &sets[0].table, *without_matrix = &sets[0].table;
static char refused[64]; /* what MOONLOOM_ISA asked for in vain; empty if nothing */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Names the sets of this build but for the hidden ones. */
static int refuse_name(const char *name) {
    char names[256] = "";
    size_t used = 0;
    for (int i = 0; i < SETS && used < sizeof names; i++) {
        if (sets[i].hidden) continue;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? ", " : "", sets[i].name);
    }
    return ml_error(ML_E_ARGUMENT, "'%.32s' is no instruction set of this build: choose %s or auto", name, names);
}

/* Makes the set of that name current; "auto" is the best one that is promised. */
static int choose(const char *name) {
    int automatic = strcmp(name, "auto") == 0, known = automatic;
    for (int i = SETS - 1; i >= 0; i--) {
        int named = strcmp(name, sets[i].name) == 0;
        known |= named;
        if (!sets[i].promised || !(named || (automatic && !sets[i].hidden))) continue;
        current = without_matrix = &sets[i].table;
        while (without_matrix->tile_multiply || !sets[i].promised) without_matrix = &sets[--i].table;
        return ML_OK;
    }
    if (known) {
        return ml_error(ML_E_UNSUPPORTED, "this machine (%s) has no %s: choose scalar or auto", ml_cpu_name(), name);
    }
    return refuse_name(name);
}

/* The flag at that place of ml_cpu. */
static int has(size_t flag) {
    int promised;
    memcpy(&promised, (const char *)ml_cpu_get() + flag, sizeof promised);
    return promised;
}

static void start(void) {
    for (int i = 0; i < SETS; i++) {
        sets[i].promised = sets[i].flag == 0 || has(sets[i].flag);
        if (sets[i].promised) sets[i].fill(&sets[i].table);
        snprintf(sets[i].in_floats[0], sizeof sets[i].in_floats[0], "%s-f32", sets[i].name);
        snprintf(sets[i].in_floats[1], sizeof sets[i].in_floats[1], "%s-exact-f32", sets[i].name);
    }
    const char *wish = getenv("MOONLOOM_ISA");
    if (!wish || !*wish) wish = "auto";
    if (choose(wish) != ML_OK) strncpy(refused, wish, sizeof refused - 1); /* and the scalar set stays */
}

const ml_kernels *ml_kernels_get(void) {
    pthread_once(&once, start);
    return ml_tuned(ML_TUNING_MATRIX) ? current : without_matrix;
}

int ml_kernels_ready(void) {
    pthread_once(&once, start);
    if (!refused[0]) return ML_OK;
    return ml_error(ML_E_UNSUPPORTED,
                    "MOONLOOM_ISA=%s cannot run on this CPU (%s) with this build: unset it, or choose what it has",
                    refused, ml_cpu_name());
}

const char *ml_isa_name(void) {
    pthread_once(&once, start);
    return current->isa;
}

int ml_isa_set(const char *name) {
    pthread_once(&once, start);
    int status = name ? choose(name) : ml_error(ML_E_ARGUMENT, "ml_isa_set needs a name");
    if (status == ML_OK) refused[0] = 0;
    return status;
}

/* ---- precision ---- */

static int exact;

int ml_kernels_exact(void) {
    return exact;
}

const char *ml_kernels_numbers(void) {
    const ml_kernels *kernels = ml_kernels_get();
    const int tiles_exact = exact && kernels->tile_multiply;
    for (int i = 0; i < SETS && kernels->integer_quantize && !ml_tuned(ML_TUNING_INTEGER); i++) {
        if (kernels == &sets[i].table) return sets[i].in_floats[tiles_exact];
    }
    return tiles_exact ? "amx-exact" : kernels->isa;
}

const char *ml_precision_name(void) {
    return exact ? "exact" : "bf16";
}

int ml_precision_set(const char *name) {
    if (!name || (strcmp(name, "bf16") != 0 && strcmp(name, "exact") != 0)) {
        return ml_error(ML_E_ARGUMENT, "the precision is bf16 or exact, not '%.32s'", name ? name : "");
    }
    exact = strcmp(name, "exact") == 0;
    return ML_OK;
}
