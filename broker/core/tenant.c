#include "broker/core/tenant.h"

#include <stdlib.h>

#define WINDOW_MS 300000
#define SLICE_MS  10000

struct tenant *tenant_find(struct tenant *all, struct span name)
{
    struct tenant *tenant;
    if (!name.data)
        name = span_str("");
    HASH_FIND(hh, all, name.data, name.len, tenant);
    return tenant;
}

struct tenant *tenant_get(struct tenant **all, struct span name)
{
    struct tenant *tenant = tenant_find(*all, name);
    if (tenant)
        return tenant;
    tenant = calloc(1, sizeof *tenant + name.len);
    if (!tenant)
        return NULL;
    tenant->len = (uint8_t)name.len;
    if (name.len)
        memcpy(tenant->text, name.data, name.len);
    for (int i = 0; i < 3; i++) {
        tenant->accounts[i].tag.weight = 1;
        list_init(&tenant->accounts[i].seats);
    }
    HASH_ADD_KEYPTR(hh, *all, tenant->text, tenant->len, tenant);
    if (!tenant->hh.tbl)
        free(TAKE(tenant));
    return tenant;
}

struct queue *queue_find(const struct queues *queues, struct span name)
{
    struct queue *queue;
    if (!name.data)
        name = span_str("");
    HASH_FIND(hh, queues->all, name.data, name.len, queue);
    return queue;
}

struct queue *queue_get(struct queues *queues, struct span name)
{
    struct queue *queue = queue_find(queues, name);
    if (!queue) {
        queue = calloc(1, sizeof *queue + name.len);
        if (!queue)
            return NULL;
        queue->len = (uint8_t)name.len;
        if (name.len)
            memcpy(queue->text, name.data, name.len);
        HASH_ADD_KEYPTR(hh, queues->all, queue->text, queue->len, queue);
        if (!queue->hh.tbl) {
            free(queue);
            return NULL;
        }
    }
    queue->refs++;
    return queue;
}

void queue_put(struct queues *queues, struct queue **queue)
{
    struct queue *mine = TAKE(*queue);
    if (!mine || --mine->refs || mine->paused)
        return;
    HASH_DELETE(hh, queues->all, mine);
    mine->dead = queues->dead;
    queues->dead = mine;
}

void queues_sweep(struct queues *queues)
{
    for (struct queue *queue; (queue = queues->dead);) {
        queues->dead = queue->dead;
        free(queue);
    }
}

void tenants_free(struct tenant **all)
{
    struct tenant *tenant, *next;
    HASH_ITER(hh, *all, tenant, next)
    {
        HASH_DELETE(hh, *all, tenant);
        free(tenant->took);
        free(tenant);
    }
}

void queues_free(struct queues *queues)
{
    queues_sweep(queues);
    struct queue *queue, *next;
    HASH_ITER(hh, queues->all, queue, next)
    {
        HASH_DELETE(hh, queues->all, queue);
        free(queue);
    }
}

/* ---- how long jobs took: four buckets per doubling, so a quantile is right within 19 % ---- */

static unsigned bucket_of(uint64_t ms)
{
    if (ms < 4)
        return (unsigned)ms;
    unsigned top = 63 - (unsigned)__builtin_clzll(ms);
    unsigned bucket = 4 * (top - 1) + (unsigned)(ms >> (top - 2) & 3);
    return MIN(bucket, TENANT_BUCKETS - 1u);
}

static uint32_t bucket_end(unsigned bucket)
{
    if (bucket < 4)
        return bucket;
    unsigned top = bucket / 4 + 1;
    return (uint32_t)(((uint64_t)(4 + bucket % 4 + 1) << (top - 2)) - 1);
}

static uint32_t quantile(const uint32_t *took, double q)
{
    uint64_t total = 0, seen = 0;
    for (unsigned i = 0; i < 2 * TENANT_BUCKETS; i++)
        total += took[i];
    for (unsigned i = 0; i < TENANT_BUCKETS; i++) {
        seen += took[i] + took[TENANT_BUCKETS + i];
        if (seen && (double)seen >= q * (double)total)
            return bucket_end(i);
    }
    return 0;
}

static void turn_windows(struct tenant *tenant, msec now)
{
    if (now - tenant->window_at < WINDOW_MS)
        return;
    bool both_old = now - tenant->window_at >= 2 * WINDOW_MS;
    for (unsigned i = 0; i < TENANT_BUCKETS; i++) {
        tenant->took[TENANT_BUCKETS + i] = both_old ? 0 : tenant->took[i];
        tenant->took[i] = 0;
    }
    tenant->window_at = now;
}

static void turn_slices(struct tenant *tenant, msec now)
{
    for (int i = 0; i < TENANT_SLICES && now - tenant->slice_at >= SLICE_MS; i++) {
        memmove(tenant->ends + 1, tenant->ends, (TENANT_SLICES - 1) * sizeof *tenant->ends);
        tenant->ends[0] = 0;
        tenant->slice_at += SLICE_MS;
    }
    if (now - tenant->slice_at >= SLICE_MS)
        tenant->slice_at = now;
}

void tenant_count_end(struct tenant *tenant, msec now, unsigned state, msec took_ms)
{
    uint64_t *counts[] = {[STATE_COMPLETED] = &tenant->completed,
                          [STATE_FAILED] = &tenant->failed,
                          [STATE_CANCELLED] = &tenant->cancelled,
                          [STATE_EXPIRED] = &tenant->expired};
    ++*counts[state];
    turn_slices(tenant, now);
    tenant->ends[0]++;
    if (state != STATE_COMPLETED)
        return;
    tenant->done_ms_total += (uint64_t)MAX(took_ms, 0);
    if (!tenant->took && !(tenant->took = calloc(2 * TENANT_BUCKETS, sizeof *tenant->took)))
        return; /* quantiles start when there is memory */
    turn_windows(tenant, now);
    tenant->took[bucket_of((uint64_t)MAX(took_ms, 0))]++;
}

void tenant_stats(const struct tenant *tenant, msec now, struct sched_tenant_stats *ret_stats)
{
    *ret_stats = (struct sched_tenant_stats){
        .waiting = tenant->waiting,
        .active = tenant->active,
        .bytes = tenant->bytes_held.held,
        .submitted = tenant->submitted,
        .completed = tenant->completed,
        .failed = tenant->failed,
        .cancelled = tenant->cancelled,
        .expired = tenant->expired,
        .done_ms_total = tenant->done_ms_total,
    };
    for (int i = 0; i < TENANT_SLICES; i++)
        if (now - tenant->slice_at + (msec)i * SLICE_MS < TENANT_SLICES * SLICE_MS)
            ret_stats->per_minute += tenant->ends[i];
    if (tenant->took && now - tenant->window_at < 2 * WINDOW_MS) {
        ret_stats->p50_ms = quantile(tenant->took, .5);
        ret_stats->p99_ms = quantile(tenant->took, .99);
    }
}
