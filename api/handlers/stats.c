/* GET /v1/stats: the tenant's numbers, as the broker counts them. */
#include "api/handlers/stats.h"

#include <stdlib.h>

#include "api/handlers/handlers.h"

uint64_t stats_number(const struct msg_stats_answer *s, const char *name)
{
    for (uint32_t i = 0; i < s->counters_count; i++)
        if (span_is(s->counters[i].name, name))
            return s->counters[i].value;
    return 0;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static void write_stats(struct json_out *out, const struct msg_stats_answer *s)
{
    uint64_t waiting = stats_number(s, "waiting"), active = stats_number(s, "active"), completed = stats_number(s, "completed"),
             failed = stats_number(s, "failed"), expired = stats_number(s, "expired");
    uint64_t decided = completed + failed + expired; /* a cancelled job neither succeeded nor failed */
    json_printf(out, "{\"waiting\":%llu,\"active\":%llu,\"completed\":%llu,\"failed\":%llu,\"cancelled\":%llu,\"expired\":%llu",
                (unsigned long long)waiting, (unsigned long long)active, (unsigned long long)completed,
                (unsigned long long)failed, (unsigned long long)stats_number(s, "cancelled"), (unsigned long long)expired);
    json_printf(out, ",\"total\":%llu,\"success_rate\":%.4f,\"failure_rate\":%.4f,\"mean_ms\":%.1f",
                (unsigned long long)waiting + active, share(completed, decided), share(failed + expired, decided),
                share(stats_number(s, "done_ms_total"), completed));
    json_printf(out,
                ",\"p50_ms\":%llu,\"p99_ms\":%llu,\"per_minute\":%llu,\"queue_size\":%llu,\"workers\":%llu,\"uptime_s\":%llu}",
                (unsigned long long)stats_number(s, "p50_ms"), (unsigned long long)stats_number(s, "p99_ms"),
                (unsigned long long)stats_number(s, "per_minute"), (unsigned long long)waiting,
                (unsigned long long)stats_number(s, "workers"), (unsigned long long)stats_number(s, "uptime_ms") / 1000);
}

struct stats_visit {
    struct exchange *x;
    struct asked *asked;
    stats_writer *write;
};

static void on_answer(void *owner, enum err error, const struct frame *frame)
{
    struct stats_visit *visit = owner;
    struct exchange *x = visit->x;
    stats_writer *write = visit->write;
    x->left = NULL;
    free(visit);
    if (error) {
        exchange_fail_with(x, error);
        return;
    }
    struct json_out out = {0};
    write(&out, &frame->stats_answer);
    exchange_reply_json(x, 200, &out);
}

static void on_left(struct exchange *x, bool gone)
{
    struct stats_visit *visit = x->owner;
    if (!gone)
        return;
    ask_leave(&visit->asked);
    free(visit);
}

void stats_ask(struct api *api, struct exchange *x, struct span tenant, stats_writer *write)
{
    struct stats_visit *visit = malloc(sizeof *visit);
    enum err e = ERR_NOMEM;
    if (visit) {
        *visit = (struct stats_visit){.x = x, .write = write};
        x->left = on_left;
        x->owner = visit;
        e = ask_stats(api->ask, tenant, on_answer, visit, &visit->asked);
    }
    if (!e)
        return;
    x->left = NULL;
    free(visit);
    exchange_fail_with(x, e);
}

void handle_stats(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        stats_ask(api, x, v->caller.tenant, write_stats);
}
