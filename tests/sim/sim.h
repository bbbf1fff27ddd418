/* The world of a simulation: virtual time, what happens next, chance, processes, memory and the trace. Everything in it follows
 * from one seed. It is the one global of tests/sim, because what it stands in for (clocks, randomness, the loop) has no
 * argument to carry it. */
#pragma once

#include "broker/core/input.h"
#include "common/base.h"
#include "common/list.h"
#include "common/loop.h"

/* What went wrong in the world, and what the system did about it; a run that never met one of them says nothing about it. */
enum trouble {
#define TROUBLE(code, sentence) TROUBLE_##code,
#include "tests/sim/troubles.def"
#undef TROUBLE
    TROUBLES
};

/* One process: it has one loop, made while it was `sim.running`. */
struct proc {
    char name[24];
    unsigned pid;
    unsigned host;
    struct loop *loop;
    bool alive, frozen, missed;       /* missed: a wake-up while it was frozen */
    msec cut_until;                   /* it cannot connect before */
    msec wake_at;                     /* of the wake-up that counts; others are void */
    uint32_t life;                    /* which of those that had this place */
    void (*ended)(struct proc *proc); /* its loop has stopped */
    void (*ran)(struct proc *proc);   /* after each wake-up */
    void *of;
};

struct world {
    uint64_t seed, random;
    msec now;       /* CLOCK_BOOTTIME */
    msec wall;      /* what the wall clock is ahead of it … */
    msec true_wall; /* … and would be, had it not been set */
    bool calm;      /* no more trouble from now on */
    bool rough;     /* the network also loses, doubles and reorders what TCP would not */
    bool gentle;    /* a world without any trouble */
    bool cuts;      /* one whose only trouble is that connections are cut for half a second at most */
    bool synced;    /* a replica counts: what is acknowledged survives the loss of Redis and of any broker */
    bool unsure;    /* Redis's clock was set: who leads cannot be known from it for a while */
    bool split;     /* nobody knows who leads (truth.c) */
    bool tracing;
    uint64_t steps; /* wake-ups */
    unsigned pids;
    struct proc *running;
    struct fence delivering; /* of the JOB that is being handed to its worker */
    uint64_t troubles[TROUBLES];
};
extern struct world sim;

/* ---- chance ---- */

uint64_t draw(uint64_t below);
bool chance(unsigned per_thousand);
/* The same, and counted; never while the world is calm. */
bool strikes(enum trouble trouble, unsigned per_thousand);
static inline void note(enum trouble trouble)
{
    sim.troubles[trouble]++;
}

/* ---- what happens next ---- */

typedef void event_run(void *a, uint64_t b);
void later(msec in_ms, event_run *run, void *a, uint64_t b);
/* Runs what is due until `until`; false: nothing is left to happen. */
void run_until(msec until);

/* ---- memory that lasts as long as the seed ---- */

void *keep(size_t bytes); /* zeroed */
struct span keep_span(struct span bytes);

/* ---- processes ---- */

void proc_start(struct proc *proc, const char *name, unsigned host);
/* From now on nothing it says leaves. */
void proc_kill(struct proc *proc);
void proc_freeze(struct proc *proc, msec for_ms);
void proc_thaw(struct proc *proc);
/* At the latest then. */
void proc_wake(struct proc *proc, msec at);
void proc_signal(struct proc *proc, int signo);
/* Something to run at the start of every wake-up: arrived replies. */
void loop_handler(struct loop *loop, void (*run)(void *arg), void *arg);
void loop_wake(struct loop *loop);
struct proc *loop_proc(struct loop *loop);

/* ---- the start and end of a seed ---- */

void world_begin(uint64_t seed);
void world_end(void);

/* ---- what is said ---- */

#define TRACE(...)                                                                                                             \
    do {                                                                                                                       \
        if (sim.tracing)                                                                                                       \
            trace(__VA_ARGS__);                                                                                                \
    } while (0)
void trace(const char *format, ...) PRINTF(1, 2);
/* What must hold does not. */
_Noreturn void broken(const char *format, ...) PRINTF(1, 2);
#define MUST(condition, ...)                                                                                                   \
    do {                                                                                                                       \
        if (!(condition))                                                                                                      \
            broken(__VA_ARGS__);                                                                                               \
    } while (0)
