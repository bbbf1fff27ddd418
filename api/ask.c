#include "api/ask.h"

#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "common/list.h"
#include "common/log.h"

#define RETRY_MS 10 /* when the link takes no more for the moment */

struct asked {
    struct ask *ask;
    struct list in_all;   /* all that await an answer, in order of their deadlines */
    struct list in_queue; /* all to be sent, in order */
    UT_hash_handle hh;    /* by ref */
    uint64_t ref;
    msec due_at;
    enum message message;
    struct id id;
    bool watch, left; /* left: of UNWATCH */
    bool sent;        /* at least once */
    uint32_t run;     /* of WATCH: from where */
    uint64_t offset;
    uint8_t priority; /* of PATCH */
    msec deadline;
    struct submission *submission;
    ask_on_answer *on_answer;
    void *owner;
    size_t tenant_len;
    char tenant[PROTO_TENANT_BYTES];
};

struct ask {
    struct loop *loop;
    struct ask_hooks hooks;
    struct link *link;
    msec patience_ms; /* api.submit_ms */
    struct ask_broker broker;
    msec down_since;
    uint64_t last_ref;
    struct asked *by_ref;
    struct list all, queue;
    unsigned count;
    size_t body_bytes;
    struct timer *alarm, *retry;
    struct loop_end end;
};

static bool awaits_answer(const struct asked *q)
{
    return q->message != MESSAGE_UNWATCH && q->message != MESSAGE_WITHDRAW;
}

static void free_asked(struct asked *q)
{
    struct ask *ask = q->ask;
    list_remove(&q->in_all);
    list_remove(&q->in_queue);
    if (awaits_answer(q))
        HASH_DEL(ask->by_ref, q);
    if (q->submission)
        ask->body_bytes -= q->submission->body->len;
    submission_free(&q->submission);
    ask->count--;
    free(q);
}

static void answer(struct asked *q, enum err error, const struct frame *frame)
{
    ask_on_answer *on_answer = q->on_answer;
    void *owner = q->owner;
    free_asked(q);
    if (on_answer)
        on_answer(owner, error, frame);
}

/* At the end of its queue. */
static void enqueue(struct asked *q)
{
    list_push_back(&q->ask->queue, &q->in_queue);
    loop_at_end(q->ask->loop, &q->ask->end);
}

/* Says something that has no answer. Without memory it is not said: a withdrawal's caller was told that the outcome is unknown,
 * and a watch ends with its job. */
static void say(struct ask *ask, enum message message, const struct id *id, bool left)
{
    struct asked *q = calloc(1, sizeof *q);
    if (!q)
        return;
    *q = (struct asked){.ask = ask, .message = message, .id = *id, .left = left};
    list_init(&q->in_all);
    list_init(&q->in_queue);
    ask->count++;
    enqueue(q);
}

/* There is no answer. A submit that may have arrived is withdrawn, and nothing more certain can be said of it. */
static void give_up(struct asked *q, enum err error)
{
    bool unknown = q->submission && q->sent;
    if (unknown)
        say(q->ask, MESSAGE_WITHDRAW, &q->id, false);
    answer(q, unknown ? ERR_OUTCOME_UNKNOWN : error, NULL);
}

/* --- sending --- */

static enum err send_asked(struct asked *q)
{
    struct ask *ask = q->ask;
    struct span tenant = span_of(q->tenant, q->tenant_len);
    const struct submission *s = q->submission;
    switch (q->message) {
    case MESSAGE_SUBMIT:
        return link_send(ask->link, MESSAGE_SUBMIT,
                         &(struct msg_submit){.ref = q->ref,
                                              .id = q->id,
                                              .again = q->sent,
                                              .watch = q->watch,
                                              .spec = s->spec,
                                              .idem = span_of(s->idem, s->keyed ? sizeof s->idem : 0),
                                              .body_hash = span_of(s->body_hash, s->keyed ? sizeof s->body_hash : 0)},
                         s->body);
    case MESSAGE_ASK:
        return link_send(ask->link, MESSAGE_ASK,
                         &(struct msg_ask){.ref = q->ref, .id = q->id, .tenant = tenant, .watch = q->watch}, NULL);
    case MESSAGE_WATCH:
        return link_send(ask->link, MESSAGE_WATCH,
                         &(struct msg_watch){
                             .ref = q->ref, .id = q->id, .tenant = tenant, .tokens = true, .run = q->run, .offset = q->offset},
                         NULL);
    case MESSAGE_CANCEL:
        return link_send(ask->link, MESSAGE_CANCEL, &(struct msg_cancel){.ref = q->ref, .id = q->id, .tenant = tenant}, NULL);
    case MESSAGE_RETRY:
        return link_send(ask->link, MESSAGE_RETRY, &(struct msg_retry){.ref = q->ref, .id = q->id, .tenant = tenant}, NULL);
    case MESSAGE_PATCH: {
        struct msg_patch patch = {
            .ref = q->ref, .id = q->id, .tenant = tenant, .priority = q->priority, .deadline = q->deadline};
        return link_send(ask->link, MESSAGE_PATCH, &patch, NULL);
    }
    case MESSAGE_FORGET:
        return link_send(ask->link, MESSAGE_FORGET, &(struct msg_forget){.ref = q->ref, .id = q->id, .tenant = tenant}, NULL);
    case MESSAGE_STATS:
        return link_send(ask->link, MESSAGE_STATS, &(struct msg_stats){.ref = q->ref, .tenant = tenant}, NULL);
    case MESSAGE_UNWATCH:
        return link_send(ask->link, MESSAGE_UNWATCH, &(struct msg_unwatch){.id = q->id, .left = q->left}, NULL);
    default:
        assert(q->message == MESSAGE_WITHDRAW);
        return link_send(ask->link, MESSAGE_WITHDRAW, &(struct msg_withdraw){.id = q->id}, NULL);
    }
}

void ask_flush(struct ask *ask)
{
    struct list *node;
    while (link_is_up(ask->link) && (node = list_first(&ask->queue))) {
        struct asked *q = CONTAINER_OF(node, struct asked, in_queue);
        enum err e = send_asked(q);
        if (e == ERR_CLOSED || e == ERR_WOULD_BLOCK || e == ERR_UNREACHABLE) {
            timer_set(ask->retry, loop_now(ask->loop) + RETRY_MS);
            return;
        }
        list_remove(&q->in_queue);
        q->sent = q->sent || !e;
        if (!awaits_answer(q))
            free_asked(q);
        else if (e)
            give_up(q, e == ERR_NOMEM ? ERR_NOMEM : ERR_LIMIT);
    }
}

static void flush_end(void *arg)
{
    ask_flush(arg);
}

static void on_retry(void *arg)
{
    ask_flush(arg);
}

void ask_unwatch(struct ask *ask, const struct id *id, bool left)
{
    if (ask->broker.up || left) /* a new session starts without watches, but a job to be cancelled may be there */
        say(ask, MESSAGE_UNWATCH, id, left);
}

/* --- asking --- */

static enum err check_room(const struct ask *ask, size_t body_bytes)
{
    if (!ask->broker.up && loop_now(ask->loop) - ask->down_since > ASK_PATIENCE_MS)
        return ERR_BROKER;
    if (ask->count >= ASK_MAX || body_bytes > ASK_BODY_BYTES - MIN(ask->body_bytes, ASK_BODY_BYTES))
        return ERR_OVERLOADED;
    return ERR_OK;
}

static enum err ask_anything(struct ask *ask, const struct asked *like, struct span tenant, struct submission **submission,
                             struct asked **ret_asked)
{
    size_t body_bytes = submission ? (*submission)->body->len : 0;
    enum err e = check_room(ask, body_bytes);
    struct asked *q = e ? NULL : malloc(sizeof *q);
    if (!q)
        return e ? e : ERR_NOMEM;
    assert(tenant.len <= sizeof q->tenant);
    *q = *like;
    q->ask = ask;
    q->ref = ++ask->last_ref;
    q->due_at = loop_now(ask->loop) + ask->patience_ms;
    q->tenant_len = tenant.len;
    if (tenant.len)
        memcpy(q->tenant, tenant.data, tenant.len);
    if (submission)
        q->submission = TAKE(*submission);
    list_init(&q->in_all);
    list_init(&q->in_queue);
    HASH_ADD(hh, ask->by_ref, ref, sizeof q->ref, q);
    if (!q->hh.tbl) { /* no memory for the map */
        submission_free(&q->submission);
        free(q);
        return ERR_NOMEM;
    }
    ask->body_bytes += body_bytes;
    ask->count++;
    if (list_empty(&ask->all))
        timer_set(ask->alarm, q->due_at);
    list_push_back(&ask->all, &q->in_all);
    enqueue(q);
    *ret_asked = q;
    return ERR_OK;
}

enum err ask_submit(struct ask *ask, struct submission **submission, const struct id *id, bool watch, ask_on_answer *on_answer,
                    void *owner, struct asked **ret_asked)
{
    struct asked like = {.message = MESSAGE_SUBMIT, .id = *id, .watch = watch, .on_answer = on_answer, .owner = owner};
    enum err e = ask_anything(ask, &like, (struct span){0}, submission, ret_asked);
    submission_free(submission);
    return e;
}

enum err ask_job(struct ask *ask, enum message message, const struct id *id, struct span tenant, bool watch,
                 ask_on_answer *on_answer, void *owner, struct asked **ret_asked)
{
    struct asked like = {.message = message, .id = *id, .watch = watch, .on_answer = on_answer, .owner = owner};
    return ask_anything(ask, &like, tenant, NULL, ret_asked);
}

enum err ask_patch(struct ask *ask, const struct id *id, struct span tenant, unsigned priority, msec deadline,
                   ask_on_answer *on_answer, void *owner, struct asked **ret_asked)
{
    struct asked like = {.message = MESSAGE_PATCH,
                         .id = *id,
                         .priority = (uint8_t)priority,
                         .deadline = deadline,
                         .on_answer = on_answer,
                         .owner = owner};
    return ask_anything(ask, &like, tenant, NULL, ret_asked);
}

enum err ask_watch(struct ask *ask, const struct id *id, struct span tenant, uint32_t run, uint64_t offset,
                   ask_on_answer *on_answer, void *owner, struct asked **ret_asked)
{
    struct asked like = {
        .message = MESSAGE_WATCH, .id = *id, .run = run, .offset = offset, .on_answer = on_answer, .owner = owner};
    return ask_anything(ask, &like, tenant, NULL, ret_asked);
}

enum err ask_stats(struct ask *ask, struct span tenant, ask_on_answer *on_answer, void *owner, struct asked **ret_asked)
{
    struct asked like = {.message = MESSAGE_STATS, .on_answer = on_answer, .owner = owner};
    return ask_anything(ask, &like, tenant, NULL, ret_asked);
}

void ask_leave(struct asked **asked)
{
    struct asked *q = TAKE(*asked);
    if (!q)
        return;
    q->on_answer = NULL;
    if (!q->submission)
        free_asked(q); /* the answer will find nobody */
}

void ask_settle(struct asked **asked)
{
    struct asked *q = TAKE(*asked);
    if (q)
        free_asked(q);
}

/* --- deadlines --- */

static void on_alarm(void *arg)
{
    struct ask *ask = arg;
    msec now = loop_now(ask->loop);
    struct list *node;
    while ((node = list_first(&ask->all))) {
        struct asked *q = CONTAINER_OF(node, struct asked, in_all);
        if (q->due_at > now) {
            timer_set(ask->alarm, q->due_at);
            return;
        }
        give_up(q, ERR_BROKER);
    }
}

/* --- hearing --- */

static void on_up(void *arg, const struct msg_welcome *welcome, bool new_epoch)
{
    struct ask *ask = arg;
    struct ask_broker *b = &ask->broker;
    *b = (struct ask_broker){.up = true,
                             .known = true,
                             .heard_at = loop_now(ask->loop),
                             .heartbeat_ms = welcome->heartbeat_ms,
                             .stalled = welcome->stalled,
                             .workers = welcome->workers,
                             .shard = welcome->shard,
                             .has_key_before = welcome->tag_key_before.len == ID_KEY_BYTES};
    memcpy(b->key.bytes, welcome->tag_key, ID_KEY_BYTES);
    if (b->has_key_before)
        memcpy(b->key_before.bytes, welcome->tag_key_before.data, ID_KEY_BYTES);

    /* what was sent in the session before may be lost: all of it again, in the order it was first asked */
    struct list *node, *after, later;
    list_init(&later);
    list_append(&later, &ask->queue);
    LIST_EACH (node, &ask->all) {
        struct asked *q = CONTAINER_OF(node, struct asked, in_all);
        list_remove(&q->in_queue);
        list_push_back(&ask->queue, &q->in_queue);
    }
    LIST_EACH_SAFE (node, after, &later) { /* notes; watches of the old session are gone with it */
        struct asked *q = CONTAINER_OF(node, struct asked, in_queue);
        if (q->message == MESSAGE_UNWATCH && !q->left)
            free_asked(q);
    }
    list_append(&ask->queue, &later);
    loop_at_end(ask->loop, &ask->end);
    ask->hooks.up(ask->hooks.arg);
}

static void on_down(void *arg)
{
    struct ask *ask = arg;
    ask->broker.up = false;
    ask->down_since = loop_now(ask->loop);
}

static void on_heartbeat(void *arg, struct msg_heartbeat *heartbeat)
{
    struct ask *ask = arg;
    if (ask->hooks.counters)
        heartbeat->counters_count = ask->hooks.counters(ask->hooks.arg, &heartbeat->counters);
}

static enum message answer_to(enum message question)
{
    return question == MESSAGE_SUBMIT ? MESSAGE_ACK : question == MESSAGE_STATS ? MESSAGE_STATS_ANSWER : MESSAGE_ANSWER;
}

static void take_answer(struct ask *ask, uint64_t ref, const struct frame *frame)
{
    struct asked *q = NULL;
    HASH_FIND(hh, ask->by_ref, &ref, sizeof ref, q);
    if (q && frame->message != answer_to(q->message))
        log_event(LOG_FRAME_BAD, "message=%s why=%s", message_name(frame->message),
                  log_str(span_str("it answers another question than was asked")));
    else if (q)
        answer(q, ERR_OK, frame);
}

static void take_events(struct ask *ask, const struct frame *frame)
{
    size_t at = 0;
    for (uint32_t i = 0; i < frame->events.items_count; i++) {
        const struct rec_event *event = &frame->events.items[i];
        if (event->bytes > frame->body.len - at) {
            log_event(LOG_FRAME_BAD, "message=events why=%s", log_str(span_str("the body is shorter than its events")));
            return;
        }
        ask->hooks.event(ask->hooks.arg, event, span_of(frame->body.data + at, event->bytes));
        at += event->bytes;
    }
}

static void reload(struct ask *ask, uint64_t revision)
{
    enum err e = ask->hooks.reload ? ask->hooks.reload(ask->hooks.arg) : ERR_OK;
    struct msg_reloaded said = {.revision = revision, .error = (uint16_t)e};
    if (e)
        said.detail = span_str("the settings on this host are refused; its log says why");
    (void)!link_send(ask->link, MESSAGE_RELOADED, &said, NULL); /* a broker that is gone asks again when it is back */
}

static void on_frame(void *arg, const struct frame *frame)
{
    struct ask *ask = arg;
    switch (frame->message) {
    case MESSAGE_ACK:
        take_answer(ask, frame->ack.ref, frame);
        break;
    case MESSAGE_ANSWER:
        take_answer(ask, frame->answer.ref, frame);
        break;
    case MESSAGE_STATS_ANSWER:
        take_answer(ask, frame->stats_answer.ref, frame);
        break;
    case MESSAGE_EVENTS:
        take_events(ask, frame);
        break;
    case MESSAGE_HEARTBEAT_ACK:
        ask->broker.stalled = frame->heartbeat_ack.stalled;
        ask->broker.workers = frame->heartbeat_ack.workers;
        break;
    case MESSAGE_RELOAD:
        reload(ask, frame->reload.revision);
        break;
    default:
        break; /* DRAIN: what follows is a new session */
    }
}

unsigned ask_count(const struct ask *ask)
{
    return ask->count;
}

void ask_turn(struct ask *ask)
{
    link_turn(ask->link);
}

const struct ask_broker *ask_broker(const struct ask *ask)
{
    struct ask_broker *b = &((struct ask *)ask)->broker;
    b->heard_at = MAX(b->heard_at, link_heard_at(ask->link));
    return b;
}

/* --- beginning and end --- */

enum err ask_new(struct loop *loop, const struct conf *conf, const struct link_options *options, struct ask_hooks hooks,
                 struct ask **ret_ask)
{
    AUTO(ask_free) struct ask *ask = calloc(1, sizeof *ask);
    if (!ask)
        return ERR_NOMEM;
    *ask = (struct ask){.loop = loop, .hooks = hooks, .patience_ms = (msec)conf->api.submit_ms, .down_since = loop_now(loop)};
    list_init(&ask->all);
    list_init(&ask->queue);
    loop_end_init(&ask->end, flush_end, ask);
    ask->alarm = timer_new(loop, on_alarm, ask);
    ask->retry = timer_new(loop, on_retry, ask);
    if (!ask->alarm || !ask->retry)
        return ERR_NOMEM;
    struct link_hooks link_hooks = {.heartbeat = on_heartbeat, .up = on_up, .down = on_down, .frame = on_frame, .arg = ask};
    enum err e = link_new(loop, options, link_hooks, &ask->link);
    if (e)
        return e;
    *ret_ask = TAKE(ask);
    return ERR_OK;
}

void ask_free(struct ask **ask_ptr)
{
    struct ask *ask = TAKE(*ask_ptr);
    struct list *node;
    if (!ask)
        return;
    link_free(&ask->link);
    while ((node = list_first(&ask->all)))
        free_asked(CONTAINER_OF(node, struct asked, in_all));
    while ((node = list_first(&ask->queue)))
        free_asked(CONTAINER_OF(node, struct asked, in_queue));
    loop_end_cancel(&ask->end);
    timer_free(&ask->alarm);
    timer_free(&ask->retry);
    free(ask);
}
