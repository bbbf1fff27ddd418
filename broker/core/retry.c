#include "broker/core/retry.h"

/* One row per kind (gateways' error taxonomy, adapted: one layer of retries, and it is here). */
static const struct retry_rule rules[KINDS] = {
    [KIND_CONNECT] = {.again = true, .counted = true},
    [KIND_SENT] = {.again = true, .counted = true},
    [KIND_OVERLOAD] = {.again = true, .counted = true},
    [KIND_THROTTLED] = {.again = true},
    [KIND_QUOTA] = {.elsewhere = true},
    [KIND_AUTH] = {.elsewhere = true},
    [KIND_CLIENT] = {0},
    [KIND_STREAM_CUT] = {.again = true, .counted = true},
    [KIND_STALL] = {.again = true, .counted = true},
    [KIND_BAD_FRAME] = {.again = true, .counted = true},
    [KIND_ANSWER_TOO_LARGE] = {0},
    [KIND_TIMEOUT] = {.again = true, .counted = true},
    [KIND_STOPPING] = {.again = true, .at_once = true},
    [KIND_UNSERVED] = {.again = true, .at_once = true},
    [KIND_WORKER] = {.again = true, .counted = true},
    [KIND_STARVED] = {.again = true},
};

struct retry_rule retry_rule(unsigned kind)
{
    return kind < KINDS ? rules[kind] : (struct retry_rule){0};
}

msec retry_wait(msec base_ms, msec cap_ms, unsigned failures, bool exact, msec asked_ms, uint64_t random)
{
    msec bound = MIN(base_ms, cap_ms);
    for (unsigned i = 0; i < failures && bound < cap_ms; i++)
        bound = bound <= cap_ms / 2 ? bound * 2 : cap_ms;
    msec wait = exact ? bound : (msec)(random % ((uint64_t)bound + 1));
    return MAX(wait, asked_ms);
}
