/* Nodes of a machine whose memory is not equally near to all cores. */
#ifndef ML_BASE_NUMA_H
#define ML_BASE_NUMA_H

/* Called by worker `thread` of `threads` when it starts: applies the policy in use to it. */
void ml_numa_enter(int thread, int threads);

#endif
