/* The two clocks: monotonic for how long, wall for when. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline int64_t clock_us(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline int64_t now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}
static inline int64_t wall_us(void)
{
    return clock_us(CLOCK_REALTIME);
}
