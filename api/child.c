#include "api/child.h"

#include <czmq.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "api/errand.h"
#include "api/routes.h"
#include "api/stream.h"
#include "common/log.h"
#include "common/prefork.h"
#include "common/pulse.h"
#include "common/role.h"

#define REDIS_REPLY_MS  3000
#define LAST_ANSWERS_MS 1000 /* so long before the end of the drain, whoever still waits is answered */

struct child {
    struct api api;
    const struct child_options *options;
    bool open; /* takes connections */
    struct timer *open_anyway, *answer_all, *give_up;
    struct pulse *pulse;
    struct rec_counter counters[16];
};

enum err api_random(struct api *api, uint64_t *ret_random)
{
    if (api->random_left < sizeof *ret_random) {
        if (getrandom(api->random, sizeof api->random, 0) != sizeof api->random)
            return ERR_SYSTEM;
        api->random_left = sizeof api->random;
    }
    api->random_left -= sizeof *ret_random;
    memcpy(ret_random, api->random + api->random_left, sizeof *ret_random);
    return ERR_OK;
}

/* --- turn and hooks --- */

/* A broker that is up and has not been heard of through two heartbeats may hang. */
static bool is_whole(const struct api *api)
{
    const struct ask_broker *b = ask_broker(api->ask);
    return b->up && loop_now(api->loop) - b->heard_at <= 2 * b->heartbeat_ms && redis_is_up(api->redis);
}

static void turn(void *arg)
{
    struct child *child = arg;
    struct api *api = &child->api;
    ask_turn(api->ask);
    server_whole(api->server, is_whole(api));
    server_serve(api->server);
    stream_flush(api);
    ask_flush(api->ask);
    redis_flush(api->redis);
    server_flush(api->server);
}

static void on_request(void *arg, struct exchange *x, const struct request *request)
{
    struct child *child = arg;
    routes_serve(&child->api, x, request);
}

static void on_event(void *arg, const struct rec_event *event, struct span body)
{
    struct child *child = arg;
    errand_event(&child->api, event, body);
    stream_event(&child->api, event, body);
}

/* A new child takes connections when it can serve them: with its first session, while its siblings go on. Where there is no
 * broker at all it opens too, to say so. */
static void open_doors(void *arg)
{
    struct child *child = arg;
    if (child->open)
        return;
    child->open = true;
    timer_set(child->open_anyway, MSEC_NEVER);
    server_open(child->api.server);
    prefork_ready();
    log_event(LOG_READY, "child=%u", child->options->index);
}

static enum err on_reload(void *arg)
{
    struct child *child = arg;
    return child->options->reload(child->options->arg);
}

static void on_session(void *arg)
{
    struct child *child = arg;
    open_doors(child);
    errand_session(&child->api);
    stream_session(&child->api);
}

/* What the broker's snapshot, and so /metrics, says of the api. */
static uint32_t count(void *arg, const struct rec_counter **ret_counters)
{
    struct child *child = arg;
    const struct server *s = child->api.server;
    const struct stream_counts *streams = stream_counts(&child->api);
    const struct rec_counter counters[] = {
        {span_str("connections"), s->conns_count},
        {span_str("connections_accepted"), s->counts.accepted},
        {span_str("connections_timed_out"), s->counts.timeouts},
        {span_str("connections_cut"), s->counts.cut},
        {span_str("connections_no_descriptor"), s->counts.no_descriptor},
        {span_str("requests"), s->counts.requests},
        {span_str("requests_refused"), s->counts.refused},
        {span_str("input_bytes"), s->input_bytes},
        {span_str("output_bytes"), s->output_bytes},
        {span_str("streams"), streams->readers},
        {span_str("streams_opened"), streams->opened},
        {span_str("streams_cut"), streams->cut},
        {span_str("stream_writes"), streams->writes},
        {span_str("questions"), ask_count(child->api.ask)},
    };
    _Static_assert(sizeof counters <= sizeof child->counters, "room for every counter");
    memcpy(child->counters, counters, sizeof counters);
    *ret_counters = child->counters;
    return ARRAY_COUNT(counters);
}

static void on_redis(void *arg) {}
static void on_redis_down(void *arg, const char *reason) {}

/* --- drain --- */

static void on_drained(void *arg)
{
    struct child *child = arg;
    loop_stop(child->api.loop);
}

static void on_answer_all(void *arg)
{
    struct child *child = arg;
    errand_end_waits(&child->api);
}

static void on_give_up(void *arg)
{
    struct child *child = arg;
    loop_stop(child->api.loop);
}

static void on_stop(void *arg, int signo)
{
    struct child *child = arg;
    msec now = loop_now(child->api.loop), stop_ms = (msec)child->api.conf->api.stop_ms;
    log_event(LOG_DRAIN, "connections=%u", child->api.server->conns_count);
    timer_set(child->give_up, now + stop_ms);
    timer_set(child->answer_all, now + MAX(stop_ms - LAST_ANSWERS_MS, stop_ms / 2));
    stream_end_all(&child->api);
    server_drain(child->api.server);
}

/* --- beginning --- */

static enum err open_link(struct child *child)
{
    const struct conf *conf = child->api.conf;
    char name[256], host[128] = "";
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s:%d", host, (int)getpid());
    char *endpoints = role_endpoint(conf, conf->api.broker, "api");
    struct link_options options = {
        .endpoints = endpoints, .server_keys = conf->broker.public_key, .role = ROLE_API, .name = name};
    enum err e = endpoints ? ERR_OK : ERR_NOMEM;
    if (!e && conf->api.key_file[0])
        e = wire_key_read(conf->api.key_file, &options.public_key, &options.secret_key);
    struct ask_hooks hooks = {.event = on_event, .up = on_session, .reload = on_reload, .counters = count, .arg = child};
    if (!e)
        e = ask_new(child->api.loop, conf, &options, hooks, &child->api.ask);
    if (e)
        log_event(LOG_FATAL, "what=%s endpoint=%s error=%s", "link", log_str(span_str(endpoints)), err_name(e));
    explicit_bzero(&options.secret_key, sizeof options.secret_key);
    free(endpoints);
    return e;
}

static enum err open_redis(struct child *child)
{
    struct redis_options options;
    struct role_redis store;
    struct conf_fault fault = {0};
    enum err e = role_redis(child->api.conf, false, &options, &store, &fault);
    if (e) {
        log_event(LOG_FATAL, "what=redis why=%s", log_str(span_str(fault.text)));
        return e;
    }
    options.reply_timeout_ms = REDIS_REPLY_MS;
    child->api.redis = redis_new(child->api.loop, &options, (struct redis_hooks){on_redis, on_redis_down, child});
    role_redis_done(&store);
    return child->api.redis ? ERR_OK : ERR_NOMEM;
}

static enum err open_child(struct child *child, int listener)
{
    struct api *api = &child->api;
    api->loop = loop_new(turn, child);
    if (!api->loop) {
        close(listener);
        return ERR_NOMEM;
    }
    api->started_at = loop_now(api->loop);
    enum err e = server_new(api->loop, listener, api->conf, (struct server_hooks){on_request, on_drained, child}, &api->server);
    if (!e)
        e = pulse_new(api->loop, &child->pulse);
    if (e)
        return e;
    child->open_anyway = timer_new(api->loop, open_doors, child);
    child->answer_all = timer_new(api->loop, on_answer_all, child);
    child->give_up = timer_new(api->loop, on_give_up, child);
    if (!child->open_anyway || !child->answer_all || !child->give_up)
        return ERR_NOMEM;
    timer_set(child->open_anyway, loop_now(api->loop) + ASK_PATIENCE_MS);
    e = streams_open(api);
    if (!e)
        e = loop_signal(api->loop, SIGTERM, on_stop, child);
    if (!e)
        e = open_redis(child);
    return e ? e : open_link(child);
}

static void close_child(struct child *child)
{
    struct api *api = &child->api;
    server_free(&api->server); /* exchanges tell their errands, which let go of questions */
    streams_close(api);
    ask_free(&api->ask);
    redis_free(&api->redis);
    record_done(&api->record);
    timer_free(&child->open_anyway);
    timer_free(&child->answer_all);
    timer_free(&child->give_up);
    pulse_free(&child->pulse);
    loop_free(&api->loop);
}

int child_run(const struct child_options *options)
{
    struct child child = {.api = {.conf = options->conf}, .options = options};
    list_init(&child.api.waiting);
    zsys_handler_set(NULL);
    signal(SIGINT, SIG_IGN); /* from a terminal it reaches every process: the parent decides */
    signal(SIGHUP, SIG_IGN);
    enum err e = open_child(&child, options->listener);
    if (e) {
        log_event(LOG_FATAL, "child=%u error=%s", options->index, err_name(e));
    } else {
        loop_run(child.api.loop);
        log_event(LOG_STOP, "child=%u", options->index);
    }
    close_child(&child);
    return e ? EXIT_FAILURE : EXIT_SUCCESS;
}
