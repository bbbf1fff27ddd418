/* A child's pulse: a timer of its loop that tells the parent that the loop still turns (prefork.h). What blocks or spins in a
 * handler stops it, and so the parent notices; sockets that are merely quiet do not. */
#pragma once

#include "common/loop.h"

struct pulse;

/* *ret_pulse is NULL, and nothing ticks, where the parent does not watch its children. ERR_NOMEM. */
MUST_USE enum err pulse_new(struct loop *loop, struct pulse **ret_pulse);
void pulse_free(struct pulse **pulse);
