/* The scheduler: composes job, flow, share, ready, lookup, deadline, roster, retry and stream into one step function.
 * Pure: same settings, seed and inputs give the same effects. It reads no clock, opens nothing, logs nothing. */
#pragma once

#include "broker/core/input.h"

struct sched;

/* A place to call, as dispatch sees it. */
struct sched_deployment {
    const char *name;
    const char *model;    /* asked for instead of the caller's; "": the caller's */
    uint64_t hash;        /* over its settings; a worker must say the same */
    uint32_t concurrency; /* calls at once over all workers; 0: no limit */
};

/* What users ask for. name "*": every route no other row names. */
struct sched_route {
    const char *name;
    const uint32_t *deployments; /* indexes */
    uint32_t deployments_count;
};

struct sched_settings {
    /* Bounds. */
    uint64_t jobs_max, bytes_max, tenant_jobs_max, tenant_bytes_max;
    uint64_t body_cache_bytes;
    uint64_t lookups_max; /* requests waiting for the store */
    /* Times, ms. */
    msec lease_ms, return_ms, head_start_ms, heartbeat_ms;
    msec max_wait_ms, timeout_ms;
    msec backoff_base_ms, backoff_cap_ms, retry_after_cap_ms;
    msec result_ttl_ms, failed_ttl_ms, idem_ttl_ms;
    uint32_t max_attempts, crash_max;
    /* Weights of interactive, standard, background. */
    uint32_t class_weight[3];
    const struct sched_deployment *deployments;
    uint32_t deployments_count;
    const struct sched_route *routes;
    uint32_t routes_count;
};

/* The defaults of DESIGN.md and settings.def, one deployment "echo" on route "*". */
extern const struct sched_settings sched_defaults;

/* settings are copied. seed: jitter and nothing else. NULL: no memory. */
MUST_USE struct sched *sched_new(const struct sched_settings *settings, uint64_t seed);
void sched_free(struct sched **sched);

/* Give one input to the scheduler.
 * now   core time in ms (DESIGN.md §4); an earlier one than before counts as that.
 * in    lent for this call; what the core keeps, it copies.
 * out   gains effects in the order they must be carried out; the caller clears it between steps.
 * Everything a peer may send wrong is answered by an effect or counted, never an error.
 * ERR_NOMEM: no memory; the input has changed nothing and may be given again. ERR_LIMIT: SETTINGS name more deployments than
 * there is room for; nothing has changed. On either, deadlines that fired before it was looked at stand: carry out what `out`
 * has. */
MUST_USE enum err sched_step(struct sched *sched, msec now, const struct input *in, struct effects *out);

/* When INPUT_TICK is due next, in core time; MSEC_NEVER: not before another input. */
msec sched_next(const struct sched *sched);

/* The number of the last write asked for. */
uint64_t sched_written(const struct sched *sched);

/* Counters and gauges; see stats.def for each. Cheap: kept, not counted. */
struct sched_stats {
#define STAT(name, kind, sentence) uint64_t name;
#include "broker/core/stats.def"
#undef STAT
};
void sched_stats(const struct sched *sched, struct sched_stats *ret_stats);

/* A tenant's own numbers, for /v1/stats; false: the tenant has had none. */
struct sched_tenant_stats {
    uint64_t waiting, active, bytes;                           /* now */
    uint64_t submitted, completed, failed, cancelled, expired; /* since start */
    uint64_t done_ms_total;                                    /* of completed jobs, from arrival to end */
    uint32_t p50_ms, p99_ms, per_minute;                       /* over the last minutes: see stats */
};
bool sched_tenant(const struct sched *sched, struct span tenant, struct sched_tenant_stats *ret_stats);

/* Recounts every derived number and checks every list from the jobs themselves; NULL when all agree, else one sentence.
 * Slow: for tests and the simulation. */
const char *sched_check(const struct sched *sched);
