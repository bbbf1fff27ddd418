/* What must hold, told by those who would see it broken: the model of truth. It hears everything that a broker says before it
 * leaves, everything that Redis takes in, and every call that is made, and it trusts nothing the broker believes. */
#pragma once

#include "proto/record.h"
#include "tests/sim/sim.h"

#define FACTS_MAX 1024
#define KEYS      6
#define ENDS_MAX  8

/* One job that somebody asked for. */
struct fact {
    unsigned number;
    struct id id;
    const char *tenant, *queue, *route;
    unsigned tenant_number;
    unsigned key; /* idempotency key; 0: none */
    bool poison;
    uint8_t max_attempts;

    /* what its caller did, as far as a broker heard of it */
    bool submitted, withdrawn, forgotten, redriven;
    /* what its caller was told: that it is accepted; its end, 0 for none */
    bool accepted;
    uint8_t shown;
    msec shown_at;
    bool told; /* its caller has heard of it, and so knows its id */

    /* what Redis was told, ever */
    bool stored, ended, removed; /* removed: its j: is gone again */
    uint8_t end_state;
    uint64_t end_print;
    uint64_t prints[ENDS_MAX]; /* of all its ends: one more with each redrive */
    unsigned prints_count, redrives;
    uint16_t failed, crashes, solo_crashes; /* as last stored */
    uint32_t old_runs;                      /* before it was redriven: their failures do not count any more */
    uint32_t forgiven_runs;                 /* before the settings were read again: deployments that refused them may be used */
    uint8_t refused_by;                     /* deployments, as bits */
    struct fence fence, left;               /* the last lease, and up to which they are over */
    uint32_t run, lease_run;                /* runs so far; which of them has `fence` */
    bool undone;                            /* Redis lost something of it, and has not got it back */
    bool excused;                           /* and who could have given it back has died too: no promise holds for it */

    unsigned calls;        /* to the provider */
    unsigned failed_calls; /* that failed in a way that counts */
};

void truth_begin(void);
struct fact *fact_new(void);
struct fact *fact_of(const struct id *id); /* NULL: none of ours */
struct fact *fact_at(unsigned number);     /* from 1 */
unsigned facts_count(void);
struct span fact_request(const struct fact *fact);
struct span fact_display(const struct fact *fact);

/* ---- what is seen ---- */

/* A frame leaves a broker. to: NULL for the feed. */
void truth_said(struct proc *from, const char *endpoint, struct proc *to, struct span header, struct span body);
bool truth_is_submit(struct span header);
/* A frame is about to be handled. */
void truth_heard(struct proc *by, const char *endpoint, bool by_broker, struct span header, struct span body);
/* Redis has taken a value in (data NULL: out), between the beginning and the end of a commit; or lost what it had. */
void truth_commit_begins(void);
void truth_commit_ends(void);
void truth_stored(const char *key, struct span value);
void truth_unstored(const char *key);
/* A broker serves; one that led is gone: whether of its own (fenced) or with what it knew. */
void truth_leads(void);
void truth_leader_gone(bool with_its_ring);

/* New settings: deployments that refused a credential may be used again. */
void truth_forgives(void);

/* A call begins; returns its fence, to be part of the result. */
struct fence truth_call(struct fact *fact);

/* Everything has healed and had its time. */
void truth_settled(void);
/* Whether something accepted has not ended. */
bool truth_is_settled(void);
