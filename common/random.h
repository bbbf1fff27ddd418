/* Numbers that need not be secret: jitter, names of requests. What must be unguessable comes from getrandom. */
#pragma once

#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood 2014). *state: any seed; moves on with each draw. */
static inline uint64_t random_draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
