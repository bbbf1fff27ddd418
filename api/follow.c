/* Jobs that are read here: what is known of each, and who is asked for more. */
#include <stdlib.h>

#include "api/find.h"
#include "api/stream_private.h"

/* The watch may be gone. */
static void lose(struct follow *f)
{
    f->lost = true;
    follow_again(f);
}

void follow_touch(struct follow *f)
{
    if (list_empty(&f->in_dirty))
        list_push_back(&f->api->streams->dirty, &f->in_dirty);
}

/* Another run of the job: tokens of the one before are void, for those who had any. */
static void change_run(struct follow *f, uint32_t run)
{
    struct position before = f->at;
    f->at = (struct position){.run = run};
    f->seen_to = 0;
    for (struct audience *a = f->audiences; a; a = a->next)
        audience_restart(a, &before);
}

/* --- the end --- */

/* Nothing more is asked or heard of the job. */
static void let_go(struct follow *f, enum watch_end why)
{
    struct watch *w = TAKE(f->watch);
    ask_leave(&f->asked);
    list_remove(&f->in_again);
    if (!w)
        return;
    w->follow = NULL;
    watch_settle(f->api, w, why);
}

bool follow_flush(struct follow *f, unsigned *budget)
{
    for (struct audience *a = f->audiences; a; a = a->next)
        if (!audience_give(a, budget))
            return false;
    follow_settle(f, WATCH_OVER);
    return true;
}

static enum err read_record(struct follow *f, struct span bytes, struct ended *ret_ended)
{
    struct record *record = &f->api->record;
    enum err e = record_unpack(record, RECORD_ENDED, bytes);
    if (e)
        return e;
    if (!span_equal(record->ended.spec.tenant, span_of(f->tenant, f->tenant_len)))
        return ERR_NOT_FOUND;
    size_t before = (size_t)record->ended.display_bytes + record->ended.result_bytes;
    if (before > record->body.len || record->ended.log_bytes > record->body.len - before)
        return ERR_CORRUPT;
    *ret_ended = (struct ended){&record->ended, record->body, span_of(record->body.data + before, record->ended.log_bytes)};
    return ERR_OK;
}

/* bytes: the record. */
static void finish(struct follow *f, struct span bytes)
{
    struct ended ended;
    enum err e = read_record(f, bytes, &ended);
    for (struct audience *a = f->audiences; a; a = a->next)
        if (e)
            audience_refuse(a, e);
        else
            audience_finish(a, &ended);
    follow_touch(f);
    let_go(f, WATCH_OVER);
    follow_settle(f, WATCH_OVER);
}

/* Nothing could be learnt, or there is nothing: said to those who wait for a first word. Others keep what they have; `over`:
 * and it ends there. false: nobody is left, and f is gone. */
static bool fail(struct follow *f, const struct fault *fault, bool over)
{
    for (struct audience *a = f->audiences; a; a = a->next) {
        audience_fail(a, fault);
        if (over)
            audience_end_now(a);
    }
    bool left = f->readers;
    follow_settle(f, over ? WATCH_OVER : WATCH_UNWANTED);
    return left;
}

static bool fail_with(struct follow *f, enum err error)
{
    return fail(f, &(struct fault){.error = error}, false);
}

/* --- Redis --- */

static void on_record(void *arg, const redisReply *reply)
{
    struct follow *f = arg;
    f->reading = false;
    if (!f->watch)
        follow_settle(f, WATCH_OVER);
    else if (reply && reply->type == REDIS_REPLY_STRING)
        finish(f, span_of(reply->str, reply->len));
    else if (reply && reply->type == REDIS_REPLY_NIL && !(f->not_live && f->missed)) {
        f->missed = f->not_live;
        follow_ask(f);
    } else if (reply && reply->type == REDIS_REPLY_NIL)
        (void)fail(f, &(struct fault){.error = find_absent(&f->id)}, true);
    else if (fail_with(f, ERR_STORE))
        lose(f);
}

void follow_look(struct follow *f)
{
    if (f->reading)
        return;
    enum err e = find_record(f->api, &f->id, on_record, f);
    f->reading = !e;
    f->asked_at = loop_now(f->api->loop);
    if (e && fail_with(f, e))
        lose(f);
}

/* --- the broker --- */

/* States in their order: a word of an earlier one was overtaken. Within a run a job is processing, then it waits, then it is
 * pending for the next. */
static uint64_t rank(uint32_t run, unsigned state)
{
    return (uint64_t)run * 4 + (state == STATE_PROCESSING ? 1 : state == STATE_RETRYING ? 2 : 3);
}

static bool overtaken(const struct follow *f, uint32_t run, unsigned state)
{
    return rank(run, state) < rank(f->at.run, f->shown.state);
}

static void say_to_all(struct follow *f, void (*say)(struct audience *a))
{
    for (struct audience *a = f->audiences; a; a = a->next)
        say(a);
}

static void show_status(struct follow *f, uint32_t run, const struct stream_status *status)
{
    struct stream_status before = f->shown;
    if (run != f->at.run)
        change_run(f, run);
    f->shown = *status;
    if (status->state != before.state || status->reason != before.reason || status->attempt != before.attempt)
        say_to_all(f, audience_status);
    else if (status->progress > before.progress)
        say_to_all(f, audience_progress);
}

/* From where the one that is farthest behind, of those who can take it, needs the log. *ret_wait: others need it later. */
static uint64_t wanted_from(const struct follow *f, bool *ret_wait)
{
    uint64_t from = f->at.offset;
    struct list *node;
    *ret_wait = false;
    for (const struct audience *a = f->audiences; a; a = a->next)
        LIST_EACH (node, &a->behind) {
            const struct reader *r = CONTAINER_OF(node, struct reader, node);
            if (r->at.run != f->at.run || r->at.offset >= f->at.offset)
                continue;
            if (reader_can_take(r))
                from = MIN(from, r->at.offset);
            else
                *ret_wait = true;
        }
    return from;
}

/* Tokens are there that some have not had. *ret_later: but they cannot take them now. */
static bool is_behind(const struct follow *f, bool *ret_later)
{
    return wanted_from(f, ret_later) < f->at.offset || f->at.offset < f->seen_to;
}

/* What is on its way may arrive, or be left out: looked at again in a while. */
static void look_behind(struct follow *f)
{
    bool later;
    if (is_behind(f, &later) || later)
        follow_again(f);
}

/* The first word of a job: answers begin. */
static void begin(struct follow *f)
{
    enum watch_end why = WATCH_UNWANTED;
    f->known = true;
    for (struct audience *a = f->audiences; a; a = a->next)
        for (struct list *node; (node = list_first(&a->waiting));) {
            struct reader *r = CONTAINER_OF(node, struct reader, node);
            reader_begin(r);
            why = r->left ? WATCH_LEFT : why;
            if (r->brief)
                exchange_end(reader_take_out(r), (struct span){0});
        }
    follow_settle(f, why);
}

static void take_view(struct follow *f, const struct rec_view *v)
{
    struct stream_status status = {v->state, v->reason, v->progress, v->attempt};
    bool renewed = f->renewed;
    f->renewed = false;
    if (!f->known) {
        if (f->at.run != v->run)
            f->at = (struct position){.run = v->run};
        f->shown = status;
        begin(f);
        return;
    }
    if (renewed || !overtaken(f, v->run, v->state))
        show_status(f, v->run, &status);
    look_behind(f);
}

static void on_answer(void *owner, enum err error, const struct frame *frame)
{
    struct follow *f = owner;
    const struct msg_answer *a = error ? NULL : &frame->answer;
    f->asked = NULL;
    if (error) { /* while there is no session, the next one asks again */
        if (fail_with(f, error) && ask_broker(f->api->ask)->up)
            lose(f);
    } else if (a->error == ERR_OK) {
        f->not_live = f->missed = false;
        take_view(f, &a->view);
    } else if (a->error == ERR_ENDED || a->error == ERR_NOT_LIVE) {
        f->not_live = true;
        follow_look(f);
    } else if (fail(f, &(struct fault){.error = find_told(a->error), .retry_after_ms = a->retry_after_ms}, false)) {
        lose(f);
    }
}

void follow_ask(struct follow *f)
{
    struct span tenant = span_of(f->tenant, f->tenant_len);
    bool wait;
    if (f->asked || f->reading)
        return;
    f->lost = false;
    f->asked_at = loop_now(f->api->loop);
    enum err e = ask_watch(f->api->ask, &f->id, tenant, f->at.run, wanted_from(f, &wait), on_answer, f, &f->asked);
    if (e && fail_with(f, e) && ask_broker(f->api->ask)->up)
        lose(f);
}

void follow_catch_up(struct follow *f)
{
    bool later;
    if (f->not_live)
        follow_look(f);
    else if (f->lost || is_behind(f, &later))
        follow_ask(f);
    else if (later) {
        f->asked_at = loop_now(f->api->loop);
        follow_again(f);
    }
}

/* --- events --- */

static void take_tokens(struct follow *f, const struct rec_event *e, struct span lines)
{
    uint64_t from = e->offset, to = e->offset + lines.len;
    if (e->run < f->at.run)
        return;
    if (e->run > f->at.run)
        change_run(f, e->run);
    for (struct audience *a = f->audiences; a; a = a->next)
        audience_tokens(a, e->run, from, lines);
    if (from <= f->at.offset)
        f->at.offset = MAX(f->at.offset, to);
    f->seen_to = MAX(f->seen_to, to);
    for (struct audience *a = f->audiences; a; a = a->next)
        audience_settle(a);
    look_behind(f);
}

void follow_event(struct follow *f, const struct rec_event *e, struct span body)
{
    struct stream_status status = {e->state, e->reason, e->progress, e->attempt};
    if (e->event == EVENT_ENDED && body.len) {
        finish(f, body);
    } else if (e->event == EVENT_ENDED) {
        f->not_live = true;
        follow_look(f);
    } else if (!f->known) {
        return; /* a view is on its way */
    } else if (e->event == EVENT_TOKEN) {
        take_tokens(f, e, body);
    } else if (!overtaken(f, e->run, e->state)) {
        if (e->event == EVENT_STATUS || e->run > f->at.run)
            show_status(f, e->run, &status);
        else if (e->event == EVENT_PROGRESS && status.progress > f->shown.progress) {
            f->shown.progress = status.progress;
            say_to_all(f, audience_progress);
        }
    }
}

/* --- beginning and end --- */

struct follow *follow_of(struct api *api, const struct id *id, struct span tenant, const struct position *from)
{
    struct watch *w = watch_of(api, id);
    if (!w || w->follow)
        return w ? w->follow : NULL;
    struct follow *f = calloc(1, sizeof *f);
    if (!f) {
        watch_settle(api, w, WATCH_OVER);
        return NULL;
    }
    assert(tenant.len <= sizeof f->tenant);
    *f = (struct follow){.api = api, .watch = w, .id = *id, .at = *from, .tenant_len = tenant.len};
    memcpy(f->tenant, tenant.data, tenant.len);
    list_init(&f->in_dirty);
    list_init(&f->in_again);
    w->follow = f;
    return f;
}

struct audience *follow_audience(struct follow *f, const struct stream_style *style)
{
    struct audience *a = f->audiences;
    while (a && a->style != style)
        a = a->next;
    if (a)
        return a;
    a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct audience){.next = f->audiences, .follow = f, .style = style};
    list_init(&a->waiting);
    list_init(&a->live);
    list_init(&a->behind);
    return f->audiences = a;
}

void follow_start(struct follow *f)
{
    if (!f->asked && !f->reading && list_empty(&f->in_again))
        follow_look(f);
}

void follow_settle(struct follow *f, enum watch_end why)
{
    if (f->readers)
        return;
    let_go(f, why);
    list_remove(&f->in_dirty);
    for (struct audience *a = TAKE(f->audiences), *next; a; a = next) {
        next = a->next;
        json_out_done(&a->fresh);
        free(a);
    }
    if (!f->reading)
        free(f);
}
