#include "broker/port_worker.h"

#include <stdlib.h>

#include "common/log.h"

#define ACKS_PER_FRAME 8192 /* keeps the header under its limit */

struct worker_peer {
    struct peer peer;
    struct rec_lease *acks;
    size_t acks_count, acks_size;
};

struct port_worker {
    struct broker *broker;
    struct port *port;
    bool dirty; /* some worker has acks */
};

static struct worker_peer *worker_of(struct peer *peer)
{
    return CONTAINER_OF(peer, struct worker_peer, peer);
}

/* ---- in ---- */

static bool step(struct port_worker *p, const struct input *in)
{
    enum err e = broker_step(p->broker, in);
    if (e != ERR_OK)
        log_event(LOG_NOMEM, "input=%d error=%s", in->type, err_name(e));
    return e == ERR_OK;
}

/* One that finds no memory is kept by its worker, which says it again in its next session. */
static void on_outcome(struct port_worker *p, struct peer *peer, const struct frame *frame)
{
    const struct msg_outcome *o = &frame->outcome;
    if ((uint64_t)o->result_bytes + o->log_bytes != frame->body.len) {
        port_bad(peer, "an outcome's lengths do not add up");
        return;
    }
    if (o->result_bytes > PROTO_RESULT_BYTES || o->log_bytes > PROTO_LOG_BYTES) {
        port_bad(peer, "an outcome's result or log is longer than any may be");
        return;
    }
    AUTO(blob_free) struct blob *body = blob_copy(frame->body);
    struct input in = {.type = INPUT_OUTCOME, .peer = peer->number, .outcome = o, .body = body};
    if (!body || !step(p, &in))
        port_restart(peer, "no memory for an outcome");
}

static void on_progress(struct port_worker *p, struct peer *peer, const struct msg_progress *progress)
{
    for (uint32_t i = 0; i < progress->items_count && !peer->closed; i++)
        step(p, &(struct input){.type = INPUT_PROGRESS, .peer = peer->number, .progress = &progress->items[i]});
}

static void on_run_events(struct port_worker *p, struct peer *peer, const struct frame *frame)
{
    const struct msg_run_events *events = &frame->run_events;
    uint64_t at = 0;
    for (uint32_t i = 0; i < events->items_count; i++)
        at += events->items[i].bytes;
    if (at != frame->body.len) {
        port_bad(peer, "the events' lengths do not add up");
        return;
    }
    at = 0;
    for (uint32_t i = 0; i < events->items_count && !peer->closed; i++) {
        const struct rec_run_event *event = &events->items[i];
        AUTO(blob_free) struct blob *body = blob_copy(span_of(frame->body.data + at, event->bytes));
        at += event->bytes;
        if (!body)
            return; /* a gap, which the core fills by asking for the log again */
        step(p, &(struct input){.type = INPUT_RUN_EVENT, .peer = peer->number, .run_event = event, .body = body});
    }
}

static void on_frame(void *arg, struct peer *peer, const struct frame *frame)
{
    struct port_worker *p = arg;
    switch (frame->message) {
    case MESSAGE_HEARTBEAT:
        broker_count_peer(p->broker, peer, &frame->heartbeat);
        step(p, &(struct input){.type = INPUT_HEARTBEAT, .peer = peer->number, .heartbeat = &frame->heartbeat});
        return;
    case MESSAGE_OUTCOME:
        on_outcome(p, peer, frame);
        return;
    case MESSAGE_PROGRESS:
        on_progress(p, peer, &frame->progress);
        return;
    case MESSAGE_RUN_EVENTS:
        on_run_events(p, peer, frame);
        return;
    case MESSAGE_DRAIN:
        step(p, &(struct input){.type = INPUT_DRAIN, .peer = peer->number});
        return;
    case MESSAGE_RELOADED:
        broker_peer_reloaded(p->broker, peer, &frame->reloaded);
        return;
    default:
        return; /* the table lets a worker say nothing else */
    }
}

static enum err on_opened(void *arg, struct peer *peer, const struct msg_hello *hello)
{
    struct port_worker *p = arg;
    return broker_step(p->broker, &(struct input){.type = INPUT_HELLO, .peer = peer->number, .hello = hello});
}

static void on_closed(void *arg, struct peer *peer, bool bye, bool replaced)
{
    struct port_worker *p = arg;
    struct worker_peer *w = worker_of(peer);
    free(TAKE(w->acks));
    w->acks_count = w->acks_size = 0;
    if (!replaced)
        broker_later(p->broker, &(struct input){.type = INPUT_GONE, .peer = peer->number, .gone = {bye}});
}

/* ---- out ---- */

/* Without its ack the worker would keep the outcome; in its next session it says it again. */
static void gather_ack(struct port_worker *p, struct worker_peer *w, const struct rec_lease *lease)
{
    if (w->acks_count == w->acks_size) {
        size_t size = w->acks_size ? w->acks_size * 2 : 16;
        struct rec_lease *acks = realloc(w->acks, size * sizeof *acks);
        if (!acks) {
            port_restart(&w->peer, "no memory for an acknowledgement");
            return;
        }
        w->acks = acks;
        w->acks_size = size;
    }
    w->acks[w->acks_count++] = *lease;
    p->dirty = true;
}

static void unsent(struct port_worker *p, const struct parcel *parcel)
{
    broker_later(p->broker, &(struct input){.type = INPUT_UNSENT, .peer = parcel->peer, .unsent = &parcel->lease});
}

/* A queue that takes no more loses the worker this job, not its session: running calls are worth more. */
static void deliver_job(struct port_worker *p, struct peer *peer, struct parcel *parcel)
{
    if (!peer || peer->closed || !parcel->header_len ||
        port_try_encoded(peer, MESSAGE_JOB, span_of(parcel->text, parcel->header_len), parcel->body) != ERR_OK)
        unsent(p, parcel);
}

void port_worker_deliver(struct port_worker *p, struct peer *peer, struct parcel **parcel_ptr)
{
    AUTO(parcel_free) struct parcel *parcel = TAKE(*parcel_ptr);
    if (parcel->type == EFFECT_JOB)
        deliver_job(p, peer, parcel);
    else if (!peer || peer->closed)
        return;
    else if (parcel->type == EFFECT_WELCOME)
        (void)port_send_welcome(peer, span_of(parcel->text, parcel->header_len));
    else if (parcel->type == EFFECT_OUTCOME_ACK)
        gather_ack(p, worker_of(peer), &parcel->lease);
    else
        (void)port_send_encoded(peer, parcel->message, span_of(parcel->text, parcel->header_len), parcel->body);
}

static void flush_acks(struct worker_peer *w)
{
    size_t sent = 0;
    while (sent < w->acks_count && !w->peer.closed) {
        uint32_t count = (uint32_t)MIN(w->acks_count - sent, ACKS_PER_FRAME);
        struct msg_outcome_ack ack = {.items = w->acks + sent, .items_count = count};
        if (port_send(&w->peer, MESSAGE_OUTCOME_ACK, &ack, NULL) != ERR_OK)
            break;
        sent += count;
    }
    if (w->peer.closed)
        return; /* its acks went with the session */
    w->acks_count -= sent;
    memmove(w->acks, w->acks + sent, w->acks_count * sizeof *w->acks);
}

void port_worker_flush(struct port_worker *p)
{
    struct list *node, *after;
    if (!p->dirty)
        return;
    p->dirty = false;
    LIST_EACH_SAFE (node, after, port_list(p->port)) {
        struct worker_peer *w = worker_of(CONTAINER_OF(node, struct peer, node));
        if (w->acks_count)
            flush_acks(w);
        p->dirty = p->dirty || w->acks_count; /* no memory for the frame: in the next turn */
    }
}

/* ---- life ---- */

enum err port_worker_new(struct broker *broker, struct port_stats *stats, struct port_worker **ret_port)
{
    AUTO(port_worker_free) struct port_worker *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    p->broker = broker;
    struct port_hooks hooks = {ROLE_WORKER, sizeof(struct worker_peer), on_opened, on_frame, on_closed, p};
    enum err e = port_new(broker, broker_conf(broker)->broker.worker, "worker", hooks, stats, &p->port);
    if (e == ERR_OK)
        *ret_port = TAKE(p);
    return e;
}

void port_worker_free(struct port_worker **port)
{
    struct port_worker *p = TAKE(*port);
    if (!p)
        return;
    port_free(&p->port);
    free(p);
}

struct port *port_worker_port(struct port_worker *p)
{
    return p->port;
}
