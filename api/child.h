/* One api child: everything it has is made here, after the fork, and lives on one loop.
 *
 *   turn:  broker's frames → requests → questions out → Redis commands out → answers out */
#pragma once

#include "common/conf.h"

/* Serves until SIGTERM, then until all is answered or api.stop_ms has passed. listener: inherited, taken over. Returns the exit
 * status. */
int child_run(const struct conf *conf, int listener, unsigned index);
