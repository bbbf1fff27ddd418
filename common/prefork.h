/* The parent of a prefork role. It holds no job and no library context: it forks children, restarts those that die with backoff
 * (at once, then 100 ms doubling to 5 s; a child that lived 10 s starts the count again), drains them on SIGTERM, starts a new
 * generation on SIGHUP, and ends when they have ended. A child dies with its parent (PR_SET_PDEATHSIG), so that a killed parent
 * leaves nothing behind. SIGTERM to the parent becomes SIGTERM to each child; after stop_ms, SIGKILL. A second SIGTERM or SIGINT
 * kills at once. */
#pragma once

#include "common/base.h"

struct prefork_options {
    const char *role;    /* for logs and process names ("quern-api: child 2") */
    unsigned children;
    msec stop_ms;        /* how long a draining child may take */
    const char *pid_file; /* written atomically once children run, removed at the end; NULL: none */
    /* Runs in the child, with default signal dispositions, nothing blocked; its return is the exit status.
     * index: 0 … children − 1, stable over restarts. */
    int (*child)(void *arg, unsigned index);
    /* Runs in the parent before a new generation (SIGHUP); an error keeps the old one. May be NULL. */
    enum err (*reload)(void *arg);
    void *arg;
};

/* Returns the parent's exit status when all children have ended. Notifies systemd (READY, RELOADING, STOPPING, watchdog) where
 * NOTIFY_SOCKET is set. */
int prefork_run(const struct prefork_options *options);
