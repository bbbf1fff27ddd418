/* The paths that begin with "/_": see control.h. */
#include "tests/upstream/control.h"

#include "common/list.h"
#include "tests/upstream/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS_MAX (10 * 60 * 1000)

struct controls {
    struct upstream *upstream;
    struct list waiters; /* owned by themselves, or by their connection's end */
};

/* What GET /_calls asks for. */
struct question {
    int64_t since, limit, open, wait_ms, min, arrived;
};

struct waiter {
    struct list node;
    struct upstream *upstream;
    struct conn *conn;
    struct question question;
    bool keep_alive;
};

struct controls *controls_new(struct upstream *u)
{
    struct controls *c = must_alloc(sizeof *c);
    c->upstream = u;
    list_init(&c->waiters);
    return c;
}

void controls_free(struct controls **c)
{
    free(*c);
    *c = NULL;
}

static void answer(struct conn *c, int status, const struct bytes *body, bool keep_alive)
{
    struct bytes *out = conn_out(c);
    http_head(out, status);
    http_add(out, "content-type", "application/json");
    http_add_number(out, "content-length", (int64_t)bytes_left(body));
    if (!keep_alive)
        http_add(out, "connection", "close");
    http_head_end(out);
    bytes_add(out, bytes_at(body), bytes_left(body));
    conn_finish(c, keep_alive);
}

static struct bytes *fresh_piece(struct upstream *u)
{
    bytes_clear(&u->piece);
    return &u->piece;
}

static void complain(struct upstream *u, struct conn *c, int status, const char *why, bool keep_alive)
{
    struct bytes *body = fresh_piece(u);
    bytes_puts(body, "{\"error\":{\"message\":");
    bytes_string(body, why);
    bytes_puts(body, ",\"type\":\"control_error\"}}\n");
    answer(c, status, body, keep_alive);
}

/* --- calls, and waiting for them ---------------------------------------------------------------- */

/* since=5&wait_ms=1000; false: an unknown name or no number. */
static bool read_question(struct question *w, const char *p, size_t len)
{
    const struct {
        const char *name;
        int64_t *into;
    } names[] = {
        {"since", &w->since},     {"limit", &w->limit}, {"open", &w->open},
        {"wait_ms", &w->wait_ms}, {"min", &w->min},     {"arrived", &w->arrived},
    };
    char text[256], *rest = text, *pair;
    if (len >= sizeof text)
        return false;
    snprintf(text, sizeof text, "%.*s", (int)len, p ? p : "");
    while ((pair = strsep(&rest, "&"))) {
        char *value = strchr(pair, '='), *end;
        size_t i = 0;
        if (!*pair)
            continue;
        if (!value)
            return false;
        *value++ = '\0';
        while (i < ARRAY_COUNT(names) && strcmp(names[i].name, pair) != 0)
            i++;
        if (i == ARRAY_COUNT(names))
            return false;
        *names[i].into = strtoll(value, &end, 10);
        if (*end || end == value || *names[i].into < 0)
            return false;
    }
    return true;
}

static bool has_happened(const struct upstream *u, const struct question *w)
{
    const struct calls_stats *s = calls_stats(u->calls);
    if (w->arrived)
        return s->arrived >= (uint64_t)w->arrived;
    return s->ended >= (uint64_t)w->since + (uint64_t)w->min;
}

static void say_calls(struct upstream *u, struct conn *c, const struct question *w, bool keep_alive)
{
    struct bytes *body = fresh_piece(u);
    calls_print(u->calls, body, (uint64_t)w->since, (uint64_t)w->limit, w->open);
    answer(c, 200, body, keep_alive);
}

static void waiter_free(struct waiter *w)
{
    list_remove(&w->node);
    free(w);
}

static void waiter_answer(void *arg)
{
    struct waiter *w = arg, copy = *w;
    waiter_free(w);
    say_calls(copy.upstream, copy.conn, &copy.question, copy.keep_alive);
}

static void waiter_gone(void *arg)
{
    waiter_free(arg);
}

static void waiter_drained(void *arg)
{
    (void)arg; /* nothing was said yet */
}

static void wait_for_calls(struct upstream *u, struct conn *c, const struct question *question, bool keep_alive)
{
    static const struct conn_user user = {.drained = waiter_drained, .woken = waiter_answer, .gone = waiter_gone};
    struct waiter *w = must_alloc(sizeof *w);
    *w = (struct waiter){.upstream = u, .conn = c, .question = *question, .keep_alive = keep_alive};
    list_init(&w->node);
    list_push_back(&u->controls->waiters, &w->node);
    conn_take(c, &user, w);
    conn_wake_after(c, MIN(question->wait_ms, WAIT_MS_MAX) * 1000);
}

void controls_turn(struct controls *c)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &c->waiters) {
        struct waiter *w = CONTAINER_OF(node, struct waiter, node);
        if (has_happened(c->upstream, &w->question))
            waiter_answer(w);
    }
}

static void get_calls(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    struct question w = {.limit = INT64_MAX, .min = 1};
    if (!read_question(&w, http_text(in, q->query), q->query.len))
        complain(u, c, 400, "unknown or unreadable query", q->keep_alive);
    else if (!w.wait_ms || has_happened(u, &w))
        say_calls(u, c, &w, q->keep_alive);
    else
        wait_for_calls(u, c, &w, q->keep_alive);
}

/* --- script, stats, reset ----------------------------------------------------------------------- */

static void get_script(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    struct bytes *body = fresh_piece(u);
    script_print(&u->script, body);
    answer(c, 200, body, q->keep_alive);
}

static void post_script(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    struct script script;
    struct complaint why;
    script_init(&script);
    if (!script_read_json(&script, bytes_at(in) + q->body_at, q->body_len, &why))
        return complain(u, c, 400, why.text, q->keep_alive);
    u->script = script;
    get_script(u, c, q, in);
}

static void post_reset(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    calls_reset(u->calls);
    firsts_clear(u->firsts);
    script_init(&u->script);
    get_script(u, c, q, in);
}

static void add_count(struct bytes *out, const char **comma, const char *name, uint64_t n)
{
    if (!n)
        return;
    bytes_printf(out, "%s\"%s\":%llu", *comma, name, (unsigned long long)n);
    *comma = ",";
}

static void add_counts(struct bytes *out, const struct calls_stats *s)
{
    const char *comma = "";
    char status[8];
    bytes_puts(out, ",\"by_status\":{");
    for (int i = 0; i < (int)ARRAY_COUNT(s->by_status); i++) {
        snprintf(status, sizeof status, "%d", i);
        add_count(out, &comma, i ? status : "none", s->by_status[i]);
    }
    bytes_puts(out, "},\"by_fault\":{");
    comma = "";
    for (int i = 0; i < FAULT_COUNT; i++)
        add_count(out, &comma, fault_by_id((enum fault_id)i)->name, s->by_fault[i]);
    bytes_puts(out, "},\"by_ended\":{");
    comma = "";
    for (int i = 0; i < ENDED_COUNT; i++)
        add_count(out, &comma, ended_name((enum ended)i), s->by_ended[i]);
    bytes_puts(out, "}");
}

static void get_stats(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    const struct calls_stats *s = calls_stats(u->calls);
    const struct server_stats *v = server_stats(u->server);
    const struct {
        const char *name;
        uint64_t n;
    } rows[] = {
        {"arrived", s->arrived},
        {"ended", s->ended},
        {"in_flight", s->in_flight},
        {"peak_in_flight", s->peak_in_flight},
        {"bytes_sent", s->bytes_sent},
        {"tokens_sent", (uint64_t)s->tokens_sent},
        {"connections", v->connections},
        {"peak_connections", v->peak_connections},
        {"accepted", v->accepted},
        {"refused_requests", v->refused},
        {"incomplete_requests", v->incomplete},
    };
    struct bytes *body = fresh_piece(u);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        bytes_printf(body, "%s\"%s\":%llu", i ? "," : "{", rows[i].name, (unsigned long long)rows[i].n);
    add_counts(body, s);
    bytes_puts(body, "}\n");
    answer(c, 200, body, q->keep_alive);
}

static const struct {
    const char *method, *path;
    void (*handle)(struct upstream *, struct conn *, const struct http_request *, const struct bytes *in);
} routes[] = {
    {"GET", "/_script", get_script}, {"POST", "/_script", post_script}, {"GET", "/_calls", get_calls},
    {"GET", "/_stats", get_stats},   {"POST", "/_reset", post_reset},
};

void control_start(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    for (size_t i = 0; i < ARRAY_COUNT(routes); i++)
        if (http_is(in, q->path, routes[i].path) && http_is(in, q->method, routes[i].method))
            return routes[i].handle(u, c, q, in);
    complain(u, c, 404, "no such control path or method", q->keep_alive);
}
