/* One api child: everything it has is made here, after the fork, and lives on one loop.
 *
 *   turn:  broker's frames → requests → questions out → Redis commands out → answers out */
#pragma once

#include "common/conf.h"

struct child_options {
    const struct conf *conf; /* lent */
    int listener;            /* inherited, taken over */
    unsigned index;
    enum err (*reload)(void *arg); /* see ask.h */
    void *arg;
};

/* Serves until SIGTERM, then until all is answered or api.stop_ms has passed. Returns the exit status. */
int child_run(const struct child_options *options);
