/* A place in a job's events, printed `run-offset` (DESIGN.md, Streams): run counts its leases, offset the bytes of that run's
 * event log. It names no process, so any api child can go on from it. Pure. */
#pragma once

#include "common/base.h"

struct position {
    uint32_t run;
    uint64_t offset;
};

#define POSITION_TEXT_LEN 31

/* Digits, a dash, digits; nothing else. false: it is none. */
bool position_parse(struct span text, struct position *ret_position);
void position_print(const struct position *position, char out[POSITION_TEXT_LEN + 1]);

static inline bool position_equal(const struct position *a, const struct position *b)
{
    return a->run == b->run && a->offset == b->offset;
}
