/* systemd's side of a process: readiness, watchdog, inherited sockets (libsystemd). All are harmless without systemd:
 * where NOTIFY_SOCKET, WATCHDOG_USEC or LISTEN_FDS is not set, or names another process, nothing happens. */
#pragma once

#include "common/base.h"

/* A manager that does not read (it reloads, it is stopped) holds these up for half a second at most, and nothing else at all.
 * What it could not be told then, notify_alive says again. */
void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);
/* Whether something is to be said again: then call notify_alive in NOTIFY_AGAIN_MS, watchdog or not. */
bool notify_owes(void);
#define NOTIFY_AGAIN_MS 100
/* Call when real progress was made; sends at most once per half of WATCHDOG_USEC. now: clock_mono(). */
void notify_alive(msec now);
/* How often notify_alive has to be called: half of WATCHDOG_USEC in ms; 0 when systemd watches nothing. */
msec notify_alive_every_ms(void);
/* A line for `systemctl status`; line ends become blanks, cut at 255 bytes. */
void notify_status(const char *format, ...) PRINTF(1, 2);

/* The first inherited listening stream socket (LISTEN_FDS), or −1. Close-on-exec and non-blocking are set.
 * Meant for the process that systemd started: LISTEN_PID keeps a forked child from taking it for its own. */
int notify_listener(void);
