#define _GNU_SOURCE
#include "base/cpu.h"

#include "moonloom.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif

static ml_cpu cpu;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
/* The brand string of cpuid leaves 0x80000002..4, trimmed. */
static void read_name(void) {
    unsigned words[12] = {0};
    for (unsigned leaf = 0; leaf < 3; leaf++) {
        unsigned *w = words + leaf * 4;
        if (!__get_cpuid(0x80000002u + leaf, w, w + 1, w + 2, w + 3)) return;
    }
    char text[49] = {0};
    memcpy(text, words, 48);
    const char *start = text + strspn(text, " ");
    snprintf(cpu.name, sizeof cpu.name, "%s", start);
    for (size_t n = strlen(cpu.name); n && cpu.name[n - 1] == ' '; n--) cpu.name[n - 1] = 0;
}

/* The matrix unit: what cpuid says (leaf 7), that the system saves tiles (XCR0; it can be read, as AVX-512 can be
 * used), and its leave, which is for the whole process (Linux, Documentation/arch/x86/xstate.rst). */
static int may_use_tiles(void) {
    enum { TILE_STATES = 3 << 17, BF16_AND_TILE = 1 << 22 | 1 << 24, REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d = 0, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & BF16_AND_TILE) != BF16_AND_TILE) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATES) != TILE_STATES) return 0;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return 0;
#endif
}

static void detect(void) {
    snprintf(cpu.name, sizeof cpu.name, "x86-64");
    read_name();
    /* GCC's and clang's own test checks cpuid and xgetbv (that the system saves the registers). */
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
    cpu.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    cpu.avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    cpu.vnni = cpu.avx512 && __builtin_cpu_supports("avx512vnni");
    cpu.vbmi = cpu.avx512 && __builtin_cpu_supports("avx512vbmi");
    cpu.amx = cpu.vnni && __builtin_cpu_supports("avx512bf16") && may_use_tiles();
}
#elif defined(__aarch64__) && defined(__linux__)
/* Names by implementer and part, from the vendors' manuals (MIDR_EL1). */
static const struct {
    unsigned implementer, part;
    const char *name;
} parts[] = {
    {0x41, 0xd03, "Arm Cortex-A53"},  {0x41, 0xd07, "Arm Cortex-A57"},  {0x41, 0xd08, "Arm Cortex-A72"},
    {0x41, 0xd0b, "Arm Cortex-A76"},  {0x41, 0xd0c, "Arm Neoverse N1"}, {0x41, 0xd40, "Arm Neoverse V1"},
    {0x41, 0xd49, "Arm Neoverse N2"}, {0x41, 0xd4f, "Arm Neoverse V2"}, {0xc0, 0xac3, "Ampere-1"},
};

/* The system lets programs read MIDR_EL1 where it says so (HWCAP_CPUID). */
static void read_name(unsigned long promises) {
    if (!(promises & HWCAP_CPUID)) return;
    uint64_t id;
    __asm__("mrs %0, MIDR_EL1" : "=r"(id));
    const unsigned implementer = id >> 24 & 0xff, part = id >> 4 & 0xfff;
    snprintf(cpu.name, sizeof cpu.name, "aarch64, implementer 0x%02x, part 0x%03x", implementer, part);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].implementer != implementer || parts[i].part != part) continue;
        snprintf(cpu.name, sizeof cpu.name, "%s", parts[i].name);
    }
}

static void detect(void) {
    const unsigned long promises = getauxval(AT_HWCAP);
    snprintf(cpu.name, sizeof cpu.name, "aarch64");
    read_name(promises);
    cpu.neon = (promises & HWCAP_ASIMD) != 0;
    cpu.dotprod = cpu.neon && (promises & HWCAP_ASIMDDP);
}
#else
static void detect(void) {
    snprintf(cpu.name, sizeof cpu.name, "unknown CPU");
}
#endif

const ml_cpu *ml_cpu_get(void) {
    pthread_once(&once, detect);
    return &cpu;
}

const char *ml_cpu_name(void) {
    return ml_cpu_get()->name;
}

/* The lowest-numbered SMT sibling of a logical CPU, or the CPU itself where /sys does not say. */
static int first_sibling(int logical) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", logical);
    FILE *file = fopen(path, "r");
    int first = logical;
    if (file) {
        if (fscanf(file, "%d", &first) != 1) first = logical;
        fclose(file);
    }
    return first;
}

int ml_cpu_cores(void) {
#if defined(__linux__)
    cpu_set_t allowed, cores;
    CPU_ZERO(&allowed);
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        for (int i = 0; i < CPU_SETSIZE; i++) {
            if (!CPU_ISSET(i, &allowed)) continue;
            int first = first_sibling(i);
            if (first >= 0 && first < CPU_SETSIZE) CPU_SET(first, &cores);
        }
        if (CPU_COUNT(&cores) > 0) return CPU_COUNT(&cores);
    }
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int ml_cpu_processors(void) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0) return CPU_COUNT(&allowed);
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

double ml_time_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
