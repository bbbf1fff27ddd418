/* systemd's side of a process: readiness, watchdog, inherited sockets (libsystemd). All are harmless without systemd. */
#pragma once

#include "common/base.h"

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);
/* Call when real progress was made; sends at most once per half of WATCHDOG_USEC. */
void notify_alive(msec now);
/* A line for `systemctl status`. */
void notify_status(const char *format, ...) PRINTF(1, 2);

/* The first inherited listening stream socket (LISTEN_FDS), or −1. Close-on-exec and non-blocking are set. */
int notify_listener(void);
