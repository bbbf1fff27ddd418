/* What must hold inside the core beyond sched_check, for those who drive it through a world: the walk and the simulation. */
#pragma once

#include "broker/core/sched.h"

/* Whether a job waits in a flow that a free slot could take now; `words` then says which. False while nothing may be
 * dispatched, or the core is about to look again. */
bool core_idles(const struct sched *sched, char *words, size_t size);

/* What is left of all jobs although every one has ended and every worker has said so; NULL: nothing. */
const char *core_left(const struct sched *sched);
