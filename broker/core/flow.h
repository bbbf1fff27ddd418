/* Jobs that wait for the same thing, in order. A job's key is runnable_at − priority × head_start and never changes while it
 * lives (PATCH aside), so order between two jobs never changes and nothing is ever aged. Ten lanes, one per priority, each
 * first in first out; a job whose key does not belong at the end of its lane (it comes back, or was scheduled) goes into a
 * small heap. */
#pragma once

#include "broker/core/job.h"

#define FLOW_LANES 10

struct flow_key {
    struct tenant *tenant;
    struct queue *queue;
    struct outlet *outlet;
    uint64_t class;
};

struct flow {
    UT_hash_handle hh;
    struct flow_key key;
    struct seat *seat;
    struct list lanes[FLOW_LANES];
    struct heap late;
    struct heap_node node; /* in its seat's heap while it has jobs and is not paused */
    uint64_t count;
    msec head_start_ms;
    struct job *head; /* the first by (key, seq); NULL when empty */
};

void flow_init(struct flow *flow, const struct flow_key *key, msec head_start_ms);
void flow_done(struct flow *flow);

msec flow_key_of(const struct job *job, msec head_start_ms);
/* Whether a goes before b: by key, then by arrival. */
bool flow_before(const struct job *a, const struct job *b, msec head_start_ms);

/* Room for one more job anywhere. ERR_NOMEM. */
MUST_USE enum err flow_reserve(struct flow *flow);
/* Both keep `head` right. The job must be on no list. */
void flow_add(struct flow *flow, struct job *job);
void flow_remove(struct flow *flow, struct job *job);
