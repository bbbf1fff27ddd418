/* The api between a broker and a Redis that a test plays: over a real link and real sockets, in one loop. What is asked is
 * looked at frame by frame, what is answered decides what the caller reads. */
#pragma once

/* a test uses what it needs of it */
#pragma GCC diagnostic ignored "-Wunused-function"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/errand.h"
#include "api/job.h"
#include "api/routes.h"
#include "api/stream.h"
#include "common/clock.h"

#define WAIT_MS  8000
#define SEEN_MAX 256

/* A frame of the api, as far as tests look at it. */
struct seen {
    enum message message;
    uint64_t ref;
    struct id id;
    bool again, watch, left;
    uint32_t run; /* of WATCH */
    uint64_t offset;
    size_t body_len;
    char route[64], tenant[65];
};

struct world {
    struct loop *loop;
    struct conf conf;
    struct api api;
    unsigned port;
    char dir[64], broker_path[128], redis_path[128];
    /* the broker */
    struct wire *wire;
    struct wire_route peer;
    struct frame frame;
    uint64_t epoch;
    struct seen seen[SEEN_MAX];
    unsigned seen_count, seen_used;
    unsigned hellos;
    /* Redis */
    struct evconnlistener *redis;
    struct bufferevent *redis_conn;
    unsigned gets;
    struct blob *stored;  /* what every GET finds; NULL: nothing */
    unsigned stored_from; /* from this GET on */
    /* the test */
    struct timer *watchdog;
    bool (*until)(struct world *w);
    const char *doing;
    struct client *client;
    const char *wanted;
    unsigned count;
};

static const struct id_key tag_key = {{1, 2, 3}};

/* --- the broker --- */

static void tell_with(struct world *w, enum message message, const void *fields, struct span body)
{
    struct frame_buffer header = {0};
    struct blob *blob = blob_copy(body);
    assert_int_equal(frame_encode(message, fields, w->epoch, 0, &header), ERR_OK);
    assert_int_equal(wire_send(w->wire, &w->peer, span_of(header.data, header.len), blob), ERR_OK);
    blob_free(&blob);
    frame_buffer_done(&header);
}

static void tell(struct world *w, enum message message, const void *fields)
{
    tell_with(w, message, fields, (struct span){0});
}

static void welcome(struct world *w)
{
    struct msg_welcome m = {
        .shard = 7, .now = clock_wall(), .heartbeat_ms = 5000, .lease_ms = 15000, .ack = ACK_STORED, .workers = 3};
    memcpy(m.tag_key, tag_key.bytes, sizeof m.tag_key);
    w->hellos++;
    tell(w, MESSAGE_WELCOME, &m);
}

static void copy_text(char *out, size_t size, struct span text)
{
    snprintf(out, size, "%.*s", SPAN_ARG(text));
}

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    struct world *w = arg;
    const char *why = "";
    w->peer = *route;
    if (frame_decode(&w->frame, header, body, ROLE_API, ROLE_BROKER, 0, &why))
        fail_msg("bad frame: %s", why);
    const struct frame *f = &w->frame;
    struct seen s = {.message = f->message, .body_len = f->body.len};
    switch (f->message) {
    case MESSAGE_HELLO:
        welcome(w);
        return;
    case MESSAGE_HEARTBEAT:
        tell(w, MESSAGE_HEARTBEAT_ACK, &(struct msg_heartbeat_ack){.now = clock_wall(), .workers = 3});
        return;
    case MESSAGE_BYE:
        return;
    case MESSAGE_SUBMIT:
        s.ref = f->submit.ref, s.id = f->submit.id, s.again = f->submit.again, s.watch = f->submit.watch;
        copy_text(s.route, sizeof s.route, f->submit.spec.route);
        copy_text(s.tenant, sizeof s.tenant, f->submit.spec.tenant);
        break;
    case MESSAGE_ASK:
        s.ref = f->ask.ref, s.id = f->ask.id, s.watch = f->ask.watch;
        copy_text(s.tenant, sizeof s.tenant, f->ask.tenant);
        break;
    case MESSAGE_WATCH:
        s.ref = f->watch.ref, s.id = f->watch.id, s.run = f->watch.run, s.offset = f->watch.offset;
        assert_true(f->watch.tokens);
        copy_text(s.tenant, sizeof s.tenant, f->watch.tenant);
        break;
    case MESSAGE_CANCEL:
        s.ref = f->cancel.ref, s.id = f->cancel.id;
        break;
    case MESSAGE_FORGET:
        s.ref = f->forget.ref, s.id = f->forget.id;
        break;
    case MESSAGE_STATS:
        s.ref = f->stats.ref;
        break;
    case MESSAGE_UNWATCH:
        s.id = f->unwatch.id, s.left = f->unwatch.left;
        break;
    case MESSAGE_WITHDRAW:
        s.id = f->withdraw.id;
        break;
    default:
        fail_msg("unexpected %s", message_name(f->message));
    }
    assert_true(w->seen_count < SEEN_MAX);
    w->seen[w->seen_count++] = s;
}

static void on_bad(void *arg, const struct wire_route *route, const char *why)
{
    fail_msg("bad message: %s", why);
}

static void open_broker(struct world *w)
{
    struct wire_options o = {.kind = WIRE_ROUTER, .endpoint = w->broker_path, .bind = true};
    w->epoch += 1000;
    assert_int_equal(wire_new(w->loop, &o, (struct wire_hooks){.message = on_message, .bad = on_bad, .arg = w}, &w->wire),
                     ERR_OK);
}

/* --- Redis --- */

static bool take_line(struct evbuffer *in, size_t *at, char *line, size_t size)
{
    struct evbuffer_ptr from, end;
    if (evbuffer_ptr_set(in, &from, *at, EVBUFFER_PTR_SET))
        return false;
    end = evbuffer_search(in, "\r\n", 2, &from);
    if (end.pos < 0 || (size_t)end.pos - *at >= size)
        return false;
    evbuffer_copyout_from(in, &from, line, (size_t)end.pos - *at);
    line[(size_t)end.pos - *at] = '\0';
    *at = (size_t)end.pos + 2;
    return true;
}

/* One command; only its name matters. false: not complete. */
static bool take_command(struct evbuffer *in, char *name, size_t size)
{
    char line[256];
    size_t at = 0;
    if (!take_line(in, &at, line, sizeof line))
        return false;
    int parts = atoi(line + 1);
    for (int i = 0; i < parts; i++)
        if (!take_line(in, &at, line, sizeof line) || !take_line(in, &at, i ? line : name, i ? sizeof line : size))
            return false;
    evbuffer_drain(in, at);
    return true;
}

static void on_redis_read(struct bufferevent *b, void *arg)
{
    struct world *w = arg;
    struct evbuffer *in = bufferevent_get_input(b), *out = bufferevent_get_output(b);
    char name[64];
    while (take_command(in, name, sizeof name)) {
        if (strcmp(name, "GET") != 0) {
            evbuffer_add_printf(out, strcmp(name, "HELLO") == 0 ? "*2\r\n+proto\r\n:2\r\n" : "+OK\r\n");
        } else if (w->stored && ++w->gets >= w->stored_from) {
            evbuffer_add_printf(out, "$%zu\r\n", w->stored->len);
            evbuffer_add(out, w->stored->data, w->stored->len);
            evbuffer_add(out, "\r\n", 2);
        } else {
            w->gets += !w->stored;
            evbuffer_add_printf(out, "$-1\r\n");
        }
    }
}

static void on_redis_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int len, void *arg)
{
    struct world *w = arg;
    w->redis_conn = bufferevent_socket_new(loop_base(w->loop), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(w->redis_conn, on_redis_read, NULL, NULL, w);
    bufferevent_enable(w->redis_conn, EV_READ | EV_WRITE);
}

static void open_redis(struct world *w)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, w->redis_path);
    w->redis = evconnlistener_new_bind(loop_base(w->loop), on_redis_accept, w, LEV_OPT_CLOSE_ON_FREE, 8, (struct sockaddr *)&at,
                                       sizeof at);
    assert_non_null(w->redis);
}

static void close_redis(struct world *w)
{
    if (w->redis)
        evconnlistener_free(TAKE(w->redis));
    if (w->redis_conn)
        bufferevent_free(TAKE(w->redis_conn));
    unlink(w->redis_path);
}

/* --- clients --- */

struct client {
    struct world *world;
    int fd;
    struct event readable;
    char got[65536];
    size_t len;
    bool ended;
    bool counts; /* lines, instead of keeping them */
    unsigned lines;
};

static void on_client(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;
    if (c->counts)
        c->len = 0;
    ssize_t n = read(fd, c->got + c->len, sizeof c->got - 1 - c->len);
    for (ssize_t i = 0; i < n && c->counts; i++)
        c->lines += c->got[i] == '\n';
    if (n <= 0) {
        c->ended = true;
        event_del(&c->readable);
        return;
    }
    c->len += (size_t)n;
    c->got[c->len] = '\0';
}

static struct client *dial(struct world *w)
{
    struct client *c = calloc(1, sizeof *c);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->world = w;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    event_assign(&c->readable, loop_base(w->loop), c->fd, EV_READ | EV_PERSIST, on_client, c);
    event_add(&c->readable, NULL);
    return c;
}

static void hang_up(struct client **c)
{
    if (!(*c)->ended)
        event_del(&(*c)->readable);
    close((*c)->fd);
    free(*c);
    *c = NULL;
}

static void request(struct client *c, const char *method, const char *path, const char *fields, const char *body)
{
    char text[4096];
    int len = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: a\r\n%s%sContent-Length: %zu\r\n\r\n%s", method, path,
                       fields, body[0] ? "Content-Type: application/json\r\n" : "", strlen(body), body);
    c->len = 0;
    c->got[0] = '\0';
    assert_int_equal(send(c->fd, text, (size_t)len, MSG_NOSIGNAL), len);
}

/* --- running --- */

static void turn(void *arg)
{
    struct world *w = arg;
    if (w->api.ask)
        ask_turn(w->api.ask);
    if (w->api.server) {
        server_serve(w->api.server);
        stream_flush(&w->api);
        ask_flush(w->api.ask);
        redis_flush(w->api.redis);
        server_flush(w->api.server);
    }
    if (w->wire)
        wire_turn(w->wire);
    if (!w->until || w->until(w))
        loop_stop(w->loop);
}

static void too_long(void *arg)
{
    struct world *w = arg;
    fail_msg("waited too long for: %s; client has: %s", w->doing, w->client ? w->client->got : "");
}

static void run_until(struct world *w, const char *doing, bool (*until)(struct world *w))
{
    w->until = until;
    w->doing = doing;
    timer_set(w->watchdog, clock_mono() + WAIT_MS);
    loop_run(w->loop);
    timer_set(w->watchdog, MSEC_NEVER);
}

static bool has_frame(struct world *w)
{
    return w->seen_count > w->seen_used;
}

static bool has_session(struct world *w)
{
    return w->hellos >= w->count && ask_broker(w->api.ask)->up;
}

static bool redis_up(struct world *w)
{
    return redis_is_up(w->api.redis);
}

static bool redis_down(struct world *w)
{
    return !redis_is_up(w->api.redis);
}

static bool broker_down(struct world *w)
{
    return !ask_broker(w->api.ask)->up;
}

static bool many_wait(struct world *w)
{
    unsigned n = 0;
    struct list *node;
    LIST_EACH (node, &w->api.waiting)
        n++;
    return n >= w->count;
}

static bool nobody(struct world *w)
{
    return w->api.server->conns_count == 0;
}

static bool has_reply(struct world *w)
{
    const char *end = strstr(w->client->got, "\r\n\r\n"), *length = strstr(w->client->got, "Content-Length: ");
    return end && (!length || strlen(end + 4) >= (size_t)atoi(length + 16));
}

/* Until so many callers wait for a job's end. */
static void expect_waiting(struct world *w, unsigned count)
{
    w->count = count;
    run_until(w, "waiting callers", many_wait);
}

/* The next frame of the api, which must be of that type. */
static struct seen expect_frame(struct world *w, enum message message)
{
    run_until(w, message_name(message), has_frame);
    struct seen s = w->seen[w->seen_used++];
    if (s.message != message)
        fail_msg("%s came instead of %s", message_name(s.message), message_name(message));
    return s;
}

static void expect_no_frame(const struct world *w)
{
    if (w->seen_count != w->seen_used)
        fail_msg("unasked %s", message_name(w->seen[w->seen_used].message));
}

static void expect_reply(struct client *c, int status, const char *part)
{
    c->world->client = c;
    run_until(c->world, part, has_reply);
    c->world->client = NULL;
    if (atoi(c->got + 9) != status || !strstr(c->got, part))
        fail_msg("wanted %d with %s, got: %s", status, part, c->got);
}

/* --- the world --- */

static void serve(void *arg, struct exchange *x, const struct request *r)
{
    struct world *w = arg;
    routes_serve(&w->api, x, r);
}

static void drained(void *arg) {}
static void on_event(void *arg, const struct rec_event *event, struct span body)
{
    struct world *w = arg;
    errand_event(&w->api, event, body);
    stream_event(&w->api, event, body);
}

static void on_session(void *arg)
{
    struct world *w = arg;
    errand_session(&w->api);
    stream_session(&w->api);
}

static void on_redis_up(void *arg) {}
static void on_redis_down(void *arg, const char *reason) {}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct client *first;
    int fd;
    strcpy(w->dir, "/tmp/quern-errand-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->broker_path, sizeof w->broker_path, "ipc://%s/api.sock", w->dir);
    snprintf(w->redis_path, sizeof w->redis_path, "%s/redis.sock", w->dir);
    w->conf.api.connections = 100;
    w->conf.api.head_bytes = 4096;
    w->conf.api.headers = 16;
    w->conf.api.body_bytes = 100000;
    w->conf.api.head_ms = w->conf.api.body_ms = w->conf.api.idle_ms = w->conf.api.write_ms = 60000;
    w->conf.api.pipeline = 4;
    w->conf.api.stream_bytes = 1 << 20;
    w->conf.api.heartbeat_ms = 60000;
    w->conf.api.submit_ms = 3000;
    w->conf.api.wait_max_ms = 60000;
    w->loop = loop_new(turn, w);
    w->watchdog = timer_new(w->loop, too_long, w);
    w->stored_from = 1;
    open_broker(w);
    open_redis(w);
    list_init(&w->api.waiting);
    w->api.conf = &w->conf;
    w->api.loop = w->loop;
    assert_int_equal(streams_open(&w->api), ERR_OK);
    assert_int_equal(server_listen("127.0.0.1", 0, &fd, &w->port), ERR_OK);
    struct link_options link = {.endpoints = w->broker_path, .role = ROLE_API, .name = "test"};
    assert_int_equal(
        ask_new(w->loop, &w->conf, &link, (struct ask_hooks){.event = on_event, .up = on_session, .arg = w}, &w->api.ask),
        ERR_OK);
    struct redis_options redis = {.socket = w->redis_path, .reply_timeout_ms = 2000};
    w->api.redis = redis_new(w->loop, &redis, (struct redis_hooks){on_redis_up, on_redis_down, w});
    assert_non_null(w->api.redis);
    assert_int_equal(server_new(w->loop, fd, &w->conf, (struct server_hooks){serve, drained, w}, &w->api.server), ERR_OK);
    server_open(w->api.server);
    w->count = 1;
    run_until(w, "a session", has_session);
    run_until(w, "Redis", redis_up);
    first = dial(w);
    hang_up(&first);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    server_free(&w->api.server);
    assert_int_equal(stream_counts(&w->api)->readers, 0);
    streams_close(&w->api);
    ask_free(&w->api.ask);
    redis_free(&w->api.redis);
    record_done(&w->api.record);
    assert_null(w->api.watches);
    assert_true(list_empty(&w->api.waiting));
    close_redis(w);
    wire_free(&w->wire);
    blob_free(&w->stored);
    frame_done(&w->frame);
    timer_free(&w->watchdog);
    loop_free(&w->loop);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* --- what brokers and stores say --- */

static void ack(struct world *w, const struct seen *s)
{
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s->ref, .id = s->id, .state = STATE_PENDING, .ack = ACK_STORED});
}

static void answer_live(struct world *w, const struct seen *s, enum state state)
{
    struct msg_answer m = {.ref = s->ref,
                           .id = s->id,
                           .view = {.state = state,
                                    .reason = state == STATE_PENDING ? REASON_READY : 0,
                                    .progress = 10,
                                    .priority = 5,
                                    .queue = span_str("default"),
                                    .created_at = 1767322800123,
                                    .attempt = 1,
                                    .max_attempts = 3}};
    tell_with(w, MESSAGE_ANSWER, &m, span_str("{\"type\":\"chat\",\"tags\":[\"t\"]}"));
}

static void answer_error(struct world *w, const struct seen *s, enum err error, enum state state)
{
    tell(w, MESSAGE_ANSWER,
         &(struct msg_answer){.ref = s->ref, .id = s->id, .error = (uint16_t)error, .view = {.state = state}});
}

/* log: of the run that ended it. */
static struct blob *record_with(const char *tenant, const char *result, uint32_t run, const char *log)
{
    const char display[] = "{\"type\":\"chat\",\"metadata\":{\"a\":1}}";
    struct rec_attempt attempt = {
        .run = 1, .started_at = 1767322801000, .ended_at = 1767322802000, .deployment = span_str("d")};
    struct rec_ended r = {.spec = {.tenant = span_str(tenant), .queue = span_str("q"), .priority = 8, .max_attempts = 3},
                          .state = STATE_COMPLETED,
                          .created_at = 1767322800123,
                          .started_at = 1767322801000,
                          .completed_at = 1767322802000,
                          .run = run,
                          .attempt = 1,
                          .deployment = span_str("d"),
                          .usage = {.input_tokens = 3, .output_tokens = 4, .source = USAGE_PROVIDER},
                          .display_bytes = sizeof display - 1,
                          .result_bytes = (uint32_t)strlen(result),
                          .log_bytes = (uint32_t)strlen(log),
                          .attempts = &attempt,
                          .attempts_count = 1};
    const struct span parts[] = {span_str(display), span_str(result), span_str(log)};
    struct blob *blob;
    assert_int_equal(record_pack(RECORD_ENDED, &r, parts, ARRAY_COUNT(parts), &blob), ERR_OK);
    return blob;
}

static struct blob *record_of(const char *tenant, const char *result)
{
    return record_with(tenant, result, 1, "");
}

static void tell_ended(struct world *w, const struct id *id)
{
    struct blob *record = record_of("default", "{\"content\":\"done\"}");
    struct rec_event item = {
        .id = *id, .event = EVENT_ENDED, .run = 1, .state = STATE_COMPLETED, .bytes = (uint32_t)record->len};
    tell_with(w, MESSAGE_EVENTS, &(struct msg_events){.items = &item, .items_count = 1}, blob_span(record));
    blob_free(&record);
}

static struct id some_id(msec made_at, const char *tenant)
{
    return id_make(made_at, 7, ID_STORED, 42, &tag_key, span_str(tenant));
}

static const char *path_of(const struct id *id, const char *more)
{
    static char path[128];
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    snprintf(path, sizeof path, "/v1/jobs/%s%s", text, more);
    return path;
}
