#include "broker/stats.h"

#include <stdio.h>
#include <stdlib.h>

#define NAMES_MAX 512 /* distinct names that peers may count under */

/* One name over all peers of a role. */
struct sum {
    UT_hash_handle hh;
    uint64_t value; /* of those present, as last said */
    char name[PROTO_NAME_BYTES + 16];
};

/* What one peer said last. */
struct said {
    UT_hash_handle hh;
    peer_number peer;
    uint32_t count;
    struct {
        struct sum *sum;
        uint64_t value;
    } list[];
};

struct stats {
    struct shell_stats shell;
    struct port_stats port;
    struct sum *sums;
    struct said *said;
};

struct stats *stats_new(void)
{
    return calloc(1, sizeof(struct stats));
}

void stats_free(struct stats **stats)
{
    struct stats *s = TAKE(*stats);
    struct sum *sum, *after_sum;
    struct said *said, *after_said;
    if (!s)
        return;
    HASH_ITER(hh, s->sums, sum, after_sum)
    {
        HASH_DELETE(hh, s->sums, sum);
        free(sum);
    }
    HASH_ITER(hh, s->said, said, after_said)
    {
        HASH_DELETE(hh, s->said, said);
        free(said);
    }
    free(s);
}

struct shell_stats *stats_shell(struct stats *s)
{
    return &s->shell;
}
struct port_stats *stats_port(struct stats *s)
{
    return &s->port;
}

/* ---- peers ---- */

static struct sum *sum_of(struct stats *s, const char *role, struct span name)
{
    char key[sizeof((struct sum *)0)->name];
    struct sum *sum;
    size_t len = strlen(role);
    bool says_role = name.len > len && memcmp(name.data, role, len) == 0 && name.data[len] == '_';
    snprintf(key, sizeof key, "%s%s%.*s", says_role ? "" : role, says_role ? "" : "_", (int)MIN(name.len, PROTO_NAME_BYTES),
             (const char *)name.data);
    HASH_FIND_STR(s->sums, key, sum);
    if (sum || HASH_COUNT(s->sums) >= NAMES_MAX)
        return sum;
    sum = calloc(1, sizeof *sum);
    if (!sum)
        return NULL;
    memcpy(sum->name, key, sizeof key);
    HASH_ADD_STR(s->sums, name, sum);
    return sum;
}

static struct said *said_by(struct stats *s, const struct peer *peer)
{
    struct said *said;
    HASH_FIND(hh, s->said, &peer->number, sizeof peer->number, said);
    return said;
}

static bool is_said(const struct said *said, const struct sum *sum)
{
    for (uint32_t i = 0; i < said->count; i++)
        if (said->list[i].sum == sum)
            return true;
    return false;
}

static uint64_t said_before(const struct said *said, const struct sum *sum)
{
    for (uint32_t i = 0; said && i < said->count; i++)
        if (said->list[i].sum == sum)
            return said->list[i].value;
    return 0;
}

void stats_heartbeat(struct stats *s, const struct peer *peer, const char *role, const struct msg_heartbeat *heartbeat)
{
    struct said *before = said_by(s, peer);
    struct said *now = calloc(1, sizeof *now + heartbeat->counters_count * sizeof now->list[0]);
    if (!now)
        return; /* the next one tells the same and more */
    now->peer = peer->number;
    for (uint32_t i = 0; i < heartbeat->counters_count; i++) {
        const struct rec_counter *counter = &heartbeat->counters[i];
        struct sum *sum = sum_of(s, role, counter->name);
        if (!sum || is_said(now, sum))
            continue; /* no room for the name, or said twice */
        sum->value += counter->value - said_before(before, sum);
        now->list[now->count].sum = sum;
        now->list[now->count++].value = counter->value;
    }
    if (before) {
        HASH_DELETE(hh, s->said, before);
        free(before);
    }
    HASH_ADD(hh, s->said, peer, sizeof now->peer, now);
}

void stats_gone(struct stats *s, const struct peer *peer)
{
    struct said *said = said_by(s, peer);
    if (!said)
        return;
    for (uint32_t i = 0; i < said->count; i++)
        said->list[i].sum->value -= said->list[i].value;
    HASH_DELETE(hh, s->said, said);
    free(said);
}

/* ---- all ---- */

struct rows {
    struct rec_counter *out;
    uint32_t count, max;
};

static void row(struct rows *rows, const char *name, uint64_t value)
{
    if (rows->count < rows->max)
        rows->out[rows->count++] = (struct rec_counter){span_str(name), value};
}

static void core_rows(struct rows *rows, const struct sched *sched)
{
    struct sched_stats core;
    sched_stats(sched, &core);
#define STAT(name, kind, sentence) row(rows, #name, core.name);
#include "broker/core/stats.def"
#undef STAT
}

static void store_rows(struct rows *rows, const struct store *store)
{
    struct store_stats stats;
    store_stats(store, &stats);
#define STAT(name, kind, sentence) row(rows, #name, stats.name);
#include "broker/store_stats.def"
#undef STAT
}

uint32_t stats_all(struct stats *s, const struct sched *sched, const struct store *store, struct rec_counter *out, uint32_t max)
{
    struct rows rows = {out, 0, max};
    struct sum *sum, *after;
    core_rows(&rows, sched);
    store_rows(&rows, store);
#define STAT(name, kind, sentence) row(&rows, #name, s->port.name);
#include "broker/port_stats.def"
#undef STAT
#define STAT(name, kind, sentence) row(&rows, #name, s->shell.name);
#include "broker/stats.def"
#undef STAT
    HASH_ITER(hh, s->sums, sum, after)
    row(&rows, sum->name, sum->value);
    return rows.count;
}

uint32_t stats_tenant(struct stats *s, const struct sched *sched, struct span tenant, struct rec_counter *out, uint32_t max)
{
    struct rows rows = {out, 0, max};
    struct sched_tenant_stats t = {0};
    struct sched_stats core;
    (void)sched_tenant(sched, tenant, &t); /* one that has had none has zeros */
    sched_stats(sched, &core);
    row(&rows, "waiting", t.waiting);
    row(&rows, "active", t.active);
    row(&rows, "bytes", t.bytes);
    row(&rows, "submitted", t.submitted);
    row(&rows, "completed", t.completed);
    row(&rows, "failed", t.failed);
    row(&rows, "cancelled", t.cancelled);
    row(&rows, "expired", t.expired);
    row(&rows, "done_ms_total", t.done_ms_total);
    row(&rows, "p50_ms", t.p50_ms);
    row(&rows, "p99_ms", t.p99_ms);
    row(&rows, "per_minute", t.per_minute);
    row(&rows, "workers", core.workers);
    row(&rows, "uptime_ms", s->shell.uptime_ms);
    return rows.count;
}
