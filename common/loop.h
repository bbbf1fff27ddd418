/* The libevent base and the turn. A role runs
 *
 *     wait for events once  ->  handlers gather  ->  turn(): step, commit, flush  ->  again
 *
 * so that everything that arrived together is decided, stored and answered together. Handlers only gather; what may send is done
 * in the turn. Signals and child exits arrive here as callbacks in the loop, never as handlers with async limits. */
#pragma once

#include <event2/event.h>

#include "common/base.h"

struct loop;

/* turn: called after every wake-up with the loop's monotonic time, and once before the first wait. */
typedef void loop_turn(void *arg);
typedef void loop_on_signal(void *arg, int signo);
typedef void loop_on_timer(void *arg);

/* NULL when there is no memory or the kernel refuses. Create after fork. */
MUST_USE struct loop *loop_new(loop_turn *turn, void *arg);
void loop_free(struct loop **loop);

/* Runs until loop_stop; returns then. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* clock_mono(), read once per wake-up. */
msec loop_now(const struct loop *loop);

/* The base, for libraries that need it. Lent. */
struct event_base *loop_base(struct loop *loop);

/* The next wait returns at once: something is left to do (a socket drained only in part). */
void loop_again(struct loop *loop);

/* Signals this loop handles; call once per signal. ERR_SYSTEM. */
MUST_USE enum err loop_signal(struct loop *loop, int signo, loop_on_signal *on_signal, void *arg);

/* A deadline: fires once at or after loop time `at` (clock_mono axis) and is then unset. Cheap to move; not a timerfd. */
struct timer;
MUST_USE struct timer *timer_new(struct loop *loop, loop_on_timer *on_timer, void *arg);
void timer_free(struct timer **timer);
/* MSEC_NEVER unsets. */
void timer_set(struct timer *timer, msec at);
