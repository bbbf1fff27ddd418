#include "worker/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "common/prefork.h"
#include "common/pulse.h"
#include "common/role.h"
#include "worker/outbox.h"

/* No memory for a place in the table refuses that run; it does not end the process. */
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(run) ((run)->unhashed = true)

#define HELD_SPARE 64   /* runs held beyond four times the slots are not taken: their outcomes are not being acknowledged */
#define REPORT_MS  2000 /* how long the last outcomes may take to be acknowledged when the time to stop is over */
#define COUNTERS   6

struct worker {
    struct worker_options options;
    struct loop *loop;
    struct link *link;
    struct transfers *transfers;
    struct deployments deployments;
    struct outbox *outbox;
    struct run_place place;
    struct run *runs; /* by id; owned */
    unsigned slots;
    unsigned running; /* runs that have not finished */
    bool draining, leaving;
    struct timer *leave;
    struct pulse *pulse;
    uint64_t jobs_count, failed_count;
    char name[PROTO_NAME_BYTES + 1];
    /* Lent to the link between its hooks. */
    struct rec_served *served;
    struct rec_held *held;
    struct rec_lease *leases;
    struct rec_counter counters[COUNTERS];
};

/* ---- runs ---- */

static struct run *find(const struct worker *worker, const struct id *id)
{
    struct run *run;
    HASH_FIND(hh, worker->runs, id, sizeof *id, run);
    return run;
}

static struct run *find_exact(const struct worker *worker, const struct id *id, struct fence fence)
{
    struct run *run = find(worker, id);
    return run && fence_compare(run->fence, fence) == 0 ? run : NULL;
}

static unsigned held_max(const struct worker *worker)
{
    return 4 * worker->slots + HELD_SPARE;
}

/* Forgets a run; a call still running is closed. */
static void drop(struct worker *worker, struct run *run)
{
    HASH_DEL(worker->runs, run);
    worker->running -= !run->finished;
    run_free(&run);
}

static void run_spoke(void *arg, struct run *run, bool at_once)
{
    struct worker *worker = arg;
    outbox_spoke(worker->outbox, run, at_once);
}

static void run_ended(void *arg, struct run *run)
{
    struct worker *worker = arg;
    worker->running--;
    worker->failed_count += run->kind != KIND_NONE;
    outbox_ended(worker->outbox, run);
}

/* There is no memory to hold the run, so its outcome is said once and not kept. */
static void refuse_unheld(struct worker *worker, const struct msg_job *job, enum kind kind, const char *why)
{
    struct msg_outcome outcome = {.id = job->id, .fence = job->fence, .kind = (uint8_t)kind, .message = span_str(why)};
    log_event(LOG_NOMEM, "what=run");
    if (link_send(worker->link, MESSAGE_OUTCOME, &outcome, NULL) != ERR_OK)
        return; /* the broker learns from the next heartbeat that the run is not here */
}

static struct run *hold(struct worker *worker, const struct msg_job *job)
{
    struct run *run = NULL;
    if (HASH_COUNT(worker->runs) >= held_max(worker) || run_new(&worker->place, job, &run) != ERR_OK)
        return NULL;
    HASH_ADD(hh, worker->runs, id, sizeof run->id, run);
    if (run->unhashed) {
        run_free(&run);
        return NULL;
    }
    worker->running++;
    return run;
}

/* Whether this frame is news. The same lease may arrive twice, a later one means that ours was given up. */
static bool is_new(struct worker *worker, const struct msg_job *job)
{
    struct run *run = find(worker, &job->id);
    if (!run)
        return true;
    int order = fence_compare(job->fence, run->fence);
    if (order == 0)
        outbox_resend(worker->outbox, run);
    if (order <= 0)
        return false;
    drop(worker, run);
    return true;
}

static void take_job(struct worker *worker, const struct msg_job *job, struct span body)
{
    if (!is_new(worker, job))
        return;
    struct run *run = hold(worker, job);
    if (!run) {
        refuse_unheld(worker, job, KIND_STOPPING, "the worker has no room for another run");
        return;
    }
    worker->jobs_count++;
    const struct deployment *deployment = deployments_find(&worker->deployments, job->deployment);
    outbox_watch(worker->outbox, run, job->watched, 0);
    if (worker->draining)
        run_refuse(run, KIND_STOPPING, "the worker is about to stop");
    else if (worker->running > worker->slots)
        run_refuse(run, KIND_STOPPING, "the worker has no free slot");
    else if (!deployment)
        run_refuse(run, KIND_UNSERVED, "this worker does not serve the deployment");
    else
        run_start(run, deployment, job, body);
}

/* ---- the session ---- */

static void say_hello(void *arg, struct msg_hello *hello)
{
    struct worker *worker = arg;
    uint32_t count = 0;
    for (struct run *run = worker->runs; run; run = run->hh.next) {
        worker->held[count++] = (struct rec_held){
            .id = run->id, .fence = run->fence, .run = run->number, .log_bytes = run_log(run).len, .finished = run->finished};
    }
    hello->slots = worker->draining ? worker->running : worker->slots;
    hello->solo = worker->options.solo;
    hello->served = worker->served;
    hello->served_count = (uint32_t)worker->deployments.count;
    hello->held = worker->held;
    hello->held_count = count;
}

static void beat(void *arg, struct msg_heartbeat *heartbeat)
{
    struct worker *worker = arg;
    uint32_t count = 0;
    for (struct run *run = worker->runs; run; run = run->hh.next) {
        if (!run->finished)
            worker->leases[count++] = (struct rec_lease){.id = run->id, .fence = run->fence};
    }
    const struct rec_counter counters[COUNTERS] = {
        {span_str("worker_jobs"), worker->jobs_count},
        {span_str("worker_failed"), worker->failed_count},
        {span_str("worker_running"), worker->running},
        {span_str("worker_held"), HASH_COUNT(worker->runs) - worker->running},
        {span_str("worker_sockets"), transfers_open(worker->transfers)},
        {span_str("worker_event_frames"), worker->outbox->events_count},
    };
    memcpy(worker->counters, counters, sizeof counters);
    heartbeat->slots = worker->draining ? worker->running : worker->slots;
    heartbeat->leases = worker->leases;
    heartbeat->leases_count = count;
    heartbeat->counters = worker->counters;
    heartbeat->counters_count = COUNTERS;
}

static void apply(struct worker *worker, const struct rec_verdict *verdict)
{
    struct run *run = find_exact(worker, &verdict->id, verdict->fence);
    if (!run)
        return;
    switch (verdict->verdict) {
    case VERDICT_ABORT:
        drop(worker, run);
        break;
    case VERDICT_REPLAY:
        run->watched = false; /* by the session before */
        outbox_watch(worker->outbox, run, true, verdict->from);
        break;
    default: /* keep; whoever watched it was the old session's */
        outbox_watch(worker->outbox, run, false, 0);
    }
}

static void say_drain(struct worker *worker)
{
    struct msg_drain fields;
    if (link_send(worker->link, MESSAGE_DRAIN, &fields, NULL) != ERR_OK)
        return; /* HELLO and heartbeats say it too: by their slots */
}

static void session_up(void *arg, const struct msg_welcome *welcome, bool new_epoch)
{
    struct worker *worker = arg;
    prefork_ready();
    for (uint32_t i = 0; i < welcome->verdicts_count; i++)
        apply(worker, &welcome->verdicts[i]);
    for (struct run *run = worker->runs; run; run = run->hh.next)
        outbox_resend(worker->outbox, run);
    if (worker->draining)
        say_drain(worker);
}

static void session_down(void *arg) {}

static void acknowledged(struct worker *worker, const struct msg_outcome_ack *ack)
{
    for (uint32_t i = 0; i < ack->items_count; i++) {
        struct run *run = find_exact(worker, &ack->items[i].id, ack->items[i].fence);
        if (run && run->finished)
            drop(worker, run);
    }
}

static void reload(struct worker *worker, uint64_t revision)
{
    struct conf_fault fault = {0};
    enum err e = worker->options.reload(worker->options.arg, &fault);
    char detail[PROTO_TEXT_BYTES];
    provider_text(detail, sizeof detail, e ? span_str(fault.text) : (struct span){0});
    struct msg_reloaded fields = {.revision = revision, .error = (uint16_t)e, .detail = span_str(detail)};
    if (link_send(worker->link, MESSAGE_RELOADED, &fields, NULL) != ERR_OK)
        return; /* a broker that is gone asks again when it is back */
}

static void take_frame(void *arg, const struct frame *frame)
{
    struct worker *worker = arg;
    struct run *run;
    switch (frame->message) {
    case MESSAGE_JOB:
        take_job(worker, &frame->job, frame->body);
        break;
    case MESSAGE_CANCEL_RUN:
        run = find_exact(worker, &frame->cancel_run.id, frame->cancel_run.fence);
        if (run)
            run_cancel(run, KIND_CANCELLED);
        break;
    case MESSAGE_WATCH_RUN:
        run = find_exact(worker, &frame->watch_run.id, frame->watch_run.fence);
        if (run)
            outbox_watch(worker->outbox, run, frame->watch_run.on, frame->watch_run.from);
        break;
    case MESSAGE_OUTCOME_ACK:
        acknowledged(worker, &frame->outcome_ack);
        break;
    case MESSAGE_HEARTBEAT_ACK:
        for (uint32_t i = 0; i < frame->heartbeat_ack.drop_count; i++) {
            run = find_exact(worker, &frame->heartbeat_ack.drop[i].id, frame->heartbeat_ack.drop[i].fence);
            if (run) /* an outcome is owed here too: the job may have been cancelled, and CANCEL_RUN be on its way */
                run_cancel(run, KIND_CANCELLED);
        }
        break;
    case MESSAGE_RELOAD:
        reload(worker, frame->reload.revision);
        break;
    default: /* DRAIN: the broker is about to stop; what is held is kept */
        break;
    }
}

/* ---- leaving ---- */

static void leave(struct worker *worker)
{
    worker->leaving = true;
    if (worker->running)
        log_event(LOG_WORKER_LEAVES, "running=%u", worker->running);
    for (struct run *run = worker->runs; run; run = run->hh.next)
        run_cancel(run, KIND_STOPPING);
    timer_set(worker->leave, loop_now(worker->loop) + REPORT_MS);
}

static void time_is_over(void *arg)
{
    struct worker *worker = arg;
    if (worker->leaving)
        loop_stop(worker->loop);
    else
        leave(worker);
}

static void drain(void *arg, int signo)
{
    struct worker *worker = arg;
    if (worker->draining)
        return;
    worker->draining = true;
    log_event(LOG_DRAIN, "running=%u", worker->running);
    say_drain(worker);
    timer_set(worker->leave, loop_now(worker->loop) + (msec)worker->options.conf->worker.stop_ms);
}

static void turn(void *arg)
{
    struct worker *worker = arg;
    link_turn(worker->link);
    outbox_turn(worker->outbox);
    if (worker->draining && HASH_COUNT(worker->runs) == 0)
        loop_stop(worker->loop);
}

/* ---- making ---- */

static enum err read_keys(const struct conf *conf, struct link_options *options, struct conf_fault *fault)
{
    if (!conf->worker.key_file[0])
        return ERR_OK;
    enum err e = wire_key_read(conf->worker.key_file, &options->public_key, &options->secret_key);
    if (e)
        snprintf(fault->text, sizeof fault->text, "worker.key_file: %s cannot be used", conf->worker.key_file);
    options->server_keys = conf->broker.public_key;
    return e;
}

static enum err connect_link(struct worker *worker, struct conf_fault *fault)
{
    const struct conf *conf = worker->options.conf;
    struct link_options options = {.role = ROLE_WORKER, .name = worker->name};
    struct link_hooks hooks = {say_hello, beat, session_up, session_down, take_frame, worker};
    enum err e = read_keys(conf, &options, fault);
    if (e)
        return e;
    char *endpoints = role_endpoint(conf, conf->worker.broker, "worker");
    if (!endpoints)
        return ERR_NOMEM;
    options.endpoints = endpoints;
    e = link_new(worker->loop, &options, hooks, &worker->link);
    if (e == ERR_SETTINGS)
        snprintf(fault->text, sizeof fault->text, "worker.broker: %s cannot be connected to", endpoints);
    explicit_bzero(&options.secret_key, sizeof options.secret_key);
    free(endpoints);
    return e;
}

static enum err offer(struct worker *worker)
{
    size_t count = worker->deployments.count;
    worker->served = calloc(count + 1, sizeof *worker->served);
    worker->held = calloc(held_max(worker), sizeof *worker->held);
    worker->leases = calloc(held_max(worker), sizeof *worker->leases);
    if (!worker->served || !worker->held || !worker->leases)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct deployment *deployment = &worker->deployments.list[i];
        worker->served[i] = (struct rec_served){.name = span_str(deployment->name), .hash = deployment->hash};
    }
    log_event(LOG_WORKER_SERVES, "deployments=%zu slots=%u solo=%d", count, worker->slots, worker->options.solo);
    return ERR_OK;
}

static enum err open_transfers(struct worker *worker)
{
    const struct conf *conf = worker->options.conf;
    struct transfers_options options = {
        .http = conf->worker.http, .connections = worker->slots, .ca_file = getenv("SSL_CERT_FILE")};
    enum err e = transfers_new(worker->loop, &options, &worker->transfers);
    worker->place = (struct run_place){
        .loop = worker->loop,
        .transfers = worker->transfers,
        .connect_ms = (msec)conf->worker.connect_timeout_ms,
        .first_token_ms = (msec)conf->worker.first_token_timeout_ms,
        .idle_ms = (msec)conf->worker.idle_timeout_ms,
        .result_max = (size_t)conf->worker.result_max_bytes,
        .spoke = run_spoke,
        .ended = run_ended,
        .arg = worker,
    };
    return e;
}

static enum err build(struct worker *worker, struct conf_fault *fault)
{
    char host[PROTO_NAME_BYTES / 2] = "?";
    gethostname(host, sizeof host - 1);
    snprintf(worker->name, sizeof worker->name, "%s:%d%s", host, (int)getpid(), worker->options.solo ? ":solo" : "");
    worker->loop = loop_new(turn, worker);
    if (!worker->loop)
        return ERR_NOMEM;
    worker->leave = timer_new(worker->loop, time_is_over, worker);
    worker->outbox = outbox_new(worker->loop);
    if (!worker->leave || !worker->outbox)
        return ERR_NOMEM;
    enum err e = loop_signal(worker->loop, SIGTERM, drain, worker);
    if (!e)
        e = pulse_new(worker->loop, &worker->pulse);
    if (!e)
        e = open_transfers(worker);
    if (!e)
        e = deployments_load(worker->options.conf, &worker->deployments);
    if (!e)
        e = offer(worker);
    if (!e)
        e = connect_link(worker, fault);
    worker->outbox->link = worker->link;
    return e;
}

enum err worker_new(const struct worker_options *options, struct worker **ret_worker, struct conf_fault *fault)
{
    AUTO(worker_free) struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return ERR_NOMEM;
    worker->options = *options;
    worker->slots = options->solo ? 1 : (unsigned)options->conf->worker.slots;
    enum err e = build(worker, fault);
    if (!e)
        *ret_worker = TAKE(worker);
    return e;
}

void worker_free(struct worker **worker_ptr)
{
    struct worker *worker = TAKE(*worker_ptr);
    if (!worker)
        return;
    while (worker->runs)
        drop(worker, worker->runs);
    link_free(&worker->link);
    outbox_free(&worker->outbox);
    transfers_free(&worker->transfers);
    deployments_free(&worker->deployments);
    timer_free(&worker->leave);
    pulse_free(&worker->pulse);
    loop_free(&worker->loop);
    free(worker->served);
    free(worker->held);
    free(worker->leases);
    free(worker);
}

void worker_run(struct worker *worker)
{
    loop_run(worker->loop);
}
