/* The state directory under the supervisor: who has it, what lies in it, and what a killed supervisor left running there. */
#pragma once

#include <sys/types.h>

#include "common/base.h"

/* Every process that the supervisor starts carries RUN_MARK=<state> in its environment, and so do those that it starts. */
#define RUN_MARK "QUERN_RUN_STATE"

/* Makes `dir` (0700) with run/, logs/ and redis/ in it; *ret_state is its absolute path, the caller's to free. A directory that
 * is there must be ours and closed to others. Prints what is wrong. ERR_SYSTEM, ERR_NOMEM. */
MUST_USE enum err run_state_make(const char *dir, char **ret_state);

/* <state>/<name>, the caller's to free; NULL: no memory. */
MUST_USE char *run_state_path(const char *state, const char *name);

/* Takes the directory for this process until it ends (a record lock on run/lock, which names its holder to others).
 * ERR_CONFLICT with *ret_holder: a living process has it. ERR_SYSTEM. */
MUST_USE enum err run_state_lock(const char *state, pid_t *ret_holder);

/* Who has it; 0: nobody. */
pid_t run_state_holder(const char *state);

/* Replaces <state>/<name> by `text` in one step, 0600. ERR_SYSTEM, ERR_NOMEM. */
MUST_USE enum err run_state_write(const char *state, const char *name, const char *text);
void run_state_remove(const char *state, const char *name);

/* Ends every process marked with `state`, this one excepted: SIGTERM, after two seconds (ten for Redis, which has data to
 * write) SIGKILL. Returns how many there were, when they are gone. */
unsigned run_state_sweep(const char *state);

/* SIGTERM to `pid` and wait for its end at most `bound`, then SIGKILL. True: it ended by itself. */
bool run_state_end(pid_t pid, msec bound);
