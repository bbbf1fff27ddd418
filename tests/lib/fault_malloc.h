/* Memory that runs out when a test says so: the program that includes this, in one file, has its own malloc, calloc and realloc
 * in front of the library's (or the sanitizer's). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#define FAULT_REAL(name) __interceptor_##name
#else
#define FAULT_REAL(name) __libc_##name
#endif
void *FAULT_REAL(malloc)(size_t);
void *FAULT_REAL(calloc)(size_t, size_t);
void *FAULT_REAL(realloc)(void *, size_t);

/* Of the thread that armed it: what others allocate meanwhile (a name's resolver, left behind) is not what is tested. */
static _Thread_local long fault_after; /* 0: not armed */
static _Thread_local bool fault_lasts, fault_fired;

/* The nth allocation from now fails; lasts: and all after it. */
static inline void fault_arm(long n, bool lasts)
{
    fault_after = n;
    fault_lasts = lasts;
    fault_fired = false;
}

/* Whether it has happened. */
static inline bool fault_disarm(void)
{
    fault_after = 0;
    return fault_fired;
}

static bool fault_now(void)
{
    if (!fault_after || --fault_after)
        return false;
    fault_fired = true;
    fault_after = fault_lasts ? 1 : 0;
    return true;
}

void *malloc(size_t bytes)
{
    return fault_now() ? NULL : FAULT_REAL(malloc)(bytes);
}
void *calloc(size_t count, size_t bytes)
{
    return fault_now() ? NULL : FAULT_REAL(calloc)(count, bytes);
}
void *realloc(void *p, size_t bytes)
{
    return fault_now() ? NULL : FAULT_REAL(realloc)(p, bytes);
}
