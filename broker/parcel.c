#include "broker/parcel.h"

#include <stdlib.h>

static const struct shown {
    enum effect_type effect;
    enum message message;
    size_t fields; /* in struct effect */
} frames[] = {
    {EFFECT_WELCOME, MESSAGE_WELCOME, offsetof(struct effect, welcome)},
    {EFFECT_HEARTBEAT_ACK, MESSAGE_HEARTBEAT_ACK, offsetof(struct effect, heartbeat_ack)},
    {EFFECT_ACK, MESSAGE_ACK, offsetof(struct effect, ack)},
    {EFFECT_ANSWER, MESSAGE_ANSWER, offsetof(struct effect, answer)},
    {EFFECT_JOB, MESSAGE_JOB, offsetof(struct effect, job)},
    {EFFECT_CANCEL_RUN, MESSAGE_CANCEL_RUN, offsetof(struct effect, cancel_run)},
    {EFFECT_WATCH_RUN, MESSAGE_WATCH_RUN, offsetof(struct effect, watch_run)},
};

static const struct shown *frame_of(enum effect_type type)
{
    for (size_t i = 0; i < ARRAY_COUNT(frames); i++)
        if (frames[i].effect == type)
            return &frames[i];
    return NULL;
}

/* The part of the effect's body that is meant: itself when that is all of it. */
static enum err take_body(const struct effect *e, struct blob **ret_body)
{
    *ret_body = NULL;
    if (!e->body)
        return ERR_OK;
    size_t len = e->body_len ? e->body_len : e->body->len - e->body_from;
    assert(e->body_from + len <= e->body->len);
    *ret_body = len == e->body->len ? blob_ref(e->body) : blob_copy(span_of(e->body->data + e->body_from, len));
    return *ret_body ? ERR_OK : ERR_NOMEM;
}

static struct parcel *new_parcel(const struct effect *e, size_t text_bytes)
{
    struct parcel *p = calloc(1, sizeof *p + text_bytes);
    if (!p)
        return NULL;
    list_init(&p->node);
    p->type = e->type;
    p->peer = e->peer;
    p->bytes = sizeof *p + text_bytes;
    return p;
}

static enum err make_frame(const struct effect *e, const struct shown *shown, const struct peer *peer, struct parcel **ret)
{
    AUTO(frame_buffer_done) struct frame_buffer header = {0};
    if (peer) {
        enum err error = port_encode(peer, shown->message, (const char *)e + shown->fields, &header);
        if (error != ERR_OK)
            return error;
    }
    struct parcel *p = new_parcel(e, header.len);
    if (!p)
        return ERR_NOMEM;
    p->message = shown->message;
    p->header_len = header.len;
    if (header.len)
        memcpy(p->text, header.data, header.len);
    *ret = p;
    return ERR_OK;
}

static void fill_ack(struct parcel *p, const struct msg_ack *ack)
{
    p->ref = ack->ref;
    p->ack_item = (struct rec_ack_item){.id = ack->id,
                                        .error = ack->error,
                                        .existing = ack->existing,
                                        .state = ack->state,
                                        .ack = ack->ack,
                                        .retry_after_ms = ack->retry_after_ms};
}

static struct parcel *make_change(const struct effect *e)
{
    const struct msg_change *from = &e->change;
    struct parcel *p = new_parcel(e, from->tenant.len + from->queue.len);
    if (!p)
        return NULL;
    p->change = *from;
    if (from->tenant.len)
        memcpy(p->text, from->tenant.data, from->tenant.len);
    if (from->queue.len)
        memcpy(p->text + from->tenant.len, from->queue.data, from->queue.len);
    p->change.tenant = span_of(p->text, from->tenant.len);
    p->change.queue = span_of(p->text + from->tenant.len, from->queue.len);
    return p;
}

static struct parcel *make_flat(const struct effect *e, struct blob *event_body)
{
    struct parcel *p = new_parcel(e, 0);
    if (!p)
        return NULL;
    if (e->type == EFFECT_OUTCOME_ACK) {
        p->lease = e->outcome_ack;
        return p;
    }
    p->event = e->event;
    p->body = blob_ref(event_body);
    p->event.bytes = (uint32_t)blob_span(event_body).len;
    return p;
}

enum err parcel_make(const struct effect *e, const struct peer *peer, struct blob *event_body, struct parcel **ret_parcel)
{
    AUTO(parcel_free) struct parcel *p = NULL;
    const struct shown *shown = frame_of(e->type);
    enum err error = ERR_OK;
    if (shown)
        error = make_frame(e, shown, peer, &p);
    else if (e->type == EFFECT_CHANGE)
        p = make_change(e);
    else
        p = make_flat(e, event_body);
    if (error != ERR_OK || !p)
        return error != ERR_OK ? error : ERR_NOMEM;
    if (shown && take_body(e, &p->body) != ERR_OK)
        return ERR_NOMEM;
    if (e->type == EFFECT_ACK)
        fill_ack(p, &e->ack);
    if (e->type == EFFECT_JOB)
        p->lease = (struct rec_lease){e->job.id, e->job.fence};
    p->bytes += blob_span(p->body).len;
    *ret_parcel = TAKE(p);
    return ERR_OK;
}

void parcel_free(struct parcel **parcel)
{
    struct parcel *p = TAKE(*parcel);
    if (!p)
        return;
    list_remove(&p->node);
    blob_free(&p->body);
    free(p);
}

void parcels_drop(struct list *parcels)
{
    for (struct list *node; (node = list_first(parcels));) {
        struct parcel *p = CONTAINER_OF(node, struct parcel, node);
        parcel_free(&p);
    }
}
