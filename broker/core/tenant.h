/* Tenants and queues: what they hold now, what became of their jobs, and whether they are paused. A tenant lives as long as the
 * scheduler: its numbers outlast its jobs, and tenants are made by those who run the system. A queue is named by whoever
 * submits, so it goes with its last job, unless it is paused. */
#pragma once

#include "broker/core/comeback.h"
#include "broker/core/hash.h"
#include "broker/core/room.h"
#include "broker/core/sched.h"
#include "broker/core/share.h"
#include "common/list.h"

#define TENANT_BUCKETS 112 /* log-linear: four per doubling, to 2^28 ms */
#define TENANT_SLICES  6   /* of ten seconds, for per_minute */

/* A tenant in one service class: its place in the fair share, and every outlet it waits at. */
struct account {
    struct share_account tag;
    struct list seats;
};

struct tenant {
    UT_hash_handle hh;
    struct account accounts[3];
    struct room jobs_held, bytes_held;
    uint64_t waiting, active;
    uint64_t submitted, completed, failed, cancelled, expired;
    uint64_t done_ms_total;
    uint32_t *took; /* two windows of TENANT_BUCKETS, made at the first end; the older is dropped every five minutes */
    msec window_at;
    uint32_t ends[TENANT_SLICES];
    msec slice_at;
    struct comeback comeback;
    bool paused;
    uint8_t len;
    char text[];
};

struct queue {
    UT_hash_handle hh;
    struct queue *dead; /* the next of those that are to be freed */
    uint64_t refs;      /* jobs and drafts */
    uint64_t jobs;
    bool paused;
    uint8_t len;
    char text[];
};

struct queues {
    struct queue *all;
    struct queue *dead;
};

/* By name, made if need be. NULL: no memory. */
MUST_USE struct tenant *tenant_get(struct tenant **all, struct span name);
struct tenant *tenant_find(struct tenant *all, struct span name);
/* With one more reference. */
MUST_USE struct queue *queue_get(struct queues *queues, struct span name);
/* Gives one back and clears the pointer. Accepts NULL. The name is good until queues_sweep. */
void queue_put(struct queues *queues, struct queue **queue);
struct queue *queue_find(const struct queues *queues, struct span name);
void queues_sweep(struct queues *queues);
void tenants_free(struct tenant **all);
void queues_free(struct queues *queues);

static inline struct span tenant_span(const struct tenant *tenant)
{
    return span_of(tenant->text, tenant->len);
}
static inline struct span queue_span(const struct queue *queue)
{
    return span_of(queue->text, queue->len);
}

/* A job of this tenant ended. */
void tenant_count_end(struct tenant *tenant, msec now, unsigned state, msec took_ms);
void tenant_stats(const struct tenant *tenant, msec now, struct sched_tenant_stats *ret_stats);
