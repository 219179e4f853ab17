/* Products of bytes with AVX-512 VNNI, in assembly: of many in a loop, GCC 12 would broadcast four bytes for each of
 * their uses anew, and move every sum to another register each time, until some end up in memory. */
#ifndef ML_KERNELS_AVX512_BYTES_H
#define ML_KERNELS_AVX512_BYTES_H

#include <immintrin.h>
#include <stdint.h>

/* Four bytes in every lane. */
static inline __attribute__((always_inline)) __m512i four_bytes(const void *x) {
    __m512i v;
    __asm__("vpbroadcastd %1, %0" : "=v"(v) : "m"(*(const int8_t(*)[4])x));
    return v;
}
/* sum + w x: bytes without a sign times bytes with one, four to a lane. */
static inline __attribute__((always_inline)) __m512i dot_bytes(__m512i sum, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

#endif
