/* Who is next: fair share over service classes, over tenants within a class, then the flow whose head goes first.
 *
 *   pool    outlets that the same worker groups can serve, by best seat        (a few)
 *   outlet  everything that waits for one (route, need); closed while nothing can serve it, and then it costs nothing
 *   seat    one tenant in one class at one outlet: its flows by their heads
 *   flow    its jobs in order (flow.h)
 *
 * A tenant's tag is shared by all its seats in a class; when it moves, each of them finds its new place. A decision is a look
 * at every pool that has a free slot, and O(log n) moves for the one chosen. */
#pragma once

#include "broker/core/flow.h"
#include "broker/core/tenant.h"

/* What a job needs of a place to run, beside its route. */
struct need {
    uint64_t capabilities;
    uint64_t excluded; /* deployments, as bits */
    uint64_t care;     /* enum care */
};
enum care {
    CARE_NONE,
    CARE_SUSPECT, /* was in a child that crashed: at most eight of these in any child */
    CARE_SOLO,    /* crashed twice: only in a one-slot child */
};

struct outlet_key {
    uint32_t route; /* index of the route's row; UINT32_MAX: no row takes it */
    uint32_t pad;   /* hashed with the rest: always 0 */
    struct need need;
};

struct outlet {
    UT_hash_handle hh;
    struct outlet_key key;
    struct pool *pool; /* NULL: closed */
    struct heap seats[3];
    struct heap_node node[3]; /* in the pool's heap of each class where somebody waits */
    uint32_t seats_made[3];   /* seats that exist, waiting or not */
    bool full;                /* CARE_SUSPECT: every child has eight */
    bool served;              /* some present worker could serve it if it had room: ready, else unserved */
};

struct seat {
    struct list of_account;
    struct account *account;
    struct outlet *outlet;
    uint8_t class;
    struct heap flows;
    struct heap_node node; /* in its outlet's heap while a flow can run */
    uint32_t flows_count;  /* flows that exist, paused and empty ones too */
};

struct pool {
    uint64_t groups; /* worker groups, as bits; never 0 */
    struct heap outlets[3];
};

#define READY_POOLS 64

struct ready {
    struct outlet *outlets; /* uthash by key */
    struct flow *flows;     /* uthash by key */
    struct pool pools[READY_POOLS];
    uint32_t pools_count;
    struct share classes;
    struct share_account class_tags[3];
    struct share tenants[3];
    msec head_start_ms;
    uint64_t steps;       /* looks taken by ready_next, for stats */
    uint64_t ready_count; /* jobs in flows that could run if a slot were free */
};

void ready_init(struct ready *ready, msec head_start_ms, const uint32_t class_weight[3]);
void ready_done(struct ready *ready);

/* The outlet, made closed if need be. NULL: no memory. Freed again when its last flow goes. */
MUST_USE struct outlet *ready_outlet(struct ready *ready, const struct outlet_key *key, bool *ret_made);

/* Frees an outlet at which nobody sits: after a ready_reserve that failed. */
void ready_outlet_tidy(struct ready *ready, struct outlet *outlet);

/* Room for the job at this outlet, so that ready_add cannot fail. *ret_flow may be new and empty: give it to ready_add, or to
 * ready_tidy. ERR_NOMEM. */
MUST_USE enum err ready_reserve(struct ready *ready, const struct job *job, struct outlet *outlet, struct flow **ret_flow);
void ready_add(struct ready *ready, struct flow *flow, struct job *job);
/* The flow is freed when it is empty, and its outlet with its last flow. */
void ready_remove(struct ready *ready, struct job *job);
void ready_tidy(struct ready *ready, struct flow *flow);

/* Which groups can serve the outlet now; 0 closes it. ERR_NOMEM: it stays closed. */
MUST_USE enum err ready_open(struct ready *ready, struct outlet *outlet, uint64_t groups);

/* Pausing changed for this flow's tenant or queue. */
void ready_pause_changed(struct ready *ready, struct flow *flow);

/* The next job among outlets that one of the groups with a free slot can serve, or NULL. It stays in its flow. */
struct job *ready_next(struct ready *ready, uint64_t groups_free);

/* The job's class and tenant are served now, at this cost; call before it is removed from its flow. */
void ready_charge(struct ready *ready, const struct job *job, uint64_t cost);
/* It turned out to cost `actual`. */
void ready_correct(struct ready *ready, const struct job *job, uint64_t charged, uint64_t actual);
