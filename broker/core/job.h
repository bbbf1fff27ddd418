/* A job and the one function that moves it between states.
 *
 *   PENDING ──lease──► PROCESSING ──► COMPLETED, FAILED, CANCELLED, EXPIRED
 *      ▲                   │ tried again later, or the lease lapsed
 *      └──── RETRYING ◄────┘
 *
 * Where a job is (its `place` list node):
 *   DRAFT       in a lookup's requests: not accepted yet, nobody may see it (state 0)
 *   PENDING     in a lane or the heap of its flow; while scheduled, only in the deadline heap
 *   PROCESSING  its lease is in its worker's list
 *   RETRYING    only in the deadline heap
 *   terminal    in the scheduler's list of ending jobs, until its end is stored; then it is freed */
#pragma once

#include "broker/core/deadline.h"
#include "broker/core/heap.h"
#include "broker/core/input.h"
#include "broker/core/name.h"
#include "common/list.h"

/* What most jobs leave at zero: those share one of these. */
struct spec {
    uint64_t capabilities;
    msec run_at, deadline;
    uint64_t delay_ms, max_wait_ms, timeout_ms, backoff_base_ms, backoff_cap_ms, result_ttl_ms;
    uint8_t ack;
    bool backoff_exact, has_idem;
    uint8_t idem[32];
};

/* No duration or instant that a caller names may overflow a sum of a few of them. */
#define SPEC_MS_MAX ((msec)1 << 50)

/* The last attempts, oldest first. A lent list stays good when another attempt is added: it is then another block, and the old
 * one waits for job_sweep. */
struct history {
    struct history *dead;
    uint32_t count, size;
    struct rec_attempt list[]; /* worker and deployment are interned, message is owned; then as many struct attempt_names */
};

/* What a job has only from its first lease on; before that all share one of zeros. */
struct past {
    struct fence fence; /* of the last lease */
    msec started_at;    /* first lease */
    uint64_t excluded;  /* bits of deployments */
    uint32_t run, throttles;
    uint16_t failed_attempts, calls, crashes, solo_crashes;
    struct history *history;
};

struct lease;
struct ending;
struct watch;
struct request;

struct job {
    struct id id;
    struct job *chain; /* jobs by id; then those that are to be freed */
    struct tenant *tenant;
    struct queue *queue;
    struct name *route;
    struct flow *flow; /* while in it */
    struct list place;
    struct heap_node late; /* in the flow's heap of out-of-order entries */
    uint8_t state, class, priority;
    bool scheduled : 1; /* pending, not before again_at */
    bool in_lane : 1;
    bool body_asked : 1; /* a lookup for its body is on its way */
    bool tokens_shown : 1;
    bool stream : 1;
    bool cancel_on_leave : 1;
    bool joined : 1; /* another submit was answered with it: it cannot be withdrawn any more */
    struct due due;
    union {
        msec arrived_at;
        struct request *request; /* DRAFT: whose it is */
    };
    msec runnable_at, again_at, expires_at;
    uint64_t seq;
    struct blob *body; /* NULL: only in the store */
    uint32_t body_bytes, display_bytes;
    uint32_t input_estimate, output_estimate;
    uint64_t written;  /* its last write's number */
    struct spec *spec; /* never written while shared: job_spec_own */
    struct past *past; /* never written while shared: job_past_reserve */
    struct lease *lease;
    struct ending *ending;
    struct watch *watches;
    uint16_t max_attempts;
    uint8_t request_id_len, trace_len;
    char texts[]; /* request_id, trace */
};

/* Jobs by id: chained buckets, doubled as they fill. */
struct job_table {
    struct job **buckets;
    size_t size, count;
    bool frozen; /* keeps its size while somebody walks the buckets */
};
/* Room for one more. ERR_NOMEM. */
MUST_USE enum err job_table_reserve(struct job_table *table);
void job_table_add(struct job_table *table, struct job *job);
void job_table_remove(struct job_table *table, struct job *job);
struct job *job_table_find(const struct job_table *table, const struct id *id);
void job_table_done(struct job_table *table);

/* A draft of `spec`, with route and body references taken, tenant and queue still to be set. NULL: no memory. */
MUST_USE struct job *job_new(struct names *names, const struct id *id, const struct rec_spec *spec, struct span idem,
                             struct blob *body);
/* Frees what the job owns; it must be on no list, table, heap or flow. */
void job_free(struct names *names, struct job **job);

/* Whether the table of moves has it. 0 is DRAFT. */
bool job_may_move(unsigned from, unsigned to);

/* A spec of its own, to be changed. ERR_NOMEM. */
MUST_USE enum err job_spec_own(struct job *job);
/* Nobody has written into what jobs share. For sched_check. */
bool job_shared_is_clean(void);
/* Fills the parts of a record or a view that only depend on the job. Lent by the job. */
void job_spec(const struct job *job, struct rec_spec *ret_spec);
/* The same from its submit to its end. */
uint64_t job_bytes(const struct job *job);

static inline struct span job_request_id(const struct job *job)
{
    return span_of(job->texts, job->request_id_len);
}
static inline struct span job_trace(const struct job *job)
{
    return span_of(job->texts + job->request_id_len, job->trace_len);
}

/* A past of its own, with room for one more attempt's row. A block of rows that is replaced goes to *dead. ERR_NOMEM. */
MUST_USE enum err job_past_reserve(struct job *job, struct history **dead);
/* The row of a new attempt; the oldest is dropped when full. Names are referenced. */
struct rec_attempt *job_history_add(struct names *names, struct job *job, struct name *worker, struct name *deployment);
/* The last row, or NULL. */
struct rec_attempt *job_history_last(struct job *job);
/* Takes the last row back: the call was never made. */
void job_history_drop(struct names *names, struct job *job);
/* Keeps a copy of the provider's words, cut; without memory the row stays without. */
void job_history_say(struct job *job, struct span message);
void history_sweep(struct history **dead);

static inline const struct rec_attempt *job_attempts(const struct job *job, uint32_t *ret_count)
{
    *ret_count = job->past->history ? job->past->history->count : 0;
    return *ret_count ? job->past->history->list : NULL;
}
