/* Those who read one job in one style: what they are given. Who is up to date shares what is written, once; who is behind is
 * written to alone. */
#include <stdlib.h>

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

/* --- one event --- */

/* Appends it to `out`, for readers whose position after it is `at`. */
typedef void say(struct json_out *out, const struct audience *a, const struct position *at, const void *what);

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

static void give_alone(struct reader *r, say *say_it, const void *what)
{
    AUTO(json_out_done) struct json_out out = {0};
    say_it(&out, r->audience, &r->at, what);
    reader_give(r, span_of(out.data, out.len));
}

static void tell(struct audience *a, say *say_it, const void *what)
{
    struct list *node;
    if (!list_empty(&a->live)) {
        say_it(&a->fresh, a, &a->follow->at, what);
        follow_touch(a->follow);
    }
    LIST_EACH (node, &a->behind)
        give_alone(CONTAINER_OF(node, struct reader, node), say_it, what);
}

void audience_status(struct audience *a)
{
    tell(a, say_status, &a->follow->shown);
}

void audience_progress(struct audience *a)
{
    tell(a, say_progress, &a->follow->shown);
}

/* --- the log's pieces --- */

bool reader_can_take(const struct reader *r)
{
    return exchange_unsent(r->x) <= r->follow->api->conf->api.stream_bytes / 2;
}

void audience_settle(struct audience *a)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &a->behind) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        if (!position_equal(&r->at, &a->follow->at) || !reader_can_take(r))
            continue;
        r->live = true;
        r->given = audience_end(a);
        list_remove(node);
        list_push_back(&a->live, node);
    }
}

void audience_tokens(struct audience *a, uint32_t run, uint64_t from, struct span lines)
{
    struct follow *f = a->follow;
    uint64_t to = from + lines.len;
    struct list *node;
    if (from <= f->at.offset && to > f->at.offset && !list_empty(&a->live)) {
        say_tokens(&a->fresh, a, run, from, lines, f->at.offset);
        follow_touch(f);
    }
    LIST_EACH (node, &a->behind) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        if (r->at.run != run || from > r->at.offset || to <= r->at.offset || !reader_can_take(r))
            continue;
        AUTO(json_out_done) struct json_out out = {0};
        say_tokens(&out, a, run, from, lines, r->at.offset);
        r->at.offset = to;
        reader_give(r, span_of(out.data, out.len));
    }
}

void audience_restart(struct audience *a, const struct position *before)
{
    struct list *node;
    struct position begun = {.run = before->run};
    if (before->offset && !list_empty(&a->live)) {
        say_restarted(&a->fresh, a, &a->follow->at, &begun);
        follow_touch(a->follow);
    }
    LIST_EACH (node, &a->behind) {
        struct reader *r = CONTAINER_OF(node, struct reader, node);
        struct position old = r->at;
        if (r->at.run == a->follow->at.run)
            continue;
        r->at = a->follow->at;
        begun.run = old.run;
        if (old.offset)
            give_alone(r, say_restarted, &begun);
    }
    audience_settle(a);
}

/* --- the end --- */

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
        exchange_end(x, error || cut ? span_of(NULL, 0) : bytes);
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

bool audience_give(struct audience *a, unsigned *budget)
{
    give_fresh(a, budget);
    struct list *first = list_first(&a->live);
    if (first && (a->over || CONTAINER_OF(first, struct reader, node)->given < audience_end(a)))
        return false;
    a->fresh_at = audience_end(a);
    json_out_done(&a->fresh);
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

void audience_finish(struct audience *a, const struct ended *ended)
{
    finish_others(a, &a->waiting, ended);
    finish_others(a, &a->behind, ended);
    a->over = true;
    if (!list_empty(&a->live))
        a->error = say_rest(&a->fresh, a, a->follow->at, ended);
}

void audience_refuse(struct audience *a, enum err error)
{
    struct list *node;
    while ((node = list_first(&a->waiting)) || (node = list_first(&a->behind)) || (node = list_first(&a->live)))
        finish_reader(CONTAINER_OF(node, struct reader, node), error, (struct span){0});
}

void audience_fail(struct audience *a, const struct fault *fault)
{
    struct list *node;
    while ((node = list_first(&a->waiting)))
        exchange_fail(reader_take_out(CONTAINER_OF(node, struct reader, node)), fault);
}

void audience_end_now(struct audience *a)
{
    struct list *node;
    while ((node = list_first(&a->live)) || (node = list_first(&a->behind)))
        exchange_end(reader_take_out(CONTAINER_OF(node, struct reader, node)), (struct span){0});
}
