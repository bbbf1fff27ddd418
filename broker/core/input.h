/* The core's two-way door: every input it accepts and every effect it returns. Nothing else passes.
 *
 * The shell gives one input at a time to sched_step with the core's time and carries the effects out in order. Structs of
 * proto/messages.h are used as they are: the core sees what a frame said, never its bytes.
 *
 * Durability. Each SAVE or DROP effect is one write, numbered from 1 without gaps (`number`). The shell gathers writes into
 * commits in that order and reports STORED up to a number. An effect that shows a state carries `after`: it may leave only when
 * that number is stored (0: at once). For one job `after` never decreases, so effects with one `after` kept in order keep every
 * job's order. The core acts on its own state at once: a submit, its lease and even its end may share a commit.
 *
 * Lent pointers. What an input points at is lent for the step; what an effect points at is lent until the next step: the shell
 * encodes at once, also what it must hold back. Bodies are blobs: an effect's blob is lent too, and the shell takes a
 * reference. */
#pragma once

#include "common/blob.h"
#include "proto/messages.h"

/* One session of one peer, numbered by the shell, never used twice within a process; 0 is nobody. */
typedef uint32_t peer_number;

/* What the core asks the store for. */
enum lookup_kind {
    LOOKUP_IDEM = 1, /* idem:<hash>      found: fields = rec_idem */
    LOOKUP_BODY,     /* b:<id>           found: body */
    LOOKUP_ENDED,    /* r:<id>           found: fields = rec_ended, body = its parts joined */
    LOOKUP_ANY,      /* r:<id>, else j:<id>: does this id exist at all? found: as for ENDED, or fields = NULL when it is live */
};
struct lookup_key {
    uint8_t kind;
    union {
        struct id id;
        uint8_t hash[32];
    };
};

enum input_type {
    /* -- start, in this order: any number of RECOVER, then one START. Until START nothing else is given. -- */
    INPUT_RECOVER = 1, /* id, recover: a live job found in the store */
    INPUT_START,       /* start: recovery is complete; dispatch may begin */

    /* -- sessions. A peer is known from its HELLO to its GONE. -- */
    INPUT_HELLO,     /* peer, hello. The effect is WELCOME */
    INPUT_GONE,      /* peer: unreachable, said BYE (bye), or silent too long. Its leases lapse after return_ms unless the same
                        instance says HELLO again; with bye at once, and uncharged */
    INPUT_HEARTBEAT, /* peer, heartbeat. The effect is HEARTBEAT_ACK */
    INPUT_DRAIN,     /* peer: it takes no more jobs; peer 0: the whole broker dispatches no more and refuses submits */

    /* -- from api -- */
    INPUT_SUBMIT,   /* peer, submit, body */
    INPUT_WITHDRAW, /* peer, withdraw. Without effect once another submit has been answered with the job */
    INPUT_CANCEL,   /* peer, cancel (peer may be a monitor's) */
    INPUT_FORGET,   /* peer, forget */
    INPUT_ASK,      /* peer, ask */
    INPUT_WATCH,    /* peer, watch */
    INPUT_UNWATCH,  /* peer, unwatch */
    INPUT_PATCH,    /* peer, patch */
    INPUT_RETRY,    /* peer, retry: a failed job is to live again. ANSWER with its view, once that is stored */

    /* -- from workers -- */
    INPUT_OUTCOME,   /* peer, outcome, body */
    INPUT_PROGRESS,  /* peer, progress (one item) */
    INPUT_RUN_EVENT, /* peer, run_event (one item), body: its bytes */
    INPUT_UNSENT, /* peer, unsent: a JOB could not be sent (peer gone or its queue full): it never arrived, nothing is charged
                   */

    /* -- from the store -- */
    INPUT_STORED,  /* stored: every write up to this number is in the store */
    INPUT_STALL,   /* the store is behind: refuse submits, dispatch nothing */
    INPUT_FLOW,    /* it is well again */
    INPUT_FULL,    /* it has no room for new jobs: those there go on and end */
    INPUT_ROOM,    /* it has again */
    INPUT_FOUND,   /* found. A body of another length than the job's counts as absent */
    INPUT_ABSENT,  /* absent: the store is current and has no such key */
    INPUT_UNKNOWN, /* absent: the lookup could not be answered; whoever waits gets store_unavailable */
    INPUT_REWRITE, /* rewrite: the store is an older data set the ring cannot heal: save every live job anew under this epoch */

    /* -- operators -- */
    INPUT_PAUSE,    /* pause: a tenant's or queue's jobs start no more, or again */
    INPUT_SETTINGS, /* settings: new limits, deployments and routes; ERR_LIMIT: too many deployments, nothing has changed */

    /* -- time -- */
    INPUT_TICK,   /* nothing but the time: due deadlines fire (they fire before any other input too) */
    INPUT_MISSED, /* missed: this process stood still so long. Workers have that much longer to be heard of, and to come back;
                     given before anything else at that time */
};

struct sched_settings;

struct input {
    enum input_type type;
    peer_number peer;
    struct blob *body; /* lent; the core takes a reference when it keeps it */
    struct id id;      /* RECOVER */
    union {
        const struct rec_job *recover; /* with `body` NULL: it is read back when due */
        struct {
            uint64_t epoch; /* this broker's; leases from now on carry it */
            uint8_t ack;    /* enum ack: what the store gives */
            uint16_t shard;
        } start;
        const struct msg_hello *hello;
        struct {
            bool bye;
        } gone;
        const struct msg_heartbeat *heartbeat;
        const struct msg_submit *submit;
        const struct msg_withdraw *withdraw;
        const struct msg_cancel *cancel;
        const struct msg_forget *forget;
        const struct msg_ask *ask;
        const struct msg_watch *watch;
        const struct msg_unwatch *unwatch;
        const struct msg_patch *patch;
        const struct msg_retry *retry;
        const struct msg_outcome *outcome;
        const struct rec_progress *progress;
        const struct rec_run_event *run_event;
        const struct rec_lease *unsent;
        struct {
            uint64_t number;
        } stored;
        struct {
            struct lookup_key key;
            const struct rec_idem *idem;
            const struct rec_ended *ended;
        } found;
        struct {
            struct lookup_key key;
        } absent;
        struct {
            uint64_t epoch;
        } rewrite;
        struct {
            struct span tenant; /* one of the two is empty */
            struct span queue;
            bool on;
        } pause;
        const struct sched_settings *settings;
        struct {
            msec ms;
        } missed;
    };
};

enum effect_type {
    /* -- frames; peer and after are set -- */
    EFFECT_WELCOME = 1,   /* welcome, fields the core knows: ack, stalled, workers, verdicts; the shell fills the rest */
    EFFECT_HEARTBEAT_ACK, /* heartbeat_ack */
    EFFECT_ACK,           /* ack */
    EFFECT_ANSWER,        /* answer, body: display JSON */
    EFFECT_EVENT,       /* event, body: TOKEN's lines. For ENDED of a stored job, save = the number of its SAVE_ENDED: the port
                           appends the packed record that the store made of it; for an ephemeral job `ended` and parts follow */
    EFFECT_JOB,         /* job, body: the request (already without the display part) at [body_from, body_from + body_len) */
    EFFECT_CANCEL_RUN,  /* cancel_run. Not given for a worker that is away: it is told when it comes back */
    EFFECT_WATCH_RUN,   /* watch_run */
    EFFECT_OUTCOME_ACK, /* outcome_ack: one lease; the port gathers them per turn */

    /* -- writes; number is set -- */
    EFFECT_SAVE_JOB,   /* job_record: j:<id>, and <id> into live */
    EFFECT_SAVE_BODY,  /* id, body: b:<id> */
    EFFECT_SAVE_ENDED, /* ended, parts: r:<id> for ttl_ms; j:<id> away, <id> out of live, listed in ix: */
    EFFECT_SAVE_IDEM,  /* hash, idem_record: idem:<hash> for ttl_ms */
    EFFECT_DROP_JOB,   /* id: j:<id> and b:<id> away, <id> out of live (withdrawn) */
    EFFECT_DROP_BODY,  /* id: b:<id> away; with ttl_ms > 0 it is kept that long instead */
    EFFECT_DROP_ENDED, /* id, tenant, ended.completed_at: r:<id> away, out of ix:, and b:<id> away unless keeps_body (forgotten,
                          or live again) */
    EFFECT_DROP_IDEM,  /* hash */

    /* -- questions -- */
    EFFECT_LOOKUP, /* lookup; answered by FOUND, ABSENT or UNKNOWN */

    /* -- the feed; after is set -- */
    EFFECT_CHANGE, /* change (the port numbers it) */
};

struct effect {
    enum effect_type type;
    peer_number peer;
    uint64_t after;
    uint64_t number;
    struct blob *body;          /* lent */
    size_t body_from, body_len; /* the part of `body` that is meant; body_len 0: all of it from body_from */
    struct id id;
    uint64_t ttl_ms;
    uint8_t
        joined; /* of a write: so many after it share its commit, or a broker that dies between them leaves half of something */
    bool keeps_body;      /* DROP_ENDED */
    struct span parts[3]; /* SAVE_ENDED, EVENT of an ephemeral end: display, result, log */
    struct span tenant;
    uint8_t hash[32];
    uint64_t save;
    union {
        struct msg_welcome welcome;
        struct msg_heartbeat_ack heartbeat_ack;
        struct msg_ack ack;
        struct msg_answer answer;
        struct rec_event event;
        struct msg_job job;
        struct msg_cancel_run cancel_run;
        struct msg_watch_run watch_run;
        struct rec_lease outcome_ack;
        struct rec_job job_record;
        struct rec_ended ended;
        struct rec_idem idem_record;
        struct lookup_key lookup;
        struct msg_change change;
    };
};

/* Effects of a step, in order. Zero-initialise; effects_done releases. */
struct effects {
    struct effect *list;
    size_t count, size;
};
void effects_clear(struct effects *effects);
void effects_done(struct effects *effects);
