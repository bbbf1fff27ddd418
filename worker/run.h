/* One run of one job, from JOB to outcome: the adapter, the call's clocks, the transfer and the event log together. Knows
 * nothing of the broker: worker asks it for what to send. */
#pragma once

#define HASH_NONFATAL_OOM 1 /* want of memory refuses one run, see worker.c */
#include <uthash.h>

#include "common/blob.h"
#include "common/list.h"
#include "proto/messages.h"
#include "worker/deployment.h"
#include "worker/eventlog.h"
#include "worker/transfer.h"

struct run;

/* What all runs of a child share; lent to each for its life. */
struct run_place {
    struct loop *loop;
    struct transfers *transfers;
    msec connect_ms, first_token_ms, idle_ms;
    size_t result_max;
    /* The log grew, or will when it is flushed. at_once: by the first piece of the run. May come from inside a transfer. */
    void (*spoke)(void *arg, struct run *run, bool at_once);
    /* The outcome is there. May come from run_start; the run must not be freed in it. */
    void (*ended)(void *arg, struct run *run);
    void *arg;
};

struct run {
    const struct run_place *place;
    struct id id;
    struct fence fence;
    uint32_t number;
    bool stream;
    struct eventlog log;
    unsigned progress; /* 10 to 99 */

    /* Once ended. */
    bool finished;
    enum kind kind;
    unsigned http_status;
    msec retry_after_ms;
    char *message; /* of a failure; NULL: none. Owned */
    struct rec_usage usage;
    struct blob *body; /* result JSON, then the log; NULL: none */
    size_t result_bytes, log_bytes;
    uint32_t connect_ms, first_token_ms, total_ms;

    /* The worker's. */
    UT_hash_handle hh;
    bool unhashed; /* no memory for its place in the table */
    bool watched;
    size_t sent; /* of the log, to a watcher */
    unsigned progress_sent;
    msec progress_at;
    struct list node; /* on worker's `spoken` while it runs, then on `unsent` or `sent` */

    struct run_parts *parts; /* run.c's own; NULL once finished */
};

/* job is lent for the call. ERR_NOMEM. */
MUST_USE enum err run_new(const struct run_place *place, const struct msg_job *job, struct run **ret_run);
void run_free(struct run **run);

/* Makes the call. It may end within this. deployment: lent until the run has finished. */
void run_start(struct run *run, const struct deployment *deployment, const struct msg_job *job, struct span body);

/* Ends it without a call. */
void run_refuse(struct run *run, enum kind kind, const char *why);

/* Closes the call now; the outcome is there when this returns. Not from inside `spoke`. kind: KIND_CANCELLED, KIND_STOPPING. */
void run_cancel(struct run *run, enum kind kind);

/* The event log so far, or whole once finished. Lent until the run goes on. */
struct span run_log(const struct run *run);
