/* GET /livez, /readyz, /health. Alive is the process that answers. Ready is judged by progress: a session in which the broker
 * was heard of within three heartbeats, a store that takes commits, a Redis that answers, a worker to give jobs to. */
#include "api/handlers/handlers.h"

#define REDIS_PATIENCE_MS 2000

struct check {
    const char *name;
    const char *fault; /* NULL: well */
};

static const char *broker_fault(const struct api *api, const struct ask_broker *b)
{
    if (!b->up)
        return "no session";
    return loop_now(api->loop) - b->heard_at > 3 * MAX(b->heartbeat_ms, 1000) ? "silent" : NULL;
}

static const char *redis_fault(const struct api *api)
{
    if (!redis_is_up(api->redis))
        return "not connected";
    return redis_waiting_ms(api->redis) > REDIS_PATIENCE_MS ? "silent" : NULL;
}

#define CHECKS 4
static bool run_checks(const struct api *api, struct check checks[CHECKS])
{
    const struct ask_broker *b = ask_broker(api->ask);
    bool well = true;
    checks[0] = (struct check){"broker", broker_fault(api, b)};
    checks[1] = (struct check){"redis", redis_fault(api)};
    checks[2] = (struct check){"store", !b->up ? "unknown" : b->stalled ? "stalled" : NULL};
    checks[3] = (struct check){"workers", !b->up ? "unknown" : b->workers == 0 ? "none" : NULL};
    for (int i = 0; i < CHECKS; i++)
        well = well && !checks[i].fault;
    return well;
}

/* status: healthy, degraded (alive, not ready) or draining */
static void report(struct api *api, struct exchange *x, bool always_200)
{
    struct check checks[CHECKS];
    struct json_out body = {0};
    bool draining = api->server->draining, well = run_checks(api, checks) && !draining;
    json_printf(&body, "{\"status\":\"%s\",\"service\":\"quern\",\"version\":\"%s\",\"checks\":{",
                well       ? "healthy"
                : draining ? "draining"
                           : "degraded",
                QUERN_VERSION);
    for (int i = 0; i < CHECKS; i++)
        json_printf(&body, "%s\"%s\":\"%s\"", i ? "," : "", checks[i].name, checks[i].fault ? checks[i].fault : "ok");
    json_printf(&body, "},\"workers\":%u}", ask_broker(api->ask)->workers);
    exchange_reply_json(x, well || always_200 ? 200 : 503, &body);
}

void handle_livez(struct api *api, struct exchange *x, const struct visit *v)
{
    exchange_reply(x, &(struct reply){.status = 200, .body = span_str("{\"status\":\"alive\"}")});
}

void handle_readyz(struct api *api, struct exchange *x, const struct visit *v)
{
    report(api, x, false);
}

void handle_health(struct api *api, struct exchange *x, const struct visit *v)
{
    report(api, x, true);
}
