/* Tenants and queues: what they hold now, what became of their jobs, and whether they are paused. Both live as long as the scheduler:
 * their numbers outlast their jobs. */
#pragma once

#include <uthash.h>

#include "broker/core/sched.h"
#include "broker/core/share.h"
#include "common/list.h"

#define TENANT_BUCKETS 112 /* log-linear: four per doubling, to 2^28 ms */
#define TENANT_SLICES 6    /* of ten seconds, for per_minute */

/* A tenant in one service class: its place in the fair share, and every outlet it waits at. */
struct account {
    struct share_account tag;
    struct list seats;
};

struct tenant {
    UT_hash_handle hh;
    struct account accounts[3];
    uint64_t jobs, bytes;
    uint64_t waiting, active;
    uint64_t submitted, completed, failed, cancelled, expired;
    uint64_t done_ms_total;
    uint32_t *took;      /* two windows of TENANT_BUCKETS, made at the first end; the older is dropped every five minutes */
    msec window_at;
    uint32_t ends[TENANT_SLICES];
    msec slice_at;
    bool paused;
    uint8_t len;
    char text[];
};

struct queue {
    UT_hash_handle hh;
    uint64_t jobs;
    bool paused;
    uint8_t len;
    char text[];
};

/* By name, made if need be. NULL: no memory. */
MUST_USE struct tenant *tenant_get(struct tenant **all, struct span name);
struct tenant *tenant_find(struct tenant *all, struct span name);
MUST_USE struct queue *queue_get(struct queue **all, struct span name);
struct queue *queue_find(struct queue *all, struct span name);
void tenants_free(struct tenant **all);
void queues_free(struct queue **all);

static inline struct span tenant_span(const struct tenant *tenant) { return span_of(tenant->text, tenant->len); }
static inline struct span queue_span(const struct queue *queue) { return span_of(queue->text, queue->len); }

/* A job of this tenant ended. */
void tenant_count_end(struct tenant *tenant, msec now, unsigned state, msec took_ms);
void tenant_stats(const struct tenant *tenant, msec now, struct sched_tenant_stats *ret_stats);
