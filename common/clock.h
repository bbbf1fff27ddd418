/* The only caller of the system's clocks. */
#pragma once

#include "common/base.h"

/* CLOCK_BOOTTIME in ms: never jumps back, counts suspend. For every timeout and deadline inside one process. */
msec clock_mono(void);

/* CLOCK_REALTIME in ms since 1970. For people, records and the start of core time. */
msec clock_wall(void);

/* The broker's axis: the wall clock when it started (or the last instant stored, if later), then CLOCK_BOOTTIME elapsed.
 * Never goes back, across restarts on one store either. */
struct clock_axis {
    msec base;    /* core time at `mono_at` */
    msec mono_at; /* clock_mono() then */
};

/* floor: the last instant stored on this axis, 0 if none. */
struct clock_axis clock_axis_start(msec floor);
msec clock_axis_now(const struct clock_axis *axis);

#define CLOCK_TEXT_LEN 24 /* 2026-01-02T03:04:05.678Z */
/* RFC 3339 in UTC with milliseconds. Beyond the years 0000 and 9999 the nearest instant that can be written. */
void clock_print(msec wall_ms, char out[CLOCK_TEXT_LEN + 1]);

/* RFC 3339 (section 5.6) to ms since 1970: with offset, fraction optional and cut to ms, 't' and 'z' in either case, a leap
 * second read as the next one. ERR_MALFORMED otherwise, impossible dates included. */
MUST_USE enum err clock_parse(struct span text, msec *ret_wall_ms);
