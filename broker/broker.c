#include "broker/broker_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "broker/core/effects.h"
#include "common/log.h"
#include "common/notify.h"

#define BEAT_MS    1000
#define LEAVE_MS   5000  /* how long a drain waits for the store */
#define LINGER_MS  200   /* what was said last may take so long to leave */
#define MISSED_MS  500   /* beyond probe_ms: not the usual lateness of a busy machine */
#define CLOCK_OFF  60000 /* a difference between wall clock and stored time that is logged */
#define ROUNDS_MAX 64    /* of inputs that sends bring about, in one turn */

void broker_fail(struct broker *b, const char *what)
{
    if (b->stage == STAGE_ENDED)
        return;
    log_event(LOG_FATAL, "what=%s", what);
    b->end = BROKER_FAILED;
    b->stage = STAGE_ENDED;
    loop_stop(b->loop);
}

/* ---- the turn ---- */

static void tell_stored(struct broker *b)
{
    uint64_t number = store_stored(b->store);
    broker_deliver_released(b);
    if (number > b->told_stored && broker_tell(b, &(struct input){.type = INPUT_STORED, .stored = {number}}))
        b->told_stored = number;
}

static void tell_stall(struct broker *b)
{
    bool stalled = store_is_stalled(b->store);
    if (stalled == b->told_stalled || !broker_tell(b, &(struct input){.type = stalled ? INPUT_STALL : INPUT_FLOW}))
        return;
    b->told_stalled = stalled;
    /* The core tells api children. Workers do not act on it, but may find out that another broker leads (proto/scout.h). */
    port_send_all(port_worker_port(b->worker), MESSAGE_HEARTBEAT_ACK,
                  &(struct msg_heartbeat_ack){.now = broker_now(b), .stalled = stalled});
    struct store_stats stats;
    store_stats(b->store, &stats);
    log_event(stalled ? LOG_STORE_STALLED : LOG_STORE_FLOWS,
              "waiting_commits=%" PRIu64 " waiting_bytes=%" PRIu64 " ring_bytes=%" PRIu64, stats.waiting_commits,
              stats.waiting_bytes, stats.ring_bytes);
}

/* Above 80 % of Redis's memory no job is taken in; those there are go on and end. */
static void tell_full(struct broker *b)
{
    bool full = store_is_full(b->store);
    if (full != b->told_full && broker_tell(b, &(struct input){.type = full ? INPUT_FULL : INPUT_ROOM}))
        b->told_full = full;
}

/* The store lacks more than can be sent again: a new epoch, so every session is void too. */
static void tell_rewrite(struct broker *b)
{
    uint64_t epoch;
    if (!store_must_rewrite(b->store, &epoch))
        return;
    b->facts.epoch = epoch;
    for (unsigned i = 0; i < PORTS; i++)
        port_forget(ports(b, i));
    if (broker_step(b, &(struct input){.type = INPUT_REWRITE, .rewrite = {epoch}}) != ERR_OK)
        broker_fail(b, "no memory to write everything anew");
    b->rewriting = b->must_sweep = true;
}

/* The core writes in slices, one with each step, and is due at once until it is through. */
static void end_rewrite(struct broker *b)
{
    if (!b->rewriting || sched_next(b->sched) <= broker_now(b))
        return;
    b->rewriting = false;
    store_rewritten(b->store);
}

/* Asked as its tenant would ask. A core that cannot say keeps the job, and is asked again. */
static bool is_live(void *arg, const struct id *id, const struct rec_job *job)
{
    struct broker *b = arg;
    struct msg_ask ask = {.id = *id, .tenant = job->spec.tenant};
    b->sweep_answer = ERR_STORE;
    if (!broker_tell(b, &(struct input){.type = INPUT_ASK, .peer = NOBODY, .ask = &ask}) || b->sweep_answer == ERR_STORE)
        b->must_sweep = true;
    return b->sweep_answer != ERR_NOT_LIVE;
}

static void sweep_if_due(struct broker *b)
{
    if (b->must_sweep && !b->told_stalled && store_sweep(b->store, is_live, b) == ERR_OK)
        b->must_sweep = false;
}

static void flush_ports(struct broker *b)
{
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        broker_run_later(b);
        port_worker_flush(b->worker);
        port_api_flush(b->api);
        if (list_empty(&b->later))
            return;
    }
}

static void set_tick(struct broker *b)
{
    msec next = sched_next(b->sched), now = broker_now(b);
    if (next <= now)
        loop_again(b->loop);
    timer_set(b->tick, next == MSEC_NEVER ? MSEC_NEVER : loop_now(b->loop) + MAX(next - now, 0));
}

/* Off while the shard is idle: nobody is woken to look after nobody. */
static void set_watch(struct broker *b)
{
    if (b->stirred && timer_at(b->watch) == MSEC_NEVER)
        timer_set(b->watch, loop_now(b->loop) + (msec)b->conf->broker.probe_ms);
}

static void on_left(void *arg)
{
    struct broker *b = arg;
    b->end = BROKER_DONE;
    b->stage = STAGE_ENDED;
    loop_stop(b->loop);
}

static void leave_when_settled(struct broker *b)
{
    bool settled = store_is_settled(b->store), late = loop_now(b->loop) >= b->leave_by;
    if (b->stage != STAGE_DRAINING || (!settled && !late))
        return;
    if (!settled) {
        struct store_stats stats;
        store_stats(b->store, &stats);
        log_event(LOG_LEAVE, "waiting_commits=%" PRIu64 " waiting_bytes=%" PRIu64, stats.waiting_commits, stats.waiting_bytes);
    }
    b->stage = STAGE_LEAVING;
    b->leave_by = loop_now(b->loop) + LEAVE_MS;
    store_leave(b->store, on_left, b);
}

/* A process that was stopped, starved, or on a machine that slept finds every deadline past and every peer silent at once,
 * while what they said waits in its sockets. As long as any job is live it looks at least every probe_ms: what is far beyond
 * that it missed, and nobody may be blamed for. First thing in whatever wakes it. */
static void excuse_what_was_missed(struct broker *b)
{
    msec now = broker_now(b), gap = now - b->awake_at;
    bool watching = b->awake_at && b->watching;
    b->awake_at = now;
    if (!watching || gap < (msec)b->conf->broker.probe_ms + MISSED_MS || b->stage >= STAGE_LEAVING)
        return;
    log_event(LOG_STOOD_STILL, "ms=%lld", (long long)gap);
    for (unsigned i = 0; i < PORTS; i++)
        port_excuse(ports(b, i), gap);
    broker_tell(b, &(struct input){.type = INPUT_MISSED, .missed = {gap}});
}

static void reload(struct broker *b);

static void turn(void *arg)
{
    struct broker *b = arg;
    if (b->stage == STAGE_STARTING || b->stage >= STAGE_LEAVING)
        return;
    excuse_what_was_missed(b);
    stats_shell(b->stats)->turns++;
    if (b->must_reload)
        reload(b);
    tell_rewrite(b);
    tell_stored(b);
    tell_stall(b);
    tell_full(b);
    sweep_if_due(b);
    for (unsigned i = 0; i < PORTS; i++)
        port_turn(ports(b, i));
    port_monitor_turn(b->monitor);
    if (sched_next(b->sched) <= broker_now(b))
        broker_tell(b, &(struct input){.type = INPUT_TICK});
    flush_ports(b);
    end_rewrite(b);
    store_turn(b->store, broker_now(b));
    for (unsigned i = 0; i < PORTS; i++)
        port_bury(ports(b, i));
    leave_when_settled(b);
    if (b->stage < STAGE_LEAVING) {
        set_tick(b);
        set_watch(b);
        b->watching = timer_at(b->watch) != MSEC_NEVER;
    }
    notify_alive(loop_now(b->loop));
}

/* ---- timers ---- */

static void on_tick(void *arg) {} /* the turn looks */

static void watch_peers(struct broker *b, bool probe)
{
    port_watch(ports(b, 0), probe);
    port_watch(ports(b, 1), probe);
    port_watch(ports(b, 2), false);
}

/* While any job is live a dead peer must be found at once; otherwise its next frame finds it, or its silence. */
static void on_watch(void *arg)
{
    struct broker *b = arg;
    struct sched_stats core;
    excuse_what_was_missed(b);
    sched_stats(b->sched, &core);
    bool busy = core.jobs || core.ending || core.watchers;
    b->stirred = false;
    timer_set(b->watch, busy ? loop_now(b->loop) + (msec)b->conf->broker.probe_ms : MSEC_NEVER);
    watch_peers(b, busy);
}

static void on_beat(void *arg)
{
    struct broker *b = arg;
    timer_set(b->beat, loop_now(b->loop) + BEAT_MS);
    if (b->stage == STAGE_STARTING) {
        notify_alive(loop_now(b->loop));
        return;
    }
    if (b->stage < STAGE_LEAVING && timer_at(b->watch) == MSEC_NEVER)
        watch_peers(b, false);
    port_monitor_snapshot(b->monitor);
    if (b->stage == STAGE_LEAVING && loop_now(b->loop) >= b->leave_by)
        on_left(b);
}

/* ---- the store's news at start ---- */

static void on_held(void *arg, struct span leader)
{
    struct broker *b = arg;
    notify_status("standby: %.*s leads shard %u", SPAN_ARG(leader), b->facts.shard);
    notify_ready(); /* waiting is what a standby is started for: a service manager must not take it for a start that hangs */
    notify_ready(); /* waiting is what a standby is there for */
}

static void on_leads(void *arg, const struct store_lead *lead)
{
    struct broker *b = arg;
    msec wall = clock_wall();
    b->axis = clock_axis_start(lead->last_now);
    b->facts.epoch = lead->epoch;
    b->ack = lead->ack;
    memcpy(b->facts.tag_key, lead->tag_key, sizeof b->facts.tag_key);
    memcpy(b->facts.tag_key_before, lead->tag_key_before, sizeof b->facts.tag_key_before);
    b->facts.has_tag_key_before = lead->has_tag_key_before;
    if (lead->last_now - wall > CLOCK_OFF)
        log_event(LOG_CLOCK_JUMP, "stored_ahead_ms=%lld", (long long)(lead->last_now - wall));
    notify_status("recovering shard %u", b->facts.shard);
}

static void on_job(void *arg, const struct id *id, const struct rec_job *job)
{
    struct broker *b = arg;
    if (broker_step(b, &(struct input){.type = INPUT_RECOVER, .id = *id, .recover = job}) != ERR_OK)
        broker_fail(b, "no memory to recover a job");
}

static enum err open_ports(struct broker *b)
{
    struct port_stats *stats = stats_port(b->stats);
    enum err e = port_api_new(b, stats, &b->api);
    if (e == ERR_OK)
        e = port_worker_new(b, stats, &b->worker);
    if (e == ERR_OK)
        e = port_monitor_new(b, stats, &b->monitor);
    return e;
}

static void on_recovered(void *arg, const struct store_recovered *counts)
{
    struct broker *b = arg;
    if (b->stage == STAGE_ENDED)
        return;
    if (open_ports(b) != ERR_OK) {
        broker_fail(b, "the sockets cannot be bound");
        return;
    }
    b->stage = STAGE_SERVING;
    b->serving_at = loop_now(b->loop);
    struct input start = {.type = INPUT_START, .start = {b->facts.epoch, (uint8_t)b->ack, (uint16_t)b->facts.shard}};
    if (broker_step(b, &start) != ERR_OK) {
        broker_fail(b, "no memory to start");
        return;
    }
    log_event(LOG_READY, "shard=%u epoch=%" PRIu64 " jobs=%" PRIu64 " ack=%s", b->facts.shard, b->facts.epoch, counts->jobs,
              ack_name(b->ack));
    notify_status("leading shard %u, ack %s", b->facts.shard, ack_name(b->ack));
    notify_ready();
    loop_again(b->loop);
}

static void on_fenced(void *arg)
{
    struct broker *b = arg;
    if (b->stage == STAGE_ENDED)
        return;
    b->end = BROKER_FENCED;
    b->stage = STAGE_ENDED;
    loop_stop(b->loop);
}

static void on_unfit(void *arg, const char *why)
{
    broker_fail(arg, why);
}

/* ---- stopping and reloading ---- */

void broker_drain(struct broker *b)
{
    if (b->stage == STAGE_ENDED)
        return;
    if (b->stage != STAGE_SERVING) { /* nothing to finish yet, or asked twice */
        on_left(b);
        return;
    }
    struct sched_stats core;
    sched_stats(b->sched, &core);
    log_event(LOG_DRAIN, "jobs=%" PRIu64 " running=%" PRIu64, core.jobs, core.processing);
    notify_stopping();
    b->stage = STAGE_DRAINING;
    b->leave_by = loop_now(b->loop) + LEAVE_MS;
    broker_tell(b, &(struct input){.type = INPUT_DRAIN});
    for (unsigned i = 0; i < PORTS; i++)
        port_send_all(ports(b, i), MESSAGE_DRAIN, &(struct msg_drain){});
    loop_again(b->loop);
}

enum err broker_ask_reload(struct broker *b)
{
    if (!b->options.reload)
        return ERR_CONFLICT;
    b->must_reload = true;
    loop_again(b->loop);
    return ERR_OK;
}

static bool take_settings(struct broker *b, struct conf *conf)
{
    struct settings settings = {0};
    struct conf_fault fault = {""};
    enum err e = settings_make(conf, &settings, &fault);
    if (e != ERR_OK) {
        log_event(LOG_SETTINGS_BAD, "error=%s why=%s", err_name(e), log_str(span_str(fault.text)));
        return false;
    }
    struct settings old = b->settings;
    /* Peers were told how often to be heard when they came; a shorter lease waits for the next start. */
    settings.sched.heartbeat_ms = b->facts.heartbeat_ms;
    settings.sched.lease_ms = MAX(settings.sched.lease_ms, PORT_SILENCE * b->facts.heartbeat_ms);
    b->settings = settings;
    if (!broker_tell(b, &(struct input){.type = INPUT_SETTINGS, .settings = &b->settings.sched})) {
        b->settings = old;
        settings_done(&settings);
        log_event(LOG_SETTINGS_BAD, "why=\"the scheduler refused them\"");
        return false;
    }
    settings_done(&old);
    return true;
}

/* A bad file changes nothing. Endpoints, Redis and bounds of the store hold until the next start. */
static void reload(struct broker *b)
{
    b->must_reload = false;
    struct conf *conf = b->options.reload(b->options.arg);
    if (!conf)
        return;
    if (!take_settings(b, conf)) {
        conf_free(&conf);
        return;
    }
    conf_free(&b->conf);
    b->conf = conf;
    b->facts.lease_ms = b->settings.sched.lease_ms;
    struct msg_reload say = {.revision = ++b->revision};
    for (unsigned i = 0; i < PORTS; i++) {
        enum err e = i == 2 ? port_monitor_allow(b->monitor, b->conf) : port_allow(ports(b, i), b->conf);
        if (e != ERR_OK)
            log_event(LOG_SETTINGS_BAD, "what=peers port=%s error=%s", port_roles[i], err_name(e));
        port_send_all(ports(b, i), MESSAGE_RELOAD, &say);
    }
    log_event(LOG_RELOADED, "revision=%" PRIu64 " deployments=%u routes=%u", b->revision, b->conf->deployments_count,
              b->conf->routes_count);
}

/* ---- life ---- */

static void name_it(struct broker *b)
{
    if (b->conf->broker.name[0])
        snprintf(b->name, sizeof b->name, "%s", b->conf->broker.name);
    else if (gethostname(b->name, sizeof b->name - 1) != 0)
        snprintf(b->name, sizeof b->name, "broker");
}

static enum err make_core(struct broker *b)
{
    struct conf_fault fault = {""};
    uint64_t seed;
    enum err e = settings_make(b->conf, &b->settings, &fault);
    if (e == ERR_SETTINGS)
        log_event(LOG_SETTINGS_BAD, "why=%s", log_str(span_str(fault.text)));
    if (e != ERR_OK)
        return e;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return ERR_SYSTEM;
    b->sched = sched_new(&b->settings.sched, seed);
    return b->sched ? ERR_OK : ERR_NOMEM;
}

static enum err make_store(struct broker *b)
{
    const __typeof__(b->conf->broker) *conf = &b->conf->broker;
    struct store_options options = {.redis = b->options.redis,
                                    .shard = (unsigned)b->conf->quern.shard,
                                    .name = b->name,
                                    .standby = b->options.standby,
                                    .allow_unsafe = b->conf->redis.allow_unsafe,
                                    .replicas = (unsigned)b->conf->redis.replicas,
                                    .ring_bytes = conf->ring_bytes,
                                    .stall_bytes = conf->stall_bytes,
                                    .stall_ms = (msec)conf->stall_ms};
    struct store_hooks hooks = {on_held, on_leads, on_job, on_recovered, on_fenced, on_unfit, b};
    b->store = store_new(b->loop, &options, hooks);
    b->options.redis = NULL;
    return b->store ? ERR_OK : ERR_NOMEM;
}

enum err broker_new(const struct broker_options *options, struct broker **ret_broker)
{
    AUTO(broker_free) struct broker *b = calloc(1, sizeof *b);
    if (!b)
        return ERR_NOMEM;
    b->options = *options;
    b->conf = options->conf;
    list_init(&b->later);
    name_it(b);
    b->loop = loop_new(turn, b);
    b->stats = stats_new();
    if (!b->loop || !b->stats)
        return ERR_NOMEM;
    b->tick = timer_new(b->loop, on_tick, b);
    b->watch = timer_new(b->loop, on_watch, b);
    b->beat = timer_new(b->loop, on_beat, b);
    if (!b->tick || !b->watch || !b->beat)
        return ERR_NOMEM;
    enum err e = make_core(b);
    if (e != ERR_OK)
        return e;
    b->axis = clock_axis_start(0);
    b->facts.shard = (unsigned)b->conf->quern.shard;
    b->facts.heartbeat_ms = b->settings.sched.heartbeat_ms;
    b->facts.lease_ms = b->settings.sched.lease_ms;
    timer_set(b->beat, loop_now(b->loop) + BEAT_MS);
    e = make_store(b);
    if (e == ERR_OK)
        *ret_broker = TAKE(b);
    return e;
}

void broker_free(struct broker **broker)
{
    struct broker *b = TAKE(*broker);
    if (!b)
        return;
    b->stage = STAGE_ENDED;
    struct port *all[PORTS] = {b->api ? port_api_port(b->api) : NULL, b->worker ? port_worker_port(b->worker) : NULL,
                               b->monitor ? port_monitor_port(b->monitor) : NULL};
    for (unsigned i = 0; i < PORTS; i++)
        if (all[i] && b->end == BROKER_DONE)
            port_linger(all[i], LINGER_MS);
    port_api_free(&b->api);
    port_worker_free(&b->worker);
    port_monitor_free(&b->monitor);
    store_free(&b->store, parcels_drop);
    broker_drop_later(b);
    sched_free(&b->sched);
    effects_done(&b->effects);
    settings_done(&b->settings);
    timer_free(&b->tick);
    timer_free(&b->watch);
    timer_free(&b->beat);
    stats_free(&b->stats);
    loop_free(&b->loop);
    conf_free(&b->conf);
    free(b);
}

enum broker_end broker_run(struct broker *b)
{
    loop_run(b->loop);
    return b->end;
}
