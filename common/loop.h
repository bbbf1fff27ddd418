/* The libevent base and the turn. A role runs
 *
 *     wait for events once  ->  handlers gather  ->  turn(): step, commit, flush  ->  again
 *
 * so that everything that arrived together is decided, stored and answered together. Handlers only gather; what may send is
 * done in the turn. Signals and child exits arrive here as callbacks in the loop, never as handlers with async limits. */
#pragma once

#include <event2/event.h>

#include "common/base.h"
#include "common/list.h"

struct loop;

/* turn: called after every wake-up and once before the first wait. */
typedef void loop_turn(void *arg);
typedef void loop_on_signal(void *arg, int signo);
typedef void loop_on_timer(void *arg);

/* NULL when there is no memory or the kernel refuses. Create after fork. Ignores SIGPIPE for the process. */
MUST_USE struct loop *loop_new(loop_turn *turn, void *arg);
/* After every timer made in it was freed. */
void loop_free(struct loop **loop);

/* Runs until loop_stop: the turn in which, or after whose handlers, it is called is the last. May be called again. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* clock_mono(), read once per wake-up, when it is first asked for. */
msec loop_now(const struct loop *loop);

/* The base, for libraries that need it. Lent. */
struct event_base *loop_base(struct loop *loop);

/* The next wait returns at once: something is left to do (a socket drained only in part). Costs no descriptor and no write. */
void loop_again(struct loop *loop);

/* Something to be done once, after this turn: what flushes what was gathered in it, whoever gathered. Embedded in its owner and
 * set up with loop_end_init; free between uses. */
struct loop_end {
    struct list node;
    void (*run)(void *arg);
    void *arg;
};
void loop_end_init(struct loop_end *end, void (*run)(void *arg), void *arg);
/* Asking twice is asking once. Asked for while the ends run, it is done in the same round. */
void loop_at_end(struct loop *loop, struct loop_end *end);
/* Also before the owner goes away. Harmless when not asked for. */
void loop_end_cancel(struct loop_end *end);

/* Signals this loop handles; call once per signal. One loop per process may do so (libevent's rule). ERR_SYSTEM, ERR_NOMEM. */
MUST_USE enum err loop_signal(struct loop *loop, int signo, loop_on_signal *on_signal, void *arg);

/* A deadline: fires once at or after loop time `at` (clock_mono axis), never before, and is then unset; usually within 1 ms, at
 * most 5 (LIMITS: a timerfd would be exact and cost 2.2 times a whole transfer). Within its callback it may be set or freed.
 * The wait itself does not count suspend: after a resume it may fire late, by what was left of it when the machine went to
 * sleep. */
struct timer;
MUST_USE struct timer *timer_new(struct loop *loop, loop_on_timer *on_timer, void *arg);
void timer_free(struct timer **timer);
/* MSEC_NEVER unsets. An instant that has passed fires in the next wake-up, never within this call. Cheap. */
void timer_set(struct timer *timer, msec at);
/* What it is set to, MSEC_NEVER when unset. */
msec timer_at(const struct timer *timer);
