/* The parent of a prefork role. It holds no job and no library context: it forks children, restarts those that die with backoff
 * (at once, then 100 ms doubling to 5 s; a child that lived 10 s starts the count again), drains them on SIGTERM and SIGINT,
 * starts a new generation on SIGHUP, and ends when they have ended. SIGTERM to the parent becomes SIGTERM to each child; after
 * stop_ms, SIGKILL. A second SIGTERM or SIGINT kills at once.
 *
 * A child runs when it has said so (prefork_ready) or has lived for a second. When all children of a generation run, the role
 * is ready: systemd is told, the pid file is written, and the generation before gets its SIGTERM. So a new generation that
 * cannot start leaves the old one serving, and another SIGHUP is the way out. While both live, an index names two processes.
 *
 * Where systemd watches the role (WatchdogSec=), the parent watches its children by the same time: each says from its loop that
 * it still turns (pulse.h), and one that has been silent for WATCHDOG_USEC is killed and started again, so that a child that
 * hangs or spins is not a hole in the service for ever. Time in which the parent itself stood still, as on a machine that
 * slept, is nobody's silence. Elsewhere a child may be stopped for as long as a debugger likes.
 *
 * A killed parent leaves nothing behind: its children then get SIGTERM (PR_SET_PDEATHSIG), not SIGKILL, because a worker may
 * hold finished calls that were paid for, and drain as if the parent had asked. Nobody is left to kill one that does not end;
 * that is for systemd, whose unit owns the whole control group. */
#pragma once

#include "common/base.h"

struct prefork_options {
    const char *role; /* for process names: "api" makes "quern-api:2" */
    unsigned children;
    msec stop_ms;         /* how long a draining child may take */
    const char *pid_file; /* written by rename once children run, removed at the end if it still holds our id; NULL: none */
    /* Runs in the child, with default signal dispositions (but SIGPIPE ignored), nothing blocked, without systemd's
     * variables; its return is the exit status. A child that returns without having been asked to is started again, whatever
     * its status. index: 0 … children − 1, stable over restarts. */
    int (*child)(void *arg, unsigned index);
    /* Runs in the parent before a new generation (SIGHUP) and logs what it refuses; an error keeps the old one. May be NULL. */
    enum err (*reload)(void *arg);
    void *arg;
};

/* Returns the parent's exit status when all children have ended: 0, or 1 when it could not run or a child had to be killed.
 * Notifies systemd (READY, RELOADING, STOPPING, watchdog) where NOTIFY_SOCKET is set. Call from the only thread. */
MUST_USE int prefork_run(const struct prefork_options *options);

/* A child says that it serves. Harmless elsewhere, and said twice. */
void prefork_ready(void);

/* A child says that its loop turns; harmless more often than needed. Where it is not watched prefork_alive_every_ms is 0. */
void prefork_alive(void);
/* How often a child has to say so: a quarter of the time after which it is killed; 0: nobody watches. */
msec prefork_alive_every_ms(void);

/* A child asks its parent for a new generation. Harmless elsewhere, and when the parent is gone. */
void prefork_reload(void);
