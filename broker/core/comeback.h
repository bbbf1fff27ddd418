/* When somebody who was refused for want of room should come back. Places become free at a rate; each who is refused is
 * promised one of them that nobody has been promised before, so that a crowd does not come back at once to be refused once
 * more. Half of the places are promised: the others go to whoever comes first. */
#pragma once

#include "common/base.h"

#define COMEBACK_MIN_MS     1000
#define COMEBACK_MAX_MS     600000
#define COMEBACK_UNKNOWN_MS 10000 /* no place has become free yet */
#define COMEBACK_SHARE      0.5

struct comeback {
    double per_second;  /* places that became free, lately; 0: not known yet */
    msec counted_at;    /* since then … */
    uint32_t count;     /* … so many did */
    double promised_at; /* the latest promise */
};

/* A place is free. */
void comeback_freed(struct comeback *comeback, msec now);

/* How long the one who is refused now should wait, in ms. */
uint32_t comeback_promise(struct comeback *comeback, msec now);

/* There is plenty of room: whoever comes is let in, and promises are void. */
static inline void comeback_clear(struct comeback *comeback)
{
    comeback->promised_at = 0;
}
