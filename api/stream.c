/* Readers: how each one's answer begins, goes on and ends. The jobs they read are follow.c's. */
#include "api/stream.h"

#include <stdlib.h>

#include "api/find.h"
#include "api/stream_private.h"

#define AGAIN_MS      200
#define FLUSH_READERS 1024 /* written to in one turn */

static struct streams *streams_of(const struct reader *r)
{
    return r->follow->api->streams;
}

/* --- writing --- */

static void wrote(struct reader *r)
{
    r->wrote_at = loop_now(r->follow->api->loop);
    list_remove(&r->in_silent);
    list_push_back(&streams_of(r)->silent, &r->in_silent);
}

void reader_give(struct reader *r, struct span bytes)
{
    struct streams *s = streams_of(r);
    if (r->cut || !bytes.len)
        return;
    if (r->live && exchange_unsent(r->x) > r->follow->api->conf->api.stream_bytes) {
        r->cut = true;
        s->counts.cut++;
        exchange_cut(r->x);
        return;
    }
    s->counts.writes++;
    wrote(r);
    exchange_write(r->x, bytes);
}

static void on_beat(void *arg)
{
    struct api *api = arg;
    struct streams *s = api->streams;
    msec now = loop_now(api->loop), beat_ms = (msec)api->conf->api.heartbeat_ms;
    struct list *node;
    while ((node = list_first(&s->silent))) {
        struct reader *r = CONTAINER_OF(node, struct reader, in_silent);
        if (r->wrote_at + beat_ms > now) {
            timer_set(s->beat_timer, r->wrote_at + beat_ms);
            return;
        }
        wrote(r);
        if (r->audience->style->beat)
            reader_give(r, span_str(r->audience->style->beat));
    }
}

/* --- beginning --- */

void reader_begin(struct reader *r)
{
    struct follow *f = r->follow;
    struct streams *s = f->api->streams;
    const struct stream_style *style = r->audience->style;
    AUTO(json_out_done) struct json_out out = {0};
    struct position came_from = r->at;
    exchange_stream(r->x, style->type);
    r->begun = true;
    wrote(r);
    if (timer_at(s->beat_timer) == MSEC_NEVER)
        timer_set(s->beat_timer, r->wrote_at + (msec)f->api->conf->api.heartbeat_ms);
    if (r->at.run < f->at.run)
        r->at = (struct position){.run = f->at.run};
    struct stream_place place = {&f->id, r->at};
    if (came_from.run < r->at.run && came_from.offset && style->restarted)
        style->restarted(&out, &place, &(struct position){.run = came_from.run});
    if (style->status)
        style->status(&out, &place, &f->shown);
    reader_give(r, span_of(out.data, out.len));
    r->live = position_equal(&r->at, &f->at);
    r->given = audience_end(r->audience);
    list_remove(&r->node);
    list_push_back(r->live ? &r->audience->live : &r->audience->behind, &r->node);
    if (!r->live)
        follow_again(f);
}

/* --- ends --- */

struct exchange *reader_take_out(struct reader *r)
{
    struct exchange *x = r->x;
    x->left = NULL;
    list_remove(&r->node);
    list_remove(&r->in_silent);
    streams_of(r)->counts.readers--;
    r->follow->readers--;
    free(r);
    return x;
}

/* Ends what the caller will not read on, with what it has had. */
static void end(struct reader *r, enum watch_end why)
{
    struct follow *f = r->follow;
    exchange_end(reader_take_out(r), (struct span){0});
    follow_settle(f, why);
}

/* The caller has left, or may have: who reads events has nothing else to wait for. */
static void on_left(struct exchange *x, bool gone)
{
    struct reader *r = x->owner;
    struct follow *f = r->follow;
    enum watch_end why = r->cut ? WATCH_UNWANTED : WATCH_LEFT;
    if (gone) {
        reader_take_out(r);
        follow_settle(f, why);
    } else if (r->begun) {
        end(r, why);
    } else {
        r->brief = r->left = true; /* what was asked is answered */
    }
}

static struct reader *reader_new(struct follow *f, struct exchange *x, const struct position *from,
                                 const struct stream_style *style)
{
    struct audience *a = follow_audience(f, style);
    struct reader *r = a ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return NULL;
    *r = (struct reader){.follow = f, .audience = a, .x = x, .at = *from};
    r->brief = x->head_only || f->api->server->draining;
    list_init(&r->node);
    list_init(&r->in_silent);
    list_push_back(&a->waiting, &r->node);
    f->readers++;
    f->api->streams->counts.readers++;
    f->api->streams->counts.opened++;
    x->left = on_left;
    x->owner = r;
    return r;
}

void stream_open(struct api *api, struct exchange *x, struct span tenant, struct span id_text, const struct position *from,
                 const struct stream_style *style)
{
    struct id id;
    enum err e = find_id(api, id_text, tenant, &id);
    struct follow *f = e ? NULL : follow_of(api, &id, tenant, from);
    struct reader *r = f ? reader_new(f, x, from, style) : NULL;
    if (!r) {
        if (f)
            follow_settle(f, WATCH_OVER);
        exchange_fail_with(x, e ? e : ERR_NOMEM);
    } else if (f->known) {
        reader_begin(r);
        if (r->brief)
            end(r, r->left ? WATCH_LEFT : WATCH_UNWANTED);
    } else {
        follow_start(f);
    }
}

/* --- from outside --- */

void stream_event(struct api *api, const struct rec_event *event, struct span body)
{
    struct watch *w = watch_find(api, &event->id);
    if (w && w->follow)
        follow_event(w->follow, event, body);
}

void stream_session(struct api *api)
{
    struct watch *w, *after;
    HASH_ITER(hh, api->watches, w, after)
    {
        if (!w->follow)
            continue;
        w->follow->renewed = true;
        follow_ask(w->follow);
    }
}

static void on_again(void *arg)
{
    struct api *api = arg;
    struct list now, *node;
    list_init(&now);
    list_append(&now, &api->streams->again);
    while ((node = list_first(&now))) {
        struct follow *f = CONTAINER_OF(node, struct follow, in_again);
        list_remove(node);
        follow_catch_up(f);
    }
}

void follow_again(struct follow *f)
{
    struct streams *s = f->api->streams;
    msec at = MAX(loop_now(f->api->loop), f->asked_at + AGAIN_MS);
    if (f->asked || f->reading || !list_empty(&f->in_again))
        return;
    list_push_back(&s->again, &f->in_again);
    if (timer_at(s->again_timer) > at)
        timer_set(s->again_timer, at);
}

/* A crowd is served in parts, so that others' requests come in between. */
void stream_flush(struct api *api)
{
    unsigned budget = FLUSH_READERS;
    struct list *dirty = &api->streams->dirty, *node;
    while (budget && (node = list_first(dirty))) {
        list_remove(node);
        if (!follow_flush(CONTAINER_OF(node, struct follow, in_dirty), &budget))
            list_push_back(dirty, node);
    }
    if (!list_empty(dirty))
        loop_again(api->loop);
}

void stream_end_all(struct api *api)
{
    struct watch *w, *after;
    struct list *node;
    HASH_ITER(hh, api->watches, w, after)
    {
        struct follow *f = w->follow;
        for (struct audience *a = f ? f->audiences : NULL; a; a = a->next) {
            audience_end_now(a);
            LIST_EACH (node, &a->waiting)
                CONTAINER_OF(node, struct reader, node)->brief = true;
        }
        if (f)
            follow_settle(f, WATCH_UNWANTED);
    }
}

/* --- beginning and end --- */

enum err streams_open(struct api *api)
{
    struct streams *s = api->streams = calloc(1, sizeof *s);
    if (!s)
        return ERR_NOMEM;
    list_init(&s->dirty);
    list_init(&s->again);
    list_init(&s->silent);
    s->again_timer = timer_new(api->loop, on_again, api);
    s->beat_timer = timer_new(api->loop, on_beat, api);
    return s->again_timer && s->beat_timer ? ERR_OK : ERR_NOMEM;
}

void streams_close(struct api *api)
{
    struct streams *s = TAKE(api->streams);
    if (!s)
        return;
    timer_free(&s->again_timer);
    timer_free(&s->beat_timer);
    free(s);
}

const struct stream_counts *stream_counts(const struct api *api)
{
    return &api->streams->counts;
}
