/* The scheduler's state, and what its files say to each other. Private to broker/core. */
#pragma once

#include "broker/core/deadline.h"
#include "broker/core/effects.h"
#include "broker/core/lookup.h"
#include "broker/core/ready.h"
#include "broker/core/retry.h"
#include "broker/core/roster.h"
#include "broker/core/sched.h"

#define JOB_COST      1   /* of every job alike, in units of the fair share */
#define SOON_MS       100 /* when something had no memory, it is tried again after this */
#define REWRITE_SLICE 512 /* buckets of jobs saved anew in one step */

/* How a job ended, until that is stored. A leased job's is made with its lease, so that an outcome always finds room. */
struct ending {
    uint8_t state, kind;
    uint16_t http_status;
    struct rec_usage usage;
    struct blob *answer; /* the outcome's body: result, then log */
    uint32_t result_bytes, log_bytes;
    char *message;
    size_t message_len;
    struct name *deployment;
    msec at;
    bool written;                 /* SAVE_ENDED has been given */
    bool acks;                    /* the worker waits for OUTCOME_ACK */
    uint64_t save;                /* number of SAVE_ENDED */
    struct canceller *cancellers; /* told when it is written */
};

/* Who asked for the end before it could be written. */
struct canceller {
    struct canceller *next;
    peer_number peer;
    uint64_t ref;
    bool late; /* the job was ending already */
};
#define CANCELLERS_MAX 16 /* of one job */

/* A job watched by an api child. */
struct watch {
    struct watch *next; /* of the same job */
    struct list of_api;
    struct job *job;
    struct api *api;
    bool all; /* status and progress too, not only the end */
    bool tokens;
};

/* A session of an api child. */
struct api {
    UT_hash_handle hh; /* by peer */
    peer_number peer;
    struct list watches;
};

/* An idempotency key whose write is not stored yet: after that the store is asked. */
struct pin {
    UT_hash_handle hh; /* by hash */
    struct list node;  /* by number */
    uint8_t hash[32], body_hash[32];
    struct id id;
    uint64_t number;
};

/* A body that may leave memory once its write is stored. */
struct leaving {
    struct id id;
    uint64_t number;
};

struct route {
    struct name *name;    /* "*": any other */
    uint8_t *deployments; /* bits' indexes, in order */
    uint32_t count;
    uint64_t bits;
};

struct sched {
    struct sched_settings settings; /* pointers cleared: deployments and routes live below */
    uint64_t random[2];
    msec now;
    struct effects *out;

    bool started, stalled, full, draining;
    uint64_t epoch, fence_n;
    uint8_t ack;
    uint16_t shard;
    uint64_t written, stored; /* numbers */
    uint64_t seq;

    struct job_table jobs;
    struct names names;
    struct tenant *tenants;
    struct queues queues;
    struct ready ready;
    struct roster roster;
    struct route *routes;
    uint32_t routes_count;
    struct heap deadlines;
    struct lookups lookups;
    struct pin *pins;
    struct list pins_by_number;
    struct list ending;  /* jobs, by the number of their last write */
    struct list orphans; /* leases recovered and not claimed */
    struct list held;    /* leases whose JOB waits for its commit, by its number */
    struct list unasked; /* jobs whose question about their body got no answer */
    struct api *apis;

    struct leaving *leaving; /* ring of bodies to drop */
    size_t leaving_from, leaving_count, leaving_size;
    uint64_t body_cache;

    struct job *dead; /* what this step's effects may still lend: freed by the next */
    struct history *dead_histories;

    bool rewriting;
    size_t rewrite_at; /* bucket */
    msec again_at;     /* something had no memory: look again */
    bool reopen;       /* outlets must be looked at again */

    uint64_t counts[8];                /* live jobs by state; drafts are 0 */
    struct room jobs_held, bytes_held; /* of live jobs, drafts apart */
    uint64_t draft_bytes;              /* of drafts, bodies included */
    uint64_t watches;
    struct comeback comeback;
    msec stalled_at, full_at;

    struct sched_stats stats; /* counters only; gauges are filled in when asked */

    /* lists that effects lend until the next step */
    struct rec_verdict *verdicts;
    struct rec_lease *drops;
};

/* sched.c */
uint64_t sched_random(struct sched *s);
/* Room for the effects of one move of one job, whoever waits for it included. */
bool sched_room(struct sched *s, const struct job *job);
void sched_again(struct sched *s);
/* Room for what is due of every live job and worker. ERR_NOMEM. */
MUST_USE enum err sched_reserve_due(struct sched *s);
struct job *sched_find(struct sched *s, const struct id *id, struct span tenant); /* NULL for drafts and foreign ones */

/* save.c: writes, and effects that show a state */
void save_job(struct sched *s, struct job *job);
void save_body(struct sched *s, struct job *job);
void save_ended(struct sched *s, struct job *job);
/* A job that had ended lives again: its body, its record away, its state. */
void save_redriven(struct sched *s, struct job *job, msec ended_at);
void save_anew(struct sched *s, struct job *job); /* after a rewrite was asked for */
void save_idem(struct sched *s, struct job *job, const uint8_t hash[32], const uint8_t body_hash[32]);
uint64_t drop_job(struct sched *s, const struct id *id);
uint64_t drop_body(struct sched *s, const struct id *id, uint64_t ttl_ms);
uint64_t drop_ended(struct sched *s, const struct id *id, const struct rec_ended *ended_record);
uint64_t drop_idem(struct sched *s, const uint8_t hash[32]);
void ask_body(struct sched *s, struct job *job);
void ask_store(struct sched *s, const struct lookup_key *key);
struct effect *answer(struct sched *s, peer_number peer, uint64_t ref, const struct id *id, enum err error, uint64_t after);
void answer_job(struct sched *s, peer_number peer, uint64_t ref, struct job *job);
void view_job(struct sched *s, struct job *job, struct rec_view *ret_view);
void show(struct sched *s, struct job *job, enum job_event event);
/* What a refused caller is told; tenant: whose bound was reached, with QUEUE_FULL and BYTES_FULL. */
uint32_t retry_after(struct sched *s, struct tenant *tenant, enum err error);

/* move.c: states, flows, bodies */
void job_move(struct sched *s, struct job *job, enum state to);
/* Not before this instant, by its run_at and delay; and not after that one. arrived_at is set. */
void job_times(const struct sched *s, struct job *job);
/* Into its flow if it can run now, else its deadline. The job is PENDING or RETRYING. */
void job_wait(struct sched *s, struct job *job);
void job_unwait(struct sched *s, struct job *job);
unsigned job_reason(const struct job *job);
/* When something is due for it next. */
msec job_due(const struct job *job);
/* Into the bounds of its shard, tenant and queue. */
void job_count_in(struct sched *s, struct job *job);
void job_forget(struct sched *s, struct job *job);   /* out of everything, freed by the next step */
void job_discard(struct sched *s, struct job **job); /* one that is in nothing: freed at once */
void jobs_sweep(struct sched *s);
void body_keep(struct sched *s, struct job *job, struct blob *body);
void body_release(struct sched *s, struct job *job);
void outlet_refresh(struct sched *s, struct outlet *outlet);
void outlets_refresh(struct sched *s);
uint32_t route_of(const struct sched *s, struct span name);

/* dispatch.c */
void dispatch(struct sched *s);
void lease_send(struct sched *s, struct lease *lease);
/* What this process missed while it stood still, no worker may be blamed for. */
void workers_excuse(struct sched *s, msec ms);
/* Its worker has it, or is about to: from now on there are lease_ms to be heard of. */
void lease_begin(struct sched *s, struct lease *lease);
void leases_stored(struct sched *s);
void lease_free(struct sched *s, struct lease *lease);
/* Its job has ended or is gone: the slot stays taken until the worker says otherwise, or says nothing of it for lease_ms. */
void lease_orphan(struct sched *s, struct lease *lease, uint64_t after);
/* Back to its place, uncharged: the call was never made. */
void lease_undo(struct sched *s, struct job *job);
/* The lease is over and nobody says how. charged: as a crash. */
void lease_lapse(struct sched *s, struct job *job, bool charged);
struct lease *lease_find(struct sched *s, const struct worker *worker, const struct id *id, struct fence fence);

/* submit.c */
void request_free(struct sched *s, struct request **request); /* with its draft; it waits for no answer */
MUST_USE enum err on_submit(struct sched *s, const struct input *in);
/* May it be live? ERR_STORE, ERR_DRAINING, ERR_QUEUE_FULL, ERR_BYTES_FULL, ERR_OVERLOADED, ERR_NOMEM. */
MUST_USE enum err job_admit(struct sched *s, const struct job *job);
/* An admitted draft becomes a live job, PENDING. Save it, then job_cache. */
void job_enter(struct sched *s, struct job *job);
/* Its body stays in memory only while there is room: the newest leave, because they are due last. */
void job_cache(struct sched *s, struct job *job);
/* A draft: in the table, so that its id is taken, and no live job. ERR_NOMEM. */
MUST_USE enum err draft_new(struct sched *s, const struct id *id, const struct rec_spec *spec, struct span idem,
                            struct blob *body, struct job **ret_draft);
void on_withdraw(struct sched *s, const struct input *in);
MUST_USE enum err submit_answered(struct sched *s, const struct lookup_key *key, bool known, const struct rec_idem *idem,
                                  const struct rec_ended *ended, bool found);
/* The requests that a question was about, which ends; NULL: nobody asked. There is room for what each of them may cause.
 * ERR_NOMEM. */
MUST_USE enum err lookup_take(struct sched *s, const struct lookup_key *key, struct list *ret_requests, bool *ret_touched);

/* outcome.c */
MUST_USE enum err on_outcome(struct sched *s, const struct input *in);
void on_unsent(struct sched *s, const struct input *in);

/* end.c */
MUST_USE enum err job_end(struct sched *s, struct job *job, enum state state, unsigned kind, const char *message);
void end_write(struct sched *s, struct job *job); /* as far as its display part is at hand */
/* Its run goes on until the worker has heard of the end, which leaves with write `after`. The job lets go of its lease. */
void stop_run(struct sched *s, struct job *job, uint64_t after);
void ending_free(struct sched *s, struct ending **ending);
MUST_USE enum err on_cancel(struct sched *s, const struct input *in);
MUST_USE enum err on_forget(struct sched *s, const struct input *in);
/* Whoever wants something of an ended job asks for its record first: type, FORGET or RETRY. ERR_NOMEM. */
MUST_USE enum err ended_ask(struct sched *s, const struct input *in, enum request_type type, uint64_t ref, const struct id *id,
                            struct span tenant);
MUST_USE enum err ended_answered(struct sched *s, const struct input *in, bool known);
MUST_USE enum err on_patch(struct sched *s, const struct input *in);
/* Its end is decided and written: as far as anybody may see, it is over. */
static inline bool job_is_over(const struct job *job)
{
    return job->ending && job->ending->written;
}
void on_stored(struct sched *s, uint64_t number);

/* session.c */
MUST_USE enum err on_hello(struct sched *s, const struct input *in);
MUST_USE enum err on_heartbeat(struct sched *s, const struct input *in);
void on_gone(struct sched *s, const struct input *in);
void on_drain(struct sched *s, const struct input *in);
void worker_due(struct sched *s, struct worker *worker);
void tell_apis(struct sched *s);

/* watch.c */
void on_ask(struct sched *s, const struct input *in);
MUST_USE enum err on_watch(struct sched *s, const struct input *in);
void on_unwatch(struct sched *s, const struct input *in);
void on_progress(struct sched *s, const struct input *in);
void on_run_event(struct sched *s, const struct input *in);
MUST_USE enum err watch_add(struct sched *s, peer_number peer, struct job *job, bool all, bool tokens);
void watches_drop(struct sched *s, struct job *job);
void watch_free(struct sched *s, struct watch *watch);
bool watch_tokens(const struct job *job);

/* recover.c */
MUST_USE enum err on_recover(struct sched *s, const struct input *in);
void rewrite_slice(struct sched *s);
/* The attempts made before, as a record has them. ERR_NOMEM. */
MUST_USE enum err recover_history(struct sched *s, struct job *job, const struct rec_attempt *attempts, uint32_t count);

/* redrive.c */
MUST_USE enum err on_retry(struct sched *s, const struct input *in);
/* The record of a job that is to live again; ended NULL: there is none. Takes the request. */
void redrive_found(struct sched *s, struct request **request, const struct rec_ended *ended);
MUST_USE enum err redrive_answered(struct sched *s, const struct lookup_key *key, const struct input *in);
