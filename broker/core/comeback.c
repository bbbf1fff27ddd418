#include "broker/core/comeback.h"

#define COUNT_MS 1000 /* the rate is taken over at least this long */

void comeback_freed(struct comeback *c, msec now)
{
    if (!c->counted_at) {
        c->counted_at = now; /* counting begins with the first, not when nothing was waited for */
        return;
    }
    c->count++;
    msec since = now - c->counted_at;
    if (since < COUNT_MS)
        return;
    double rate = 1000.0 * c->count / (double)since;
    c->per_second = c->per_second > 0 ? 0.7 * c->per_second + 0.3 * rate : rate;
    c->counted_at = now;
    c->count = 0;
}

uint32_t comeback_promise(struct comeback *c, msec now)
{
    if (c->per_second <= 0)
        return COMEBACK_UNKNOWN_MS;
    double first = (double)(now + COMEBACK_MIN_MS), last = (double)(now + COMEBACK_MAX_MS);
    double next = MAX(c->promised_at, first) + 1000.0 / (c->per_second * COMEBACK_SHARE);
    c->promised_at = MIN(next, last);
    return (uint32_t)(c->promised_at - (double)now);
}
