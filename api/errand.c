#include "api/errand.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/find.h"
#include "api/watch.h"
#include "common/clock.h"
#include "common/log.h"

struct errand {
    struct api *api;
    struct exchange *x; /* NULL: answered or gone; freed when no reply of Redis is awaited either */
    enum errand_goal goal;
    const struct job_style *style;
    struct id id;
    struct asked *asked; /* outstanding, or NULL */
    bool reading;        /* a reply of Redis is awaited */
    bool not_live;       /* the broker has said so: Redis's next word is the last … */
    bool doubted;        /* … but for a state found there, which was asked about again */
    bool cancelled;      /* the broker has said so: Redis's word is shown if there is one */
    bool existing;       /* an idempotency key led to a job already there: 200 */
    bool cancel_on_leave;
    bool finishing;      /* waits no longer: the next that is learnt is the answer */
    uint8_t state, ack;  /* of the ACK */
    uint8_t priority;    /* of PATCH */
    msec deadline;       /* likewise */
    struct watch *watch; /* … and in_watch; NULL: not watching */
    struct list in_watch;
    struct list in_waiting; /* in api->waiting from the ACK or the view to the end */
    msec wait_until;        /* loop time; 0: no waiting */
    struct timer *timer;
    size_t tenant_len;
    char tenant[PROTO_TENANT_BYTES];
};

static void look(struct errand *e);

static struct span tenant_of(const struct errand *e)
{
    return span_of(e->tenant, e->tenant_len);
}

/* --- watching --- */

/* ERR_NOMEM. */
static enum err start_watching(struct errand *e)
{
    if (e->watch)
        return ERR_OK;
    e->watch = watch_of(e->api, &e->id);
    if (!e->watch)
        return ERR_NOMEM;
    list_push_back(&e->watch->errands, &e->in_watch);
    return ERR_OK;
}

static void stop_watching(struct errand *e, enum watch_end why)
{
    struct watch *w = TAKE(e->watch);
    if (!w)
        return;
    list_remove(&e->in_watch);
    watch_settle(e->api, w, why);
}

/* --- ends --- */

static void release(struct errand *e)
{
    ask_leave(&e->asked);
    stop_watching(e, WATCH_UNWANTED);
    list_remove(&e->in_waiting);
    timer_free(&e->timer);
    e->x = NULL;
    if (!e->reading)
        free(e);
}

/* Takes the exchange out of the errand, which is gone then. */
static struct exchange *finish(struct errand *e)
{
    struct exchange *x = e->x;
    assert(x); /* an errand ends once */
    x->left = NULL;
    release(e);
    return x;
}

static void fail_with(struct errand *e, const struct fault *fault)
{
    exchange_fail(finish(e), fault);
}

static void fail(struct errand *e, enum err error)
{
    fail_with(e, &(struct fault){.error = error});
}

static void accepted(struct errand *e, unsigned state)
{
    struct json_out out = {0};
    e->style->accepted(&out, &e->id, state, e->ack);
    int status = e->style->accepted_status;
    exchange_reply_json(finish(e), status, &out);
}

/* Cancelled and stored, and its record could not be read: what is certain is said. */
static void cancelled(struct errand *e)
{
    struct json_out out = {0};
    e->style->cancelled(&out, &e->id);
    exchange_reply_json(finish(e), 200, &out);
}

/* Nothing could be learnt. That a submit was accepted, or a job cancelled, stays true all the same. */
static void unknown_with(struct errand *e, const struct fault *fault)
{
    if (e->cancelled)
        cancelled(e);
    else if (e->goal == ERRAND_SUBMIT && e->state && !e->existing)
        accepted(e, e->state);
    else
        fail_with(e, fault);
}

static void unknown(struct errand *e, enum err error)
{
    unknown_with(e, &(struct fault){.error = error});
}

/* Nothing is found anywhere: forgotten if it was ours. */
static void absent(struct errand *e)
{
    if (e->cancelled)
        cancelled(e);
    else if (e->goal == ERRAND_SUBMIT && e->existing)
        fail_with(e, &(struct fault){.error = ERR_FORGOTTEN,
                                     .message = "the job that the idempotency key made has ended, and its record has expired"});
    else
        fail(e, find_absent(&e->id));
}

static void already_ended(struct errand *e, unsigned state)
{
    char message[96];
    snprintf(message, sizeof message, "the job has already ended: it is %s", state_name(state));
    fail_with(e, &(struct fault){.error = ERR_ENDED, .message = state ? message : NULL});
}

/* What it asks for cannot be done to a job that has ended. */
static bool is_for_the_living(const struct errand *e)
{
    return (e->goal == ERRAND_CANCEL && !e->cancelled) || e->goal == ERRAND_PATCH;
}

static void show_ended(struct errand *e, struct span bytes)
{
    struct record *record = &e->api->record;
    struct json_out out = {0};
    enum err error = record_unpack(record, RECORD_ENDED, bytes);
    if (!error && !span_equal(record->ended.spec.tenant, tenant_of(e)))
        error = ERR_NOT_FOUND;
    else if (!error && is_for_the_living(e)) {
        already_ended(e, record->ended.state);
        return;
    } else if (!error) {
        error = e->style->ended(&out, &e->id, &record->ended, record->body);
    }
    if (error) {
        json_out_done(&out);
        unknown(e, error);
        return;
    }
    exchange_reply_json(finish(e), 200, &out);
}

static void show_live(struct errand *e, const struct rec_view *view, struct span display)
{
    if (e->goal == ERRAND_SUBMIT && !e->existing) {
        accepted(e, view->state);
        return;
    }
    struct json_out out = {0};
    e->style->view(&out, &e->id, view, display);
    exchange_reply_json(finish(e), 200, &out);
}

/* --- the broker --- */

static void on_answer(void *owner, enum err error, const struct frame *frame);

static void ask(struct errand *e)
{
    static const enum message messages[] = {
        [ERRAND_SUBMIT] = MESSAGE_ASK,    [ERRAND_SHOW] = MESSAGE_ASK,    [ERRAND_CANCEL] = MESSAGE_CANCEL,
        [ERRAND_FORGET] = MESSAGE_FORGET, [ERRAND_RETRY] = MESSAGE_RETRY,
    };
    bool watch = e->wait_until && !e->finishing;
    enum err error = watch ? start_watching(e) : ERR_OK;
    e->not_live = false;
    if (!error && e->goal == ERRAND_PATCH)
        error = ask_patch(e->api->ask, &e->id, tenant_of(e), e->priority, e->deadline, on_answer, e, &e->asked);
    else if (!error)
        error = ask_job(e->api->ask, messages[e->goal], &e->id, tenant_of(e), watch, on_answer, e, &e->asked);
    if (error)
        unknown(e, error);
}

static void on_time_up(void *arg)
{
    struct errand *e = arg;
    e->finishing = true;
    list_remove(&e->in_waiting);
    if (!e->asked && !e->reading)
        ask(e);
}

/* The job is live and the caller wants its end. */
static void wait_for_end(struct errand *e)
{
    if (!e->timer)
        e->timer = timer_new(e->api->loop, on_time_up, e);
    if (!e->timer) {
        fail(e, ERR_NOMEM);
        return;
    }
    timer_set(e->timer, e->wait_until);
    if (list_empty(&e->in_waiting))
        list_push_back(&e->api->waiting, &e->in_waiting);
}

/* Whether there is time left to wait in. */
static bool still_waits(struct errand *e)
{
    if (e->wait_until && (e->api->stopping || loop_now(e->api->loop) >= e->wait_until))
        e->finishing = true;
    return e->wait_until && !e->finishing;
}

static const char *conflict(enum errand_goal goal)
{
    return goal == ERRAND_FORGET  ? "the job has not ended: cancel it first"
           : goal == ERRAND_RETRY ? "only a job that has failed can be made to run again"
           : goal == ERRAND_PATCH ? "the job runs: only one that waits can be changed"
                                  : NULL;
}

static void on_answer(void *owner, enum err error, const struct frame *frame)
{
    struct errand *e = owner;
    e->asked = NULL;
    if (error) {
        unknown(e, error);
        return;
    }
    const struct msg_answer *a = &frame->answer;
    switch (a->error) {
    case ERR_OK:
        break;
    case ERR_ENDED: /* and stored, or this would not have been said */
        if (e->goal == ERRAND_CANCEL || e->goal == ERRAND_PATCH) {
            already_ended(e, a->view.state);
            return;
        }
        /* fall through */
    case ERR_NOT_LIVE:
        e->not_live = true;
        if (e->goal == ERRAND_FORGET || e->goal == ERRAND_RETRY) /* the broker has looked in the store itself */
            absent(e);
        else
            look(e);
        return;
    case ERR_CONFLICT:
        fail_with(e, &(struct fault){.error = ERR_CONFLICT, .message = conflict(e->goal)});
        return;
    default:
        unknown_with(e, &(struct fault){.error = find_told(a->error), .retry_after_ms = a->retry_after_ms});
        return;
    }
    if (e->goal == ERRAND_FORGET) {
        exchange_reply(finish(e), &(struct reply){.status = 204});
    } else if (e->goal == ERRAND_CANCEL) { /* stored, so the record has it whole */
        e->cancelled = true;
        look(e);
    } else if (still_waits(e))
        wait_for_end(e);
    else
        show_live(e, &a->view, frame->body);
}

/* --- Redis --- */

static void doubt(struct errand *e)
{
    e->doubted = true;
    ask(e);
}

/* The broker holds no such job. A state that is stored all the same is of one that was redriven since, or one that it could not
 * read. */
static void on_state(void *arg, const redisReply *reply)
{
    struct errand *e = arg;
    e->reading = false;
    if (!e->x)
        free(e);
    else if (reply && reply->type == REDIS_REPLY_STRING && e->doubted)
        fail(e, ERR_CORRUPT);
    else if (reply && reply->type == REDIS_REPLY_STRING)
        doubt(e);
    else if (!reply || reply->type != REDIS_REPLY_NIL)
        unknown(e, ERR_STORE);
    else
        absent(e);
}

static void look_at_state(struct errand *e)
{
    enum err error = find_state(e->api, &e->id, on_state, e);
    if (error)
        unknown(e, error);
    else
        e->reading = true;
}

static void on_record(void *arg, const redisReply *reply)
{
    struct errand *e = arg;
    e->reading = false;
    if (!e->x) {
        free(e);
        return;
    }
    if (reply && reply->type == REDIS_REPLY_STRING) {
        show_ended(e, span_of(reply->str, reply->len));
    } else if (!reply || reply->type != REDIS_REPLY_NIL) {
        unknown(e, ERR_STORE);
    } else if (e->cancelled) {
        absent(e);
    } else if (e->not_live) {
        look_at_state(e);
    } else {
        ask(e);
    }
}

static void look(struct errand *e)
{
    enum err error = find_record(e->api, &e->id, on_record, e);
    if (error)
        unknown(e, error);
    else
        e->reading = true;
}

/* --- beginnings --- */

/* The caller has gone, or has closed its sending side and may have. Either way nobody waits for long any more. */
static void on_left(struct exchange *x, bool gone)
{
    struct errand *e = x->owner;
    if (e->wait_until && e->cancel_on_leave) {
        e->cancel_on_leave = false;
        stop_watching(e, WATCH_LEFT);
    }
    if (gone) {
        release(e);
        return;
    }
    e->wait_until = e->wait_until ? loop_now(e->api->loop) : 0;
    if (!list_empty(&e->in_waiting))
        on_time_up(e);
}

static struct errand *new_errand(struct api *api, struct exchange *x, struct span tenant, enum errand_goal goal, msec wait_ms,
                                 const struct job_style *style)
{
    struct errand *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    assert(tenant.len <= sizeof e->tenant);
    *e = (struct errand){.api = api, .x = x, .goal = goal, .style = style, .tenant_len = tenant.len};
    memcpy(e->tenant, tenant.data, tenant.len);
    e->wait_until = wait_ms ? loop_now(api->loop) + wait_ms : 0;
    list_init(&e->in_watch);
    list_init(&e->in_waiting);
    x->left = on_left;
    x->owner = e;
    return e;
}

/* NULL: x was answered. */
static struct errand *begin(struct api *api, struct exchange *x, struct span tenant, enum errand_goal goal, struct span id_text,
                            msec wait_ms, const struct job_style *style)
{
    struct id id;
    enum err error = find_id(api, id_text, tenant, &id);
    struct errand *e = error ? NULL : new_errand(api, x, tenant, goal, wait_ms, style);
    if (e)
        e->id = id;
    else
        exchange_fail_with(x, error ? error : ERR_NOMEM);
    return e;
}

void errand_start(struct api *api, struct exchange *x, struct span tenant, enum errand_goal goal, struct span id_text,
                  msec wait_ms, const struct job_style *style)
{
    struct errand *e = begin(api, x, tenant, goal, id_text, wait_ms, style);
    if (!e)
        return;
    if (goal == ERRAND_SHOW)
        look(e);
    else
        ask(e);
}

void errand_patch(struct api *api, struct exchange *x, struct span tenant, struct span id_text, unsigned priority,
                  msec deadline, const struct job_style *style)
{
    struct errand *e = begin(api, x, tenant, ERRAND_PATCH, id_text, 0, style);
    if (!e)
        return;
    e->priority = (uint8_t)priority;
    e->deadline = deadline;
    ask(e);
}

static void on_ack(void *owner, enum err error, const struct frame *frame)
{
    struct errand *e = owner;
    e->asked = NULL;
    if (error) {
        fail(e, error);
        return;
    }
    const struct msg_ack *ack = &frame->ack;
    if (ack->error) {
        char detail[PROTO_TEXT_BYTES + 1];
        snprintf(detail, sizeof detail, "%.*s", SPAN_ARG(ack->detail));
        fail_with(e, &(struct fault){.error = find_told(ack->error),
                                     .param = find_told_param(ack->error),
                                     .message = detail[0] ? detail : NULL,
                                     .retry_after_ms = ack->retry_after_ms});
        return;
    }
    e->ack = ack->ack;
    if (ack->existing && !id_equal(&ack->id, &e->id)) { /* the key's first job: shown like any other */
        stop_watching(e, WATCH_OVER);
        e->id = ack->id;
        e->existing = true;
        e->cancel_on_leave = false;
    }
    e->state = ack->state ? ack->state : STATE_PENDING;
    if (ack->existing) { /* or sent again: either way it may have ended already */
        look(e);
        return;
    }
    if (still_waits(e))
        wait_for_end(e);
    else
        accepted(e, e->state);
}

enum err errand_name_job(struct api *api, struct span tenant, struct id *ret_id)
{
    const struct ask_broker *broker = ask_broker(api->ask);
    uint64_t random;
    if (!broker->known)
        return ERR_BROKER;
    enum err e = api_random(api, &random);
    if (e)
        return e;
    *ret_id = id_make(clock_wall(), broker->shard, ID_STORED, random, &broker->key, tenant);
    return ERR_OK;
}

void errand_submit(struct api *api, struct exchange *x, struct span tenant, struct submission **submission, msec wait_ms,
                   const struct job_style *style)
{
    struct errand *e = new_errand(api, x, tenant, ERRAND_SUBMIT, wait_ms, style);
    enum err error = e ? errand_name_job(api, tenant, &e->id) : ERR_NOMEM;
    if (!error && wait_ms)
        error = start_watching(e);
    if (!error) {
        e->cancel_on_leave = (*submission)->spec.cancel_on_leave;
        error = ask_submit(api->ask, submission, &e->id, wait_ms > 0, on_ack, e, &e->asked);
    }
    submission_free(submission);
    if (error && e)
        fail(e, error);
    else if (error)
        exchange_fail_with(x, error);
}

/* --- from outside --- */

void errand_event(struct api *api, const struct rec_event *event, struct span body)
{
    if (event->event != EVENT_ENDED)
        return;
    struct watch *w = watch_find(api, &event->id);
    struct list *node = w ? list_first(&w->errands) : NULL;
    while (node) { /* w is gone with its last errand */
        struct errand *e = CONTAINER_OF(node, struct errand, in_watch);
        bool last = list_next(&w->errands, node) == NULL;
        stop_watching(e, WATCH_OVER);
        ask_settle(&e->asked);
        if (body.len)
            show_ended(e, body);
        else if (!e->reading)
            look(e);
        node = last ? NULL : list_first(&w->errands);
    }
}

void errand_session(struct api *api)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &api->waiting) {
        struct errand *e = CONTAINER_OF(node, struct errand, in_waiting);
        if (!e->asked && !e->reading)
            ask(e);
    }
}

void errand_end_waits(struct api *api)
{
    struct list *node;
    api->stopping = true;
    while ((node = list_first(&api->waiting)))
        on_time_up(CONTAINER_OF(node, struct errand, in_waiting)); /* leaves the list */
}
