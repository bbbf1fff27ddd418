/* Jobs that are read here: what is known of each, and who is given what of it. */
#include <stdlib.h>

#include "api/find.h"
#include "api/stream_private.h"

/* --- the log --- */

/* The first offset at or after `from` where a line begins; the length if there is none. */
static size_t line_from(struct span lines, uint64_t from)
{
    if (from == 0 || from >= lines.len)
        return (size_t)MIN(from, (uint64_t)lines.len);
    const uint8_t *end = memchr(lines.data + from - 1, '\n', lines.len - (size_t)from + 1);
    return end ? (size_t)(end - lines.data) + 1 : lines.len;
}

/* Tokens of `lines`, which begin at `base` in the log of that run: those from `from` on. */
static void say_tokens(struct json_out *out, const struct audience *a, uint32_t run, uint64_t base, struct span lines,
                       uint64_t from)
{
    size_t at = line_from(lines, from - base);
    while (at < lines.len && a->style->token) {
        const uint8_t *end = memchr(lines.data + at, '\n', lines.len - at);
        size_t len = end ? (size_t)(end - lines.data) - at : lines.len - at;
        struct stream_place place = {&a->follow->id, {run, base + at + len + 1}};
        a->style->token(out, &place, span_of(lines.data + at, len));
        at += len + 1;
    }
}

/* --- who is given what --- */

/* Appends one event to `out`, for readers whose position after it is `at`. */
typedef void say(struct json_out *out, const struct audience *a, const struct position *at, const void *what);

/* The watch may be gone. */
static void lose(struct follow *f)
{
    f->lost = true;
    follow_again(f);
}

static void touch(struct follow *f)
{
    if (list_empty(&f->in_dirty))
        list_push_back(&f->api->streams->dirty, &f->in_dirty);
}

static void give_alone(struct reader *r, say *say_it, const void *what)
{
    AUTO(json_out_done) struct json_out out = {0};
    say_it(&out, r->audience, &r->at, what);
    reader_give(r, span_of(out.data, out.len));
}

static void tell(struct follow *f, say *say_it, const void *what)
{
    struct list *node;
    for (struct audience *a = f->audiences; a; a = a->next) {
        if (!list_empty(&a->live)) {
            say_it(&a->fresh, a, &f->at, what);
            touch(f);
        }
        LIST_EACH (node, &a->behind)
            give_alone(CONTAINER_OF(node, struct reader, node), say_it, what);
    }
}

static void say_status(struct json_out *out, const struct audience *a, const struct position *at, const void *what)
{
    if (a->style->status)
        a->style->status(out, &(struct stream_place){&a->follow->id, *at}, what);
}

static void say_progress(struct json_out *out, const struct audience *a, const struct position *at, const void *what)
{
    const struct stream_status *status = what;
    if (a->style->progress)
        a->style->progress(out, &(struct stream_place){&a->follow->id, *at}, status->progress);
}

static void say_restarted(struct json_out *out, const struct audience *a, const struct position *at, const void *what)
{
    if (a->style->restarted)
        a->style->restarted(out, &(struct stream_place){&a->follow->id, *at}, what);
}

/* Whether it may be given more of the log: what it does not take would only wait here. */
static bool can_take(const struct reader *r)
{
    return exchange_unsent(r->x) <= r->follow->api->conf->api.stream_bytes / 2;
}

/* Who has caught up is given what comes together with the others. */
static void settle_behind(struct follow *f, struct audience *a)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &a->behind) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        if (!position_equal(&r->at, &f->at) || !can_take(r))
            continue;
        r->live = true;
        r->given = audience_end(a);
        list_remove(node);
        list_push_back(&a->live, node);
    }
}

/* Another run of the job: tokens of the one before are void, for those who had any. */
static void change_run(struct follow *f, uint32_t run)
{
    struct position before = {.run = f->at.run};
    bool had_tokens = f->at.offset;
    struct list *node;
    f->at = (struct position){.run = run};
    f->seen_to = 0;
    for (struct audience *a = f->audiences; a; a = a->next) {
        if (had_tokens && !list_empty(&a->live)) {
            say_restarted(&a->fresh, a, &f->at, &before);
            touch(f);
        }
        LIST_EACH (node, &a->behind) {
            struct reader *r = CONTAINER_OF(node, struct reader, node);
            struct position old = {.run = r->at.run};
            bool had = r->at.offset;
            if (r->at.run == run)
                continue;
            r->at = f->at;
            if (had)
                give_alone(r, say_restarted, &old);
        }
        settle_behind(f, a);
    }
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

struct ended {
    const struct rec_ended *record;
    struct span body, log;
};

/* What a reader at `at` has not had of an ended job. ERR_CORRUPT. */
static enum err say_rest(struct json_out *out, const struct audience *a, struct position at, const struct ended *ended)
{
    uint32_t run = ended->record->run;
    if (at.run != run) {
        struct position before = {.run = at.run};
        bool had_tokens = at.offset;
        at = (struct position){.run = run};
        if (had_tokens)
            say_restarted(out, a, &at, &before);
    }
    say_tokens(out, a, run, 0, ended->log, at.offset);
    at.offset = MAX(at.offset, ended->log.len);
    enum err e = a->style->done(out, &(struct stream_place){&a->follow->id, at}, ended->record, ended->body);
    return e ? e : out->failed ? ERR_NOMEM : ERR_OK;
}

static void finish_reader(struct reader *r, enum err error, struct span bytes)
{
    bool begun = r->begun, cut = r->cut;
    if (!error && !begun)
        exchange_stream(r->x, r->audience->style->type);
    struct exchange *x = reader_take_out(r);
    if (error && begun)
        exchange_cut(x);
    if (error && !begun)
        exchange_fail_with(x, error);
    else
        exchange_end(x, error || cut ? (struct span){0} : bytes);
}

/* What is fresh to all who are live; with the last of it they are finished. Without memory for it they are cut: they come again
 * from where they are. */
static void give_fresh(struct audience *a, unsigned *budget)
{
    uint64_t end = audience_end(a);
    struct list *node;
    while (*budget && (node = list_first(&a->live))) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        if (r->given == end && !a->over)
            break;
        --*budget;
        struct span owed = {0};
        if (r->given < end)
            owed = span_of(a->fresh.data + (r->given - a->fresh_at), (size_t)(end - r->given));
        if (a->over) {
            finish_reader(r, a->error, owed);
            continue;
        }
        r->given = end;
        list_remove(node);
        list_push_back(&a->live, node);
        reader_give(r, owed);
        if (a->fresh.failed)
            exchange_cut(r->x);
    }
}

bool follow_flush(struct follow *f, unsigned *budget)
{
    for (struct audience *a = f->audiences; a; a = a->next) {
        give_fresh(a, budget);
        struct list *first = list_first(&a->live);
        if (first && (a->over || CONTAINER_OF(first, struct reader, node)->given < audience_end(a)))
            return false;
        a->fresh_at = audience_end(a);
        json_out_done(&a->fresh);
    }
    follow_settle(f, WATCH_OVER);
    return true;
}

/* Those who are at one place get the same bytes, made once. */
static void finish_others(struct audience *a, struct list *readers, const struct ended *ended)
{
    AUTO(json_out_done) struct json_out out = {0};
    struct position made_for = {0};
    enum err e = ERR_OK;
    struct list *node;
    while ((node = list_first(readers))) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        if (!out.len || !position_equal(&r->at, &made_for)) {
            out.len = 0;
            made_for = r->at;
            e = say_rest(&out, a, r->at, ended);
        }
        finish_reader(r, e, span_of(out.data, out.len));
    }
}

/* bytes: the record. */
static void finish(struct follow *f, struct span bytes)
{
    struct record *record = &f->api->record;
    enum err e = record_unpack(record, RECORD_ENDED, bytes);
    if (!e && !span_equal(record->ended.spec.tenant, span_of(f->tenant, f->tenant_len)))
        e = ERR_NOT_FOUND;
    struct ended ended = {.record = &record->ended, .body = record->body};
    size_t before = e ? 0 : (size_t)record->ended.display_bytes + record->ended.result_bytes;
    if (!e && (before > ended.body.len || record->ended.log_bytes > ended.body.len - before))
        e = ERR_CORRUPT;
    if (!e)
        ended.log = span_of(ended.body.data + before, record->ended.log_bytes);
    for (struct audience *a = f->audiences; a; a = a->next) {
        struct list *node;
        while (e && ((node = list_first(&a->waiting)) || (node = list_first(&a->behind)) || (node = list_first(&a->live))))
            finish_reader(CONTAINER_OF(node, struct reader, node), e, (struct span){0});
        finish_others(a, &a->waiting, &ended);
        finish_others(a, &a->behind, &ended);
        a->over = true;
        if (!list_empty(&a->live))
            a->error = say_rest(&a->fresh, a, f->at, &ended);
    }
    touch(f);
    let_go(f, WATCH_OVER);
    follow_settle(f, WATCH_OVER);
}

/* Nothing could be learnt, or there is nothing: said to those who wait for a first word. Others keep what they have; `over`:
 * and it ends there. false: nobody is left, and f is gone. */
static bool fail(struct follow *f, const struct fault *fault, bool over)
{
    struct list *node;
    for (struct audience *a = f->audiences; a; a = a->next) {
        while ((node = list_first(&a->waiting)))
            exchange_fail(reader_take_out(CONTAINER_OF(node, struct reader, node)), fault);
        while (over && ((node = list_first(&a->live)) || (node = list_first(&a->behind))))
            exchange_end(reader_take_out(CONTAINER_OF(node, struct reader, node)), (struct span){0});
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
    else if (reply && reply->type == REDIS_REPLY_NIL && !f->not_live)
        follow_ask(f);
    else if (reply && reply->type == REDIS_REPLY_NIL)
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

static void show_status(struct follow *f, uint32_t run, const struct stream_status *status)
{
    struct stream_status before = f->shown;
    if (run != f->at.run)
        change_run(f, run);
    f->shown = *status;
    if (status->state != before.state || status->reason != before.reason || status->attempt != before.attempt)
        tell(f, say_status, &f->shown);
    else if (status->progress > before.progress)
        tell(f, say_progress, &f->shown);
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
            if (can_take(r))
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
        f->not_live = false;
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
    bool gap = from > f->at.offset;
    for (struct audience *a = f->audiences; a; a = a->next) {
        struct list *node;
        if (!gap && to > f->at.offset && !list_empty(&a->live)) {
            say_tokens(&a->fresh, a, e->run, from, lines, f->at.offset);
            touch(f);
        }
        LIST_EACH (node, &a->behind) {
            struct reader *r = CONTAINER_OF(node, struct reader, node);
            if (r->at.run != e->run || from > r->at.offset || to <= r->at.offset || !can_take(r))
                continue;
            AUTO(json_out_done) struct json_out out = {0};
            say_tokens(&out, a, e->run, from, lines, r->at.offset);
            r->at.offset = to;
            reader_give(r, span_of(out.data, out.len));
        }
    }
    if (!gap)
        f->at.offset = MAX(f->at.offset, to);
    f->seen_to = MAX(f->seen_to, to);
    for (struct audience *a = f->audiences; a; a = a->next)
        settle_behind(f, a);
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
            tell(f, say_progress, &f->shown);
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
