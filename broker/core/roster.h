/* Workers present, what they can do, their credit, what they hold; and the deployments they serve.
 *
 * Workers that serve the same deployments form a group, so that "who can take this job" is a matter of a few bits: an outlet is
 * served by a set of groups, and a decision looks at groups with a free slot. Inside a group the worker with most room goes
 * first. */
#pragma once

#include "broker/core/job.h"
#include "broker/core/sched.h"

#define ROSTER_DEPLOYMENTS 64 /* as bits of a mask */
#define ROSTER_GROUPS      64
#define ROSTER_SLOTS_MAX   4096 /* of one child, whatever it says: worker.slots goes no further */
#define ROSTER_SUSPECTS    8    /* once-crashed jobs in one child at a time */

struct deployment {
    struct name *name, *model;
    uint64_t hash;
    uint32_t concurrency; /* 0: no limit */
    uint32_t active;
    bool listed; /* in the settings in force; else only old leases know it */
};

struct group {
    uint64_t served; /* deployments, as bits */
    bool solo;
    uint32_t workers;
    struct heap free; /* workers with room, most room first */
};

/* Where a worker is heard. */
struct worker_session {
    UT_hash_handle hh; /* by peer */
    peer_number peer;
    struct worker *worker;
};

struct worker {
    UT_hash_handle hh; /* by instance */
    uint8_t instance[16];
    peer_number peer; /* 0 while it is away */
    struct worker_session *session;
    struct name *name;
    uint32_t slots, used;
    uint32_t suspects;
    bool solo, draining;
    bool doubtful; /* a frame could not be sent: no more until it is heard of */
    bool bye;
    struct due due; /* away: when its leases lapse */
    struct list leases;
    struct group *group;
    struct heap_node node;
    uint32_t served_count;
    struct worker_served {
        struct name *name;
        uint64_t hash;
    } * served;
};

/* One run: made with the JOB, gone with the outcome. It outlives a job that ended first (cancelled, expired): the slot is taken
 * until the worker says otherwise. */
struct lease {
    struct list node; /* in its worker's leases, or among the orphans */
    struct list held; /* on the scheduler's list of that name while its JOB waits for its commit */
    struct id id;
    struct fence fence;
    struct job *job;       /* NULL: the job has ended */
    struct worker *worker; /* NULL: recovered, and nobody has claimed it yet */
    struct deployment *deployment;
    struct name *worker_name, *deployment_name;
    struct ending *ending; /* memory for the job's end, so that an outcome always finds room */
    msec expires_at;       /* MSEC_NEVER while held: no worker can speak of what has not left */
    uint64_t cost;
    uint64_t after; /* what its JOB waits for; of a job that has ended: its last write */
    bool sent;      /* its JOB effect has been given */
    bool suspect;   /* counts in its worker's suspects */
    bool token_watch;
    bool heard; /* in the heartbeat that is looked at */
    uint8_t progress;
};

struct roster {
    struct worker *workers;
    struct worker_session *sessions;
    struct deployment deployments[ROSTER_DEPLOYMENTS];
    uint32_t deployments_count;
    struct group groups[ROSTER_GROUPS];
    uint64_t groups_free; /* groups with a worker that has room, as bits */
    uint64_t groups_solo;
    uint64_t groups_present;
    uint32_t workers_count, slots, used;
    bool unplaced; /* some worker has found no group */
};

void roster_init(struct roster *roster);
void roster_done(struct roster *roster, struct names *names);

/* The settings' deployments: known ones keep their bit. *ret_bits: for each row its bit's index. ERR_LIMIT: more than
 * ROSTER_DEPLOYMENTS, those with calls still running included; ERR_NOMEM. On either, nothing has changed. */
MUST_USE enum err roster_deployments(struct roster *roster, struct names *names, const struct sched_deployment *rows,
                                     uint32_t count, uint8_t *ret_bits);
struct deployment *roster_deployment(struct roster *roster, struct span name);

/* From a HELLO of an instance not known yet. NULL: no memory. Not placed in a group before roster_place. */
MUST_USE struct worker *roster_add(struct roster *roster, struct names *names, const struct msg_hello *hello);
struct worker *roster_find(struct roster *roster, const uint8_t instance[16]);
struct worker *roster_by_peer(struct roster *roster, peer_number peer);
/* It is heard there now, and nowhere else; 0: nowhere, which cannot fail. ERR_NOMEM: as before. */
MUST_USE enum err roster_session(struct roster *roster, struct worker *worker, peer_number peer);
/* What a HELLO says it serves. ERR_NOMEM: as before. */
MUST_USE enum err roster_serves(struct names *names, struct worker *worker, const struct msg_hello *hello);
/* It must hold no lease. */
void roster_remove(struct roster *roster, struct names *names, struct worker *worker);

/* Puts the worker into its group, after its served list or the deployments changed; outlets must be looked at again. ERR_NOMEM;
 * ERR_LIMIT: no group is left. On either it gets no work until roster_place_all finds a place for it. */
MUST_USE enum err roster_place(struct roster *roster, struct worker *worker);
MUST_USE enum err roster_place_all(struct roster *roster);
/* The worker does not serve it after all. */
void roster_unserve(struct worker *worker, const struct deployment *deployment);

/* A change of slots, presence, doubt or drain. */
void roster_changed(struct roster *roster, struct worker *worker);
void roster_slots(struct roster *roster, struct worker *worker, uint32_t slots);

/* The worker for a job: most room among the groups given, NULL when none has. care: enum care. */
struct worker *roster_choose(struct roster *roster, uint64_t groups, uint64_t served_bit, uint64_t care);

/* Takes and frees a slot of the worker; a lease of nobody frees none. */
void roster_take(struct roster *roster, struct worker *worker, struct lease *lease);
void roster_give_back(struct roster *roster, struct lease *lease);

/* Groups that serve at least one of these deployments, solo ones or the others. */
uint64_t roster_groups(const struct roster *roster, uint64_t deployments, bool solo);
