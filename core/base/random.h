/* Random numbers: splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). */
#ifndef ML_BASE_RANDOM_H
#define ML_BASE_RANDOM_H

#include <stdint.h>

/* The next 64 bits of a stream that began at any state. */
static inline uint64_t ml_random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Number `i`, from 0, of the stream that began at `seed`. */
static inline uint64_t ml_random_at(uint64_t seed, uint64_t i) {
    uint64_t state = seed + i * 0x9e3779b97f4a7c15u;
    return ml_random_next(&state);
}

#endif
