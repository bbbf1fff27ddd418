/* Who lives in the world: brokers, worker children and api children, each the real role on the simulated system; the provider
 * they call; and callers who want things. */
#pragma once

#include "common/conf.h"
#include "tests/sim/truth.h"

#define BROKERS 2
#define WORKERS 4 /* the last one is the one-slot child */
#define APIS    3

/* What this seed's system is set up like. */
struct setup {
    struct conf conf;
    unsigned brokers; /* 2: one stands by … */
    bool apart;       /* … on another host, with sockets of its own; else it takes over the first one's places */
    unsigned apis, workers;
    unsigned jobs;     /* that callers will ask for */
    msec trouble_ms;   /* how long */
    unsigned failures; /* of 1000 calls */
    unsigned poison;   /* of 1000 jobs */
};
extern struct setup setup;
void setup_begin(void);

/* ---- brokers.c ---- */
void brokers_begin(void);
void brokers_end(void);
struct proc *broker_at(unsigned index);
struct proc *broker_leading(void); /* NULL: none */
struct proc *broker_waiting(void);
/* The time by which jobs are due: of the one that leads. */
msec broker_time(void);
/* What it wrote is being sent to a Redis that came back older: that has the ends of jobs that live, and the other way round. */
bool broker_is_healing(void);
/* One that led has been stopped, and may not know that it leads no more. */
bool brokers_were_stopped(void);
void broker_dies(struct proc *proc);
void broker_leaves(struct proc *proc);
void broker_stops(struct proc *proc, msec for_ms);
void broker_reads_settings(void);
void broker_pauses(bool on);
/* Nothing is left in the core of the one that leads. */
bool brokers_are_settled(void);
void brokers_settled(void);

/* ---- workers.c ---- */
void workers_begin(void);
void workers_end(void);
struct proc *worker_at(unsigned index);
void worker_dies(struct proc *proc);

/* ---- callers.c ---- */
void callers_begin(void);
void callers_end(void);
struct proc *api_at(unsigned index);
void api_dies(struct proc *proc);

/* Nobody is stopped any more. */
void procs_go_on(void);

/* ---- faults.c ---- */
void faults_begin(void);
