/* What each kind of failure may do, and when the next attempt may start. Pure. */
#pragma once

#include "common/base.h"
#include "proto/words.h"

struct retry_rule {
    bool again;     /* another attempt can help */
    bool counted;   /* the failure uses one of max_attempts */
    bool at_once;   /* without backoff: the upstream did nothing wrong */
    bool elsewhere; /* not at this deployment: tried again only if the route has another */
};

/* For every kind an outcome can carry; others are final. */
struct retry_rule retry_rule(unsigned kind);

/* Full jitter: uniform in 0 … min(cap, base · 2ⁿ) with n failures before this one; `exact` takes the upper bound. Never below
 * asked_ms, the provider's Retry-After. random: 64 random bits. */
msec retry_wait(msec base_ms, msec cap_ms, unsigned failures, bool exact, msec asked_ms, uint64_t random);
