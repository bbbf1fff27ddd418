/* Events: at most PROTO_UNACKED_BYTES are unacknowledged per child. What comes on top waits here up to the same amount; beyond
 * that tokens and progress are left out, which the child sees as a gap in the offsets and asks for again from where it is. What
 * cannot be left out (status, end) may pile up to BEHIND_MAX; then the session ends. */
#include "broker/port_api.h"

#include <stdlib.h>

#include "common/log.h"

#define BEHIND_MAX       (64u << 20)
#define EVENTS_PER_FRAME 8192 /* keeps the header under its limit */
#define BULKS_MAX        256  /* of one child, answered only in part */
#define EVENT_COST       96   /* of an event's row in the header, about */

/* The answers to one BULK, until all are there. */
struct bulk {
    UT_hash_handle hh;
    uint64_t number;
    uint64_t ref;
    uint32_t count, answered;
    struct rec_ack_item items[];
};

struct api_peer {
    struct peer peer;
    struct list events; /* of struct parcel, waiting */
    size_t events_bytes;
    struct bulk *bulks;
    uint64_t bulks_made;
};

struct port_api {
    struct broker *broker;
    struct port *port;
    struct port_stats *stats;
    bool dirty; /* some child has events waiting */
};

static struct api_peer *api_of(struct peer *peer)
{
    return CONTAINER_OF(peer, struct api_peer, peer);
}

/* ---- in ---- */

static void send_ack(struct peer *peer, uint64_t ref, const struct id *id, enum err error)
{
    struct msg_ack ack = {.ref = ref, .id = *id, .error = (uint16_t)error, .retry_after_ms = 1000};
    (void)port_send(peer, MESSAGE_ACK, &ack, NULL);
}

static void bulk_ack(struct api_peer *api, uint64_t ref, const struct rec_ack_item *item);

/* A submit always has an answer, want of memory included. */
static void submit(struct port_api *p, struct peer *peer, const struct msg_submit *submit, struct span bytes)
{
    AUTO(blob_free) struct blob *body = blob_copy(bytes);
    enum err e = !body
                     ? ERR_NOMEM
                     : broker_step(p->broker,
                                   &(struct input){.type = INPUT_SUBMIT, .peer = peer->number, .submit = submit, .body = body});
    if (e == ERR_OK || peer->closed)
        return;
    log_event(LOG_NOMEM, "what=submit");
    if (submit->ref & REF_BULK)
        bulk_ack(api_of(peer), submit->ref,
                 &(struct rec_ack_item){.id = submit->id, .error = (uint16_t)e, .retry_after_ms = 1000});
    else
        send_ack(peer, submit->ref, &submit->id, e);
}

static void on_submit(struct port_api *p, struct peer *peer, const struct frame *frame)
{
    if (frame->submit.ref & REF_BULK)
        port_bad(peer, "a ref with the highest bit set");
    else if (frame->submit.spec.display_bytes > frame->body.len)
        port_bad(peer, "the display part is longer than the body");
    else
        submit(p, peer, &frame->submit, frame->body);
}

static const char *bulk_fault(const struct frame *frame)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < frame->bulk.items_count; i++) {
        at += frame->bulk.items[i].body_bytes;
        if (frame->bulk.items[i].spec.display_bytes > frame->bulk.items[i].body_bytes)
            return "the display part is longer than the body";
    }
    return at == frame->body.len ? NULL : "the bodies' lengths do not add up";
}

static struct bulk *new_bulk(struct api_peer *api, const struct msg_bulk *from)
{
    if (HASH_COUNT(api->bulks) >= BULKS_MAX)
        return NULL;
    struct bulk *bulk = calloc(1, sizeof *bulk + from->items_count * sizeof bulk->items[0]);
    if (!bulk)
        return NULL;
    bulk->number = ++api->bulks_made;
    bulk->ref = from->ref;
    bulk->count = from->items_count;
    HASH_ADD(hh, api->bulks, number, sizeof bulk->number, bulk);
    return bulk;
}

static void refuse_bulk(struct peer *peer, const struct msg_bulk *bulk)
{
    struct rec_ack_item *items = calloc(bulk->items_count ? bulk->items_count : 1, sizeof *items);
    if (!items)
        return;
    for (uint32_t i = 0; i < bulk->items_count; i++)
        items[i] = (struct rec_ack_item){.id = bulk->items[i].id, .error = ERR_OVERLOADED, .retry_after_ms = 1000};
    struct msg_acks acks = {.ref = bulk->ref, .items = items, .items_count = bulk->items_count};
    (void)port_send(peer, MESSAGE_ACKS, &acks, NULL);
    free(items);
}

/* Each item becomes a submit of its own; its ref says which item of which bulk it is. */
static void on_bulk(struct port_api *p, struct peer *peer, const struct frame *frame)
{
    const char *fault = bulk_fault(frame);
    if (fault) {
        port_bad(peer, fault);
        return;
    }
    struct bulk *bulk = frame->bulk.items_count ? new_bulk(api_of(peer), &frame->bulk) : NULL;
    if (!bulk) {
        refuse_bulk(peer, &frame->bulk);
        return;
    }
    uint64_t number = bulk->number; /* it is gone when its last item has been answered */
    size_t at = 0;
    for (uint32_t i = 0; i < frame->bulk.items_count && !peer->closed; i++) {
        const struct rec_bulk_item *item = &frame->bulk.items[i];
        struct msg_submit one = {.ref = REF_BULK | number << 16 | i,
                                 .id = item->id,
                                 .again = item->again,
                                 .spec = item->spec,
                                 .idem = item->idem,
                                 .body_hash = item->body_hash};
        submit(p, peer, &one, span_of(frame->body.data + at, item->body_bytes));
        at += item->body_bytes;
    }
}

/* The numbers of one tenant, or all there are. */
static void on_stats(struct port_api *p, struct peer *peer, const struct msg_stats *stats)
{
    struct rec_counter counters[1024];
    struct msg_stats_answer answer = {.ref = stats->ref, .counters = counters};
    answer.counters_count = broker_counters(p->broker, stats->tenant, counters, ARRAY_COUNT(counters));
    (void)port_send(peer, MESSAGE_STATS_ANSWER, &answer, NULL);
}

static enum err input_of(const struct frame *frame, struct input *in)
{
    switch (frame->message) {
    case MESSAGE_HEARTBEAT:
        *in = (struct input){.type = INPUT_HEARTBEAT, .heartbeat = &frame->heartbeat};
        return ERR_OK;
    case MESSAGE_WITHDRAW:
        *in = (struct input){.type = INPUT_WITHDRAW, .withdraw = &frame->withdraw};
        return ERR_OK;
    case MESSAGE_CANCEL:
        *in = (struct input){.type = INPUT_CANCEL, .cancel = &frame->cancel};
        return ERR_OK;
    case MESSAGE_FORGET:
        *in = (struct input){.type = INPUT_FORGET, .forget = &frame->forget};
        return ERR_OK;
    case MESSAGE_ASK:
        *in = (struct input){.type = INPUT_ASK, .ask = &frame->ask};
        return ERR_OK;
    case MESSAGE_WATCH:
        *in = (struct input){.type = INPUT_WATCH, .watch = &frame->watch};
        return ERR_OK;
    case MESSAGE_UNWATCH:
        *in = (struct input){.type = INPUT_UNWATCH, .unwatch = &frame->unwatch};
        return ERR_OK;
    case MESSAGE_PATCH:
        *in = (struct input){.type = INPUT_PATCH, .patch = &frame->patch};
        return ERR_OK;
    case MESSAGE_RETRY:
        *in = (struct input){.type = INPUT_RETRY, .retry = &frame->retry};
        return ERR_OK;
    case MESSAGE_DRAIN:
        *in = (struct input){.type = INPUT_DRAIN};
        return ERR_OK;
    default:
        return ERR_INVALID;
    }
}

/* The ref of a question that is to be answered with ANSWER; false: it is none. */
static bool ref_of(const struct frame *frame, uint64_t *ret_ref, struct id *ret_id)
{
    switch (frame->message) {
#define QUESTION(CODE, name)                                                                                                   \
    case MESSAGE_##CODE:                                                                                                       \
        *ret_ref = frame->name.ref;                                                                                            \
        *ret_id = frame->name.id;                                                                                              \
        return true;
        QUESTION(CANCEL, cancel)
        QUESTION(FORGET, forget)
        QUESTION(ASK, ask)
        QUESTION(WATCH, watch)
        QUESTION(PATCH, patch)
        QUESTION(RETRY, retry)
        QUESTION(APPROVE, approve)
#undef QUESTION
    default:
        return false;
    }
}

static void answer_error(struct peer *peer, const struct frame *frame, enum err error)
{
    struct msg_answer answer = {.error = (uint16_t)error, .retry_after_ms = 1000};
    if (ref_of(frame, &answer.ref, &answer.id))
        (void)port_send(peer, MESSAGE_ANSWER, &answer, NULL);
}

static void on_question(struct port_api *p, struct peer *peer, const struct frame *frame)
{
    struct input in;
    if (input_of(frame, &in) != ERR_OK) {
        answer_error(peer, frame, ERR_CONFLICT); /* nothing here waits for it: an approval without an approver's job */
        return;
    }
    in.peer = peer->number;
    if (broker_step(p->broker, &in) == ERR_OK || peer->closed)
        return;
    log_event(LOG_NOMEM, "what=%s", message_name(frame->message));
    answer_error(peer, frame, ERR_NOMEM);
}

static void on_frame(void *arg, struct peer *peer, const struct frame *frame)
{
    struct port_api *p = arg;
    p->dirty = p->dirty || api_of(peer)->events_bytes; /* what it acknowledged makes room */
    switch (frame->message) {
    case MESSAGE_SUBMIT:
        on_submit(p, peer, frame);
        return;
    case MESSAGE_BULK:
        on_bulk(p, peer, frame);
        return;
    case MESSAGE_STATS:
        on_stats(p, peer, &frame->stats);
        return;
    case MESSAGE_RELOADED:
        broker_peer_reloaded(p->broker, peer, &frame->reloaded);
        return;
    case MESSAGE_HEARTBEAT:
        broker_count_peer(p->broker, peer, &frame->heartbeat);
        break;
    default:
        break;
    }
    on_question(p, peer, frame);
}

static enum err on_opened(void *arg, struct peer *peer, const struct msg_hello *hello)
{
    struct port_api *p = arg;
    list_init(&api_of(peer)->events);
    return broker_step(p->broker, &(struct input){.type = INPUT_HELLO, .peer = peer->number, .hello = hello});
}

static void on_closed(void *arg, struct peer *peer, bool bye, bool replaced)
{
    struct port_api *p = arg;
    struct api_peer *api = api_of(peer);
    struct bulk *bulk, *after;
    parcels_drop(&api->events);
    api->events_bytes = 0;
    HASH_ITER(hh, api->bulks, bulk, after)
    {
        HASH_DELETE(hh, api->bulks, bulk);
        free(bulk);
    }
    /* Also when it is replaced: its watches end with the session, and the child asks for them again in the new one. */
    broker_later(p->broker, &(struct input){.type = INPUT_GONE, .peer = peer->number, .gone = {bye}});
}

/* ---- out: answers ---- */

static void bulk_ack(struct api_peer *api, uint64_t ref, const struct rec_ack_item *item)
{
    uint64_t number = (ref & ~REF_BULK) >> 16;
    uint32_t index = ref & 0xffff;
    struct bulk *bulk;
    HASH_FIND(hh, api->bulks, &number, sizeof number, bulk);
    if (!bulk || index >= bulk->count)
        return;
    bulk->items[index] = *item;
    if (++bulk->answered < bulk->count)
        return;
    HASH_DELETE(hh, api->bulks, bulk);
    struct msg_acks acks = {.ref = bulk->ref, .items = bulk->items, .items_count = bulk->count};
    (void)port_send(&api->peer, MESSAGE_ACKS, &acks, NULL);
    free(bulk);
}

/* ---- out: events ---- */

static bool may_be_left_out(const struct parcel *parcel)
{
    return parcel->event.event == EVENT_TOKEN || parcel->event.event == EVENT_PROGRESS;
}

static void gather_event(struct port_api *p, struct api_peer *api, struct parcel **parcel_ptr)
{
    AUTO(parcel_free) struct parcel *parcel = TAKE(*parcel_ptr);
    size_t cost = EVENT_COST + parcel->event.bytes;
    if (api->events_bytes + cost > PROTO_UNACKED_BYTES && may_be_left_out(parcel)) {
        p->stats->events_dropped++;
        return;
    }
    if (api->events_bytes + cost > BEHIND_MAX) {
        port_restart(&api->peer, "too far behind with its events");
        return;
    }
    api->events_bytes += cost;
    list_push_back(&api->events, &TAKE(parcel)->node);
    p->dirty = true;
}

void port_api_deliver(struct port_api *p, struct peer *peer, struct parcel **parcel_ptr)
{
    AUTO(parcel_free) struct parcel *parcel = TAKE(*parcel_ptr);
    if (!peer || peer->closed)
        return;
    if (parcel->type == EFFECT_EVENT)
        gather_event(p, api_of(peer), &parcel);
    else if (parcel->type == EFFECT_WELCOME)
        (void)port_send_welcome(peer, span_of(parcel->text, parcel->header_len));
    else if (parcel->type == EFFECT_ACK && parcel->ref & REF_BULK)
        bulk_ack(api_of(peer), parcel->ref, &parcel->ack_item);
    else
        (void)port_send_encoded(peer, parcel->message, span_of(parcel->text, parcel->header_len), parcel->body);
}

static struct parcel *first(struct list *list)
{
    struct list *node = list_first(list);
    return node ? CONTAINER_OF(node, struct parcel, node) : NULL;
}

/* How many of the waiting events go into the next frame, and the bytes of their bodies: as many as may be unacknowledged beside
 * what is already; one that is larger than all of that goes alone, when nothing is. 0: not now. */
static uint32_t next_frame(struct api_peer *api, size_t *ret_bytes)
{
    uint64_t unacked = peer_unacked(&api->peer), room = PROTO_UNACKED_BYTES - MIN(unacked, PROTO_UNACKED_BYTES);
    uint64_t cost = 0;
    uint32_t count = 0;
    struct list *node;
    *ret_bytes = 0;
    LIST_EACH (node, &api->events) {
        const struct parcel *parcel = CONTAINER_OF(node, struct parcel, node);
        cost += EVENT_COST + parcel->event.bytes;
        bool alone = !count && !unacked;
        if (!alone && (count == EVENTS_PER_FRAME || cost > room))
            break;
        *ret_bytes += parcel->event.bytes;
        count++;
    }
    return count;
}

/* One frame. false: the child cannot be sent more for now. */
static bool send_events(struct api_peer *api)
{
    size_t bytes, at = 0;
    uint8_t *data;
    uint32_t count = next_frame(api, &bytes);
    if (!count)
        return false;
    struct rec_event *items = malloc(count * sizeof *items);
    AUTO(blob_free) struct blob *body = items ? blob_new(bytes, &data) : NULL;
    if (!body) {
        free(items);
        return false; /* without memory they wait */
    }
    for (uint32_t i = 0; i < count; i++) {
        struct parcel *parcel = first(&api->events);
        struct span part = blob_span(parcel->body);
        items[i] = parcel->event;
        if (part.len)
            memcpy(data + at, part.data, part.len);
        at += part.len;
        api->events_bytes -= EVENT_COST + part.len;
        parcel_free(&parcel);
    }
    struct msg_events events = {.items = items, .items_count = count};
    enum err e = port_send(&api->peer, MESSAGE_EVENTS, &events, body);
    free(items);
    return e == ERR_OK;
}

void port_api_flush(struct port_api *p)
{
    struct list *node, *after;
    if (!p->dirty)
        return;
    p->dirty = false;
    LIST_EACH_SAFE (node, after, port_list(p->port)) {
        struct api_peer *api = api_of(CONTAINER_OF(node, struct peer, node));
        while (!api->peer.closed && !list_empty(&api->events) && send_events(api))
            ;
        p->dirty = p->dirty || api->events_bytes;
    }
}

/* ---- life ---- */

enum err port_api_new(struct broker *broker, struct port_stats *stats, struct port_api **ret_port)
{
    AUTO(port_api_free) struct port_api *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    p->broker = broker;
    p->stats = stats;
    struct port_hooks hooks = {ROLE_API, sizeof(struct api_peer), on_opened, on_frame, on_closed, p};
    enum err e = port_new(broker, broker_conf(broker)->broker.api, "api", hooks, stats, &p->port);
    if (e == ERR_OK)
        *ret_port = TAKE(p);
    return e;
}

void port_api_free(struct port_api **port)
{
    struct port_api *p = TAKE(*port);
    if (!p)
        return;
    port_free(&p->port);
    free(p);
}

struct port *port_api_port(struct port_api *p)
{
    return p->port;
}
