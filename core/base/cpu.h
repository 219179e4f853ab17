/* What the CPU promises, asked once. */
#ifndef ML_BASE_CPU_H
#define ML_BASE_CPU_H

typedef struct ml_cpu {
    char name[64]; /* first: kernels.c takes place 0 for no flag */
    int avx2;      /* AVX2, FMA and F16C, and the system saves ymm registers */
    int avx512;    /* AVX-512 F BW DQ VL on top, and the system saves zmm registers */
    int vnni;      /* AVX-512 VNNI on top of avx512 */
    int vbmi;      /* AVX-512 VBMI on top of avx512 */
    int neon;      /* aarch64 with its vectors */
    int amx; /* AMX-TILE, AMX-BF16 and AVX-512 BF16 on top of vnni, and the system lets this process use the tiles */
    int dotprod; /* SDOT on top of neon */
} ml_cpu;

const ml_cpu *ml_cpu_get(void);
/* Physical cores that this process may run on (affinity mask and SMT siblings counted once). At least 1. */
int ml_cpu_cores(void);
/* Logical CPUs that this process may run on, SMT siblings counted each. At least 1. */
int ml_cpu_processors(void);

#endif
