#define _GNU_SOURCE
#include "base/error.h"
#include "base/threads.h"

#include <string.h>

#if defined(__linux__)
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* set_mempolicy(2); the numbers of linux/mempolicy.h. */
enum { MAX_NODES = 64, POLICY_DEFAULT = 0, POLICY_INTERLEAVE = 3 };

static struct {
    int known, spread;
    int count;                  /* nodes that have cores this process may use */
    cpu_set_t cores[MAX_NODES]; /* of each of them */
    unsigned long memory;       /* a bit for each node of the machine */
} numa;

/* Reads a list such as "0-3,8" into a set; an empty one where there is no such file. */
static void read_list(const char *path, cpu_set_t *set) {
    CPU_ZERO(set);
    FILE *file = fopen(path, "r");
    if (!file) return;
    int first, last;
    while (fscanf(file, "%d", &first) == 1) {
        last = first;
        int mark = fgetc(file);
        if (mark == '-') {
            if (fscanf(file, "%d", &last) != 1) break;
            mark = fgetc(file);
        }
        for (int i = first; i >= 0 && i <= last && i < CPU_SETSIZE; i++) CPU_SET(i, set);
        if (mark != ',') break;
    }
    fclose(file);
}

static void find_nodes(void) {
    if (numa.known) return;
    cpu_set_t nodes, allowed;
    char path[64];
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
    read_list("/sys/devices/system/node/online", &nodes);
    for (int node = 0; node < MAX_NODES; node++) {
        if (!CPU_ISSET(node, &nodes)) continue;
        numa.memory |= 1ul << node;
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
        cpu_set_t *cores = &numa.cores[numa.count];
        read_list(path, cores);
        CPU_AND(cores, cores, &allowed);
        if (CPU_COUNT(cores) > 0) numa.count++;
    }
    if (numa.count == 0) { /* no such folder: one node */
        numa.memory = 1;
        numa.cores[numa.count++] = allowed;
    }
    numa.known = 1;
}

static int set_policy(int spread) {
    const unsigned long *mask = spread ? &numa.memory : NULL;
    return (int)syscall(SYS_set_mempolicy, spread ? POLICY_INTERLEAVE : POLICY_DEFAULT, mask,
                        mask ? sizeof *mask * 8 + 1 : 0);
}

/* What worker `thread` of `threads` does first: goes to the cores of its node, its memory to all nodes. */
static void enter(int thread, int threads) {
    const int node = (int)((long)thread * numa.count / threads);
    sched_setaffinity(0, sizeof numa.cores[node], &numa.cores[node]); /* a hint: without it all works, too */
    set_policy(1);
}

int ml_numa_nodes(void) {
    find_nodes();
    return numa.count;
}

int ml_numa_set(const char *policy) {
    const int spread = strcmp(policy, "spread") == 0;
    if (!spread && strcmp(policy, "off") != 0) {
        return ml_error(ML_E_ARGUMENT, "numa is off or spread, not '%.40s'", policy);
    }
    find_nodes();
    if (spread == numa.spread) return ML_OK;
    if (set_policy(spread) != 0) {
        return ml_error(ML_E_UNSUPPORTED, "the system does not let this process place memory (set_mempolicy: %s)",
                        strerror(errno));
    }
    numa.spread = spread;
    ml_threads_on_start(spread ? enter : NULL);
    return ml_threads_set(ml_threads_count()); /* the workers start anew under the policy */
}

const char *ml_numa_policy(void) {
    return numa.spread ? "spread" : "off";
}
#else
int ml_numa_nodes(void) {
    return 1;
}

int ml_numa_set(const char *policy) {
    if (strcmp(policy, "off") == 0) return ML_OK;
    return ml_error(ML_E_UNSUPPORTED, "numa can only be off here: placing memory works on Linux only");
}

const char *ml_numa_policy(void) {
    return "off";
}
#endif
