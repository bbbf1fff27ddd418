/* One whole HTTP request from its head to its handler and back: routes, ids in paths, queries, media types, idempotency keys
 * and the job of a submit. Whatever comes, the handler answers once or starts one errand that it may start; and an answer is
 * one well-formed reply whose body is JSON. Covers: api/routes.c api/handlers/query.c api/handlers/submit.c api/handlers/jobs.c
 * api/exchange.c */
#include <stdio.h>
#include <stdlib.h>

#include <event2/buffer.h>

#include "api/conn.h"
#include "api/errand.h"
#include "api/handlers/handlers.h"
#include "api/handlers/stats.h"
#include "api/stream.h"

#define FIELDS 32
#define BYTES  4096

/* ---- what lies behind the handlers ---- */

static struct {
    struct evbuffer *answer;
    unsigned answers, errands;
} seen;

struct evbuffer *conn_answer_buffer(struct exchange *x)
{
    return seen.answer;
}
void conn_answered(struct exchange *x, size_t bytes)
{
    seen.answers++;
    assert(bytes == evbuffer_get_length(seen.answer));
}
void conn_break(struct conn *c)
{
    abort();
}
/* Streams begin in stream_open, which is not here. */
void conn_stream(struct exchange *x, const struct iovec *parts, int count, bool now)
{
    abort();
}
void conn_hold(struct exchange *x)
{
    abort();
}
void conn_last(struct exchange *x)
{
    abort();
}
msec server_patience(const struct server *server)
{
    return 1000;
}
const char *server_date(struct server *server)
{
    return "Sun, 06 Nov 1994 08:49:37 GMT";
}

static void check_wait(struct api *api, msec wait_ms)
{
    assert(wait_ms >= 0 && wait_ms <= (msec)api->conf->api.wait_max_ms);
}

static void check_id(struct span id_text)
{
    assert(id_text.len && !memchr(id_text.data, '/', id_text.len));
}

void errand_submit(struct api *api, struct exchange *x, struct span tenant, struct submission **submission, msec wait_ms,
                   const struct job_style *style)
{
    const struct submission *s = *submission;
    seen.errands++;
    check_wait(api, wait_ms);
    assert(style && s->spec.queue.len && s->spec.queue.len <= PROTO_QUEUE_BYTES && s->spec.priority <= 10);
    submission_free(submission);
}
void errand_start(struct api *api, struct exchange *x, struct span tenant, enum errand_goal goal, struct span id_text,
                  msec wait_ms, const struct job_style *style)
{
    seen.errands++;
    check_wait(api, wait_ms);
    check_id(id_text);
    assert(style && goal != ERRAND_SUBMIT && goal != ERRAND_PATCH && (goal == ERRAND_SHOW || wait_ms == 0));
}
void errand_patch(struct api *api, struct exchange *x, struct span tenant, struct span id_text, unsigned priority,
                  msec deadline, const struct job_style *style)
{
    seen.errands++;
    check_id(id_text);
    assert(style && priority <= 10 && deadline >= 0);
}
void stream_open(struct api *api, struct exchange *x, struct span tenant, struct span id_text, const struct position *from,
                 const struct stream_style *style)
{
    char text[POSITION_TEXT_LEN + 1];
    struct position again;
    seen.errands++;
    check_id(id_text);
    position_print(from, text);
    assert(style && position_parse(span_str(text), &again) && position_equal(&again, from));
}
void stats_ask(struct api *api, struct exchange *x, struct span tenant, stats_writer *write)
{
    seen.errands++;
}
uint64_t stats_number(const struct msg_stats_answer *stats, const char *name)
{
    return 0;
}

/* Of a list and a bulk submit: no Redis answers, no broker gives an id. */
const struct ask_broker *ask_broker(const struct ask *ask)
{
    static const struct ask_broker broker = {.known = true};
    return &broker;
}
enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv, size_t argc)
{
    return ERR_CLOSED;
}
enum err errand_name_job(struct api *api, struct span tenant, struct id *ret_id)
{
    return ERR_BROKER;
}

static void answer_plainly(struct api *api, struct exchange *x, const struct visit *visit)
{
    exchange_reply(x, &(struct reply){.status = 200});
}
void handle_livez(struct api *api, struct exchange *x, const struct visit *visit)
{
    answer_plainly(api, x, visit);
}
void handle_readyz(struct api *api, struct exchange *x, const struct visit *visit)
{
    answer_plainly(api, x, visit);
}
void handle_health(struct api *api, struct exchange *x, const struct visit *visit)
{
    answer_plainly(api, x, visit);
}
void handle_stats(struct api *api, struct exchange *x, const struct visit *visit)
{
    answer_plainly(api, x, visit);
}

/* ---- the answer ---- */

static void check_head(const char *head, size_t len)
{
    assert(memcmp(head, "HTTP/1.1 ", 9) == 0);
    for (size_t i = 0; i < len; i++) {
        if (head[i] == '\r' || head[i] == '\n')
            assert(head[i] == '\r' ? head[i + 1] == '\n' : i && head[i - 1] == '\r');
        else
            assert((uint8_t)head[i] >= 0x20 && (uint8_t)head[i] < 0x7f);
    }
}

static void check_json(struct span body, bool lines)
{
    while (body.len) {
        const uint8_t *end = lines ? memchr(body.data, '\n', body.len) : NULL;
        size_t len = end ? (size_t)(end - body.data) + 1 : body.len;
        assert(!json_check(span_of(body.data, len), NULL));
        body = span_of(body.data + len, body.len - len);
    }
}

static void check_answer(bool head_only)
{
    size_t len = evbuffer_get_length(seen.answer);
    const char *text = (const char *)evbuffer_pullup(seen.answer, -1);
    const char *end = len ? memmem(text, len, "\r\n\r\n", 4) : NULL;
    assert(end);
    size_t head = (size_t)(end - text) + 4;
    check_head(text, head);
    const char *length = memmem(text, head, "\r\nContent-Length: ", 18);
    size_t body = length ? strtoul(length + 18, NULL, 10) : 0;
    assert(len - head == (head_only ? 0 : body));
    check_json(span_of(text + head, len - head), memmem(text, head, "x-ndjson", 8));
}

static void serve(const struct http_head *head, struct span body)
{
    static struct conf conf = {.api = {.wait_max_ms = 600000}};
    static struct api api = {.conf = &conf};
    struct conn conn = {0};
    struct exchange x = {.conn = &conn, .request_id = "r", .head_only = head->method == HTTP_HEAD};
    struct request request = {head, head->method, http_span(head, head->path), http_span(head, head->query), body};
    seen.answer = evbuffer_new();
    seen.answers = seen.errands = 0;
    routes_serve(&api, &x, &request);
    assert(seen.answers + seen.errands == 1);
    if (seen.answers)
        check_answer(x.head_only);
    evbuffer_free(seen.answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_field fields[FIELDS];
    struct http_head head;
    bool done = false;
    http_head_start(&head, fields, FIELDS, BYTES);
    if (!http_head_read(&head, span_of(data, size), &done) && done)
        serve(&head, span_of(data + head.bytes, size - head.bytes));
    return 0;
}
