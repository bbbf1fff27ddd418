/* The api between a broker and a Redis that this test plays: over a real link and real sockets, in one loop. What is asked is
 * looked at frame by frame, what is answered decides what the caller reads. */
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
#include "api/routes.h"
#include "common/clock.h"

#define WAIT_MS  8000
#define SEEN_MAX 256

/* A frame of the api, as far as tests look at it. */
struct seen {
    enum message message;
    uint64_t ref;
    struct id id;
    bool again, watch, left;
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
};

static void on_client(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;
    ssize_t n = read(fd, c->got + c->len, sizeof c->got - 1 - c->len);
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
}

static void on_session(void *arg)
{
    struct world *w = arg;
    errand_session(&w->api);
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

static struct blob *record_of(const char *tenant, const char *result)
{
    const char display[] = "{\"type\":\"chat\",\"metadata\":{\"a\":1}}";
    struct rec_attempt attempt = {
        .run = 1, .started_at = 1767322801000, .ended_at = 1767322802000, .deployment = span_str("d")};
    struct rec_ended r = {.spec = {.tenant = span_str(tenant), .queue = span_str("q"), .priority = 8, .max_attempts = 3},
                          .state = STATE_COMPLETED,
                          .created_at = 1767322800123,
                          .started_at = 1767322801000,
                          .completed_at = 1767322802000,
                          .run = 1,
                          .attempt = 1,
                          .deployment = span_str("d"),
                          .usage = {.input_tokens = 3, .output_tokens = 4, .source = USAGE_PROVIDER},
                          .display_bytes = sizeof display - 1,
                          .result_bytes = (uint32_t)strlen(result),
                          .attempts = &attempt,
                          .attempts_count = 1};
    const struct span parts[] = {span_str(display), span_str(result)};
    struct blob *blob;
    assert_int_equal(record_pack(RECORD_ENDED, &r, parts, 2, &blob), ERR_OK);
    return blob;
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

/* --- submit --- */

static void test_submit(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\",\"model\":\"m\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_false(s.again || s.watch);
    assert_string_equal(s.route, "m");
    assert_string_equal(s.tenant, "default");
    assert_true(id_belongs(&s.id, &tag_key, span_str("default")));
    assert_int_equal(id_shard(&s.id), 7);
    ack(w, &s);
    expect_reply(c, 202, "\"status\":\"pending\",\"ack\":\"stored\",\"urls\":{\"self\":\"/v1/jobs/job_");
    hang_up(&c);
}

static void test_refused_submit(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_QUEUE_FULL, .retry_after_ms = 2001});
    expect_reply(c, 429, "\"code\":\"queue_full\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 3\r\n"));
    assert_null(strstr(c->got, "x-should-retry"));
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\",\"ack\":\"synced\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_ACK});
    expect_reply(c, 422, "\"code\":\"ack_unavailable\"");
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_FENCED}); /* between processes */
    expect_reply(c, 503, "\"code\":\"broker_unavailable\"");
    hang_up(&c);
}

static void test_wait_for_the_end(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(s.watch);
    ack(w, &s);
    tell_ended(w, &s.id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    assert_non_null(strstr(c->got, "\"result\":{\"content\":\"done\"}"));
    assert_non_null(strstr(c->got, "\"metadata\":{\"a\":1}"));
    assert_non_null(strstr(c->got, "\"created_at\":\"2026-01-02T03:00:00.123Z\""));
    expect_no_frame(w);
    hang_up(&c);
}

/* The end may overtake the acknowledgement on its way. */
static void test_end_before_the_ack(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell_ended(w, &s.id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    ack(w, &s);
    request(c, "GET", "/livez", "", "");
    expect_reply(c, 200, "alive");
    hang_up(&c);
}

/* Its caller may have had it forgotten by then, and would pay for it a second time. */
static void test_submit_whose_end_was_heard_is_not_sent_again(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell_ended(w, &s.id); /* and the acknowledgement is lost */
    expect_reply(c, 200, "\"status\":\"completed\"");
    w->epoch += 1000;
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    assert_int_equal(ask_count(w->api.ask), 0);
    expect_no_frame(w);
    hang_up(&c);
}

static void test_wait_that_is_over(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=30ms", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    ack(w, &s);
    struct seen question = expect_frame(w, MESSAGE_ASK);
    assert_true(id_equal(&question.id, &s.id));
    assert_false(question.watch);
    answer_live(w, &question, STATE_PROCESSING);
    expect_reply(c, 202, "\"status\":\"processing\",\"ack\":\"stored\"");
    struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
    assert_false(bye.left);
    hang_up(&c);
}

/* Whatever happens afterwards: an error now would have the caller submit the same again. */
static void test_accepted_stays_accepted(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=30ms", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .ack = ACK_STORED}); /* no state is a new one */
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_STORE, 0);
    expect_reply(c, 202, "\"status\":\"pending\",\"ack\":\"stored\"");
    hang_up(&c);
}

static void test_unanswered_submit_is_withdrawn(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    ask_free(&w->api.ask);
    w->conf.api.submit_ms = 80;
    struct link_options link = {.endpoints = w->broker_path, .role = ROLE_API, .name = "test"};
    assert_int_equal(
        ask_new(w->loop, &w->conf, &link, (struct ask_hooks){.event = on_event, .up = on_session, .arg = w}, &w->api.ask),
        ERR_OK);
    w->count = 2;
    run_until(w, "another session", has_session);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    struct seen undo = expect_frame(w, MESSAGE_WITHDRAW);
    assert_true(id_equal(&s.id, &undo.id));
    expect_reply(c, 503, "\"code\":\"outcome_unknown\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: "));
    ack(w, &s); /* too late: nobody is told twice */
    request(c, "GET", "/livez", "", "");
    expect_reply(c, 200, "alive");
    hang_up(&c);
}

static void test_submit_is_sent_again(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen first = expect_frame(w, MESSAGE_SUBMIT);
    w->epoch += 1000;
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    struct seen again = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(again.again && id_equal(&first.id, &again.id) && first.body_len == again.body_len);
    /* it was there: the caller of a fresh submit gets its 202 all the same */
    tell(w, MESSAGE_ACK,
         &(struct msg_ack){.ref = again.ref, .id = again.id, .existing = true, .state = STATE_PENDING, .ack = ACK_STORED});
    struct seen question = expect_frame(w, MESSAGE_ASK);
    assert_int_equal(w->gets, 1);
    answer_live(w, &question, STATE_PROCESSING);
    expect_reply(c, 202, "\"status\":\"processing\"");
    hang_up(&c);
}

/* A frame of another type under a question's number answers nothing. */
static void test_answer_of_another_question(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "GET", "/v1/stats", "", "");
    struct seen s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .state = STATE_PENDING});
    const struct rec_counter counter = {span_str("completed"), 6};
    tell(w, MESSAGE_STATS_ANSWER, &(struct msg_stats_answer){.ref = s.ref, .counters = &counter, .counters_count = 1});
    expect_reply(c, 200, "\"completed\":6");
    hang_up(&c);
}

/* Who left while the broker was away has left all the same. */
static void test_leaving_is_said_to_the_next_broker(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\",\"on_disconnect\":\"cancel\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    wire_free(&w->wire);
    run_until(w, "the broker is gone", broker_down);
    struct linger reset = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    hang_up(&c);
    run_until(w, "nobody", nobody);
    open_broker(w);
    struct seen again = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(again.again && id_equal(&again.id, &s.id));
    struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
    assert_true(bye.left && id_equal(&bye.id, &s.id));
}

/* A broker that is away for a moment costs nobody an error. */
static void test_submit_waits_for_the_broker(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    wire_free(&w->wire);
    run_until(w, "the broker is gone", broker_down);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct client *other = dial(w);
    request(other, "GET", "/readyz", "", "");
    expect_reply(other, 503, "\"broker\":\"no session\"");
    hang_up(&other);
    open_broker(w);
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_false(s.again);
    ack(w, &s);
    expect_reply(c, 202, "\"status\":\"pending\"");
    hang_up(&c);
}

static void test_idempotency_key_leads_to_the_first_job(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id first = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"first\"}");
    request(c, "POST", "/v1/jobs", "Idempotency-Key: k\r\n", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = first, .existing = true, .state = STATE_COMPLETED});
    expect_reply(c, 200, "\"content\":\"first\"");
    assert_non_null(strstr(c->got, path_of(&first, "") + strlen("/v1/jobs/")));
    /* the key is kept longer than its job */
    blob_free(&w->stored);
    request(c, "POST", "/v1/jobs", "Idempotency-Key: k\r\n", "{\"prompt\":\"hello\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = first, .existing = true, .state = STATE_COMPLETED});
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "the job that the idempotency key made");
    hang_up(&c);
}

/* --- show --- */

static void test_show_ended(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"x\"}");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(
        c, 200, "\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"cached_tokens\":0,\"cost\":null,\"source\":\"provider\"}");
    assert_non_null(strstr(c->got, "\"priority\":8"));
    assert_non_null(strstr(c->got, "\"attempts\":[{\"run\":1,\"deployment\":\"d\""));
    expect_no_frame(w);
    hang_up(&c);
}

static void test_show_live(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    assert_int_equal(w->gets, 1);
    assert_string_equal(s.tenant, "default");
    answer_live(w, &s, STATE_PENDING);
    expect_reply(c, 200, "\"status\":\"pending\",\"reason\":\"ready\",\"progress\":10");
    assert_non_null(strstr(c->got, "\"type\":\"chat\",\"tags\":[\"t\"]"));
    hang_up(&c);
}

/* The job ends between the look into Redis and the question. */
static void test_ended_between_two_looks(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"just\"}");
    w->stored_from = 2;
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 200, "\"content\":\"just\"");
    w->stored_from = 4;
    request(c, "GET", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_ENDED, STATE_COMPLETED);
    expect_reply(c, 200, "\"content\":\"just\"");
    hang_up(&c);
}

static void test_forgotten(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall() - 7200000, "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    assert_int_equal(w->gets, 3); /* its record, twice, and its state */
    /* made in the future: not by us */
    id = some_id(clock_wall() + 7200000, "default");
    request(c, "GET", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 404, "\"code\":\"not_found\"");
    hang_up(&c);
}

/* Foreign and made-up ids: one body, no question, no look, whatever there is. */
static void test_foreign(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id foreign = some_id(clock_wall(), "other"),
              shard = id_make(clock_wall(), 8, ID_STORED, 1, &tag_key, span_str("default"));
    struct id guess = some_id(clock_wall(), "default");
    guess.bytes[9] ^= 1;
    char paths[5][128], bodies[5][256];
    strcpy(paths[0], path_of(&foreign, ""));
    strcpy(paths[1], path_of(&shard, ""));
    strcpy(paths[2], path_of(&guess, ""));
    strcpy(paths[3], "/v1/jobs/job_nonsense");
    strcpy(paths[4], path_of(&foreign, "?wait=10s"));
    w->stored = record_of("other", "{\"content\":\"secret\"}");
    for (int i = 0; i < 5; i++) {
        request(c, "GET", paths[i], "X-Request-Id: r\r\n", "");
        expect_reply(c, 404, "\"code\":\"not_found\"");
        strcpy(bodies[i], strstr(c->got, "\r\n\r\n"));
        assert_string_equal(bodies[i], bodies[0]);
        request(c, "DELETE", paths[i % 4], "", "");
        expect_reply(c, 404, "\"code\":\"not_found\"");
    }
    assert_int_equal(w->gets, 0);
    expect_no_frame(w);
    hang_up(&c);
}

/* One in 16 million foreign ids has a tag that fits: the record's tenant decides. */
static void test_foreign_record(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("other", "{\"content\":\"secret\"}");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 404, "\"code\":\"not_found\"");
    hang_up(&c);
}

static void test_corrupt_record(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"x\"}");
    ((uint8_t *)w->stored->data)[w->stored->len - 3] ^= 1;
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    blob_free(&w->stored);
    w->stored = record_of("default", "{\"content\":\"x\"},\"status\":\"failed\"");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    /* a state in the store that the broker does not hold: it could not read it */
    w->stored_from = w->gets + 3;
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    hang_up(&c);
}

static void test_redis_away(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    close_redis(w);
    run_until(w, "Redis is gone", redis_down);
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 503, "\"code\":\"store_unavailable\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 1\r\n"));
    request(c, "GET", "/readyz", "", "");
    expect_reply(c, 503, "\"redis\":\"not connected\"");
    request(c, "GET", "/health", "", "");
    expect_reply(c, 200, "\"status\":\"degraded\"");
    open_redis(w);
    run_until(w, "Redis is back", redis_up);
    request(c, "GET", "/readyz", "", "");
    expect_reply(c, 200, "\"status\":\"healthy\"");
    hang_up(&c);
}

static void test_store_stalled(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    tell(w, MESSAGE_ANSWER, &(struct msg_answer){.ref = s.ref, .id = s.id, .error = ERR_STORE, .retry_after_ms = 4000});
    expect_reply(c, 503, "\"code\":\"store_unavailable\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 4\r\n"));
    hang_up(&c);
}

/* --- waiting on a job that is there --- */

static void test_long_poll(void **state)
{
    struct world *w = *state;
    struct client *a = dial(w), *b = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(a, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    assert_true(s.watch);
    answer_live(w, &s, STATE_PROCESSING);
    request(b, "GET", path_of(&id, "?wait=20s"), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_waiting(w, 2);
    hang_up(&b); /* one of two: its answer is made at once, the watch stays */
    s = expect_frame(w, MESSAGE_ASK);
    assert_false(s.watch);
    answer_live(w, &s, STATE_PROCESSING);
    struct client *c = dial(w);
    request(c, "GET", "/v1/stats", "", "");
    s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_STATS_ANSWER, &(struct msg_stats_answer){.ref = s.ref});
    expect_reply(c, 200, "\"waiting\":0");
    expect_no_frame(w);
    tell_ended(w, &id);
    expect_reply(a, 200, "\"status\":\"completed\"");
    expect_no_frame(w);
    hang_up(&a);
    hang_up(&c);
}

static void test_wait_survives_a_new_session(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    w->epoch += 1000;
    expect_waiting(w, 1);
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    s = expect_frame(w, MESSAGE_ASK);
    assert_true(s.watch);
    answer_live(w, &s, STATE_RETRYING);
    tell_ended(w, &id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    hang_up(&c);
}

static void test_leaving_cancels_when_asked(void **state)
{
    struct world *w = *state;
    for (int cancel = 0; cancel <= 1; cancel++) {
        struct client *c = dial(w);
        request(c, "POST", "/v1/jobs?wait=20s", "",
                cancel ? "{\"prompt\":\"hello\",\"on_disconnect\":\"cancel\"}" : "{\"prompt\":\"hello\"}");
        struct seen s = expect_frame(w, MESSAGE_SUBMIT);
        ack(w, &s);
        expect_waiting(w, 1);
        struct linger reset = {.l_onoff = cancel}; /* with a reset, and in the ordinary way */
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        hang_up(&c);
        if (!cancel) {
            struct seen question = expect_frame(w, MESSAGE_ASK);
            answer_live(w, &question, STATE_PROCESSING);
        }
        struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
        assert_true(id_equal(&bye.id, &s.id));
        assert_int_equal(bye.left, cancel);
        run_until(w, "nobody", nobody);
        w->seen_used = w->seen_count;
    }
}

static void test_waits_end_with_the_child(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_waiting(w, 1);
    server_drain(w->api.server);
    errand_end_waits(&w->api);
    s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_reply(c, 200, "\"status\":\"processing\"");
    assert_non_null(strstr(c->got, "Connection: close"));
    hang_up(&c);
    run_until(w, "nobody", nobody);
}

/* --- cancel and forget --- */

static void test_cancel(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "POST", path_of(&id, "/cancel"), "", "");
    struct seen s = expect_frame(w, MESSAGE_CANCEL);
    answer_live(w, &s, STATE_CANCELLED);
    expect_reply(c, 200, "\"status\":\"cancelled\"}"); /* without its record, what is certain */
    w->stored = record_of("default", "{}");
    request(c, "POST", path_of(&id, "/cancel"), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_live(w, &s, STATE_CANCELLED);
    expect_reply(c, 200, "\"metadata\":{\"a\":1},\"created_at\":\"2026-01-02T03:00:00.123Z\"");
    blob_free(&w->stored);
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_ENDED, STATE_CANCELLED);
    expect_reply(c, 409, "\"code\":\"already_ended\",\"message\":\"the job has already ended: it is cancelled\"");
    w->stored = record_of("default", "{}");
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 409, "it is completed");
    blob_free(&w->stored);
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    hang_up(&c);
}

static void test_forget(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    struct seen s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_OK, 0);
    expect_reply(c, 204, "\r\n\r\n");
    assert_null(strstr(c->got, "Content-Length"));
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_CONFLICT, 0);
    expect_reply(c, 409, "\"code\":\"conflict\"");
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    request(c, "DELETE", path_of(&id, "?forget=no"), "", "");
    expect_reply(c, 422, "\"param\":\"forget\"");
    hang_up(&c);
}

/* --- the rest of the table --- */

static void test_stats(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    const struct rec_counter counters[] = {
        {span_str("waiting"), 2}, {span_str("active"), 1},    {span_str("completed"), 6},  {span_str("failed"), 1},
        {span_str("expired"), 1}, {span_str("cancelled"), 3}, {span_str("workers"), 4},    {span_str("done_ms_total"), 300},
        {span_str("p50_ms"), 40}, {span_str("p99_ms"), 90},   {span_str("per_minute"), 8}, {span_str("uptime_ms"), 61999},
    };
    request(c, "GET", "/v1/stats", "", "");
    struct seen s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_STATS_ANSWER,
         &(struct msg_stats_answer){.ref = s.ref, .counters = counters, .counters_count = ARRAY_COUNT(counters)});
    expect_reply(c, 200,
                 "{\"waiting\":2,\"active\":1,\"completed\":6,\"failed\":1,\"cancelled\":3,\"expired\":1,\"total\":3,"
                 "\"success_rate\":0.7500,\"failure_rate\":0.2500,\"mean_ms\":50.0,\"p50_ms\":40,\"p99_ms\":90,"
                 "\"per_minute\":8,\"queue_size\":2,\"workers\":4,\"uptime_s\":61}");
    hang_up(&c);
}

static void test_routes(void **state)
{
    static const struct {
        const char *method, *path, *fields, *body;
        int status;
        const char *part;
    } cases[] = {
        {"GET", "/nowhere", "", "", 404, "no_such_path"},
        {"GET", "/", "", "", 404, "no_such_path"},
        {"GET", "/v1/jobs/", "", "", 404, "no_such_path"},
        {"GET", "/v1/jobs/a/b", "", "", 404, "no_such_path"},
        {"GET", "/livezz", "", "", 404, "no_such_path"},
        {"PUT", "/v1/jobs", "", "", 405, "\r\nAllow: POST\r\n"},
        {"POST", "/v1/jobs/x", "", "", 405, "\r\nAllow: GET, HEAD, DELETE, PATCH\r\n"},
        {"GET", "/v1/jobs/x/cancel", "", "", 405, "\r\nAllow: POST\r\n"},
        {"BREW", "/livez", "", "", 405, "\r\nAllow: GET, HEAD\r\n"},
        {"OPTIONS", "/livez", "", "", 204, "\r\nAllow: GET, HEAD\r\n"},
        {"OPTIONS", "*", "", "", 204, "\r\nAllow: "},
        {"GET", "http://elsewhere/livez", "", "", 200, "alive"},
        {"GET", "/v1/stats?x=1", "", "", 422,
         "\"code\":\"unknown_field\",\"message\":\"there is no such query parameter\",\"param\":\"x\""},
        {"GET", "/v1/stats?%00=1", "", "", 400, "bad_request"},
        {"POST", "/v1/jobs?wait=61s", "", "{\"prompt\":\"x\"}", 422, "\"param\":\"wait\""},
        {"POST", "/v1/jobs?wait=1s&wait=2s", "", "{\"prompt\":\"x\"}", 422, "\"param\":\"wait\""},
        {"POST", "/v1/jobs?wait=%31", "", "{\"prompt\":5}", 422, "\"param\":\"prompt\""},
        {"POST", "/v1/jobs", "Content-Type: text/plain\r\n", "", 415, "unsupported_media_type"},
        {"POST", "/v1/jobs", "Origin: http://elsewhere\r\n", "", 415, "unsupported_media_type"},
        {"POST", "/v1/jobs", "", "", 400, "invalid_json"},
        {"POST", "/v1/jobs", "Content-Type: Application/JSON ; charset=utf-8\r\n", "", 400, "invalid_json"},
        {"POST", "/v1/jobs", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "{\"prompt\":\"x\"}", 422,
         "\"param\":\"Idempotency-Key\""},
        {"POST", "/v1/jobs", "", "{\"prompt\":\"x\",}", 400, "\"code\":\"invalid_json\""},
    };
    struct world *w = *state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct client *c = dial(w);
        request(c, cases[i].method, cases[i].path, cases[i].fields, cases[i].body);
        expect_reply(c, cases[i].status, cases[i].part);
        hang_up(&c);
    }
    expect_no_frame(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_submit),
        TEST(test_refused_submit),
        TEST(test_wait_for_the_end),
        TEST(test_end_before_the_ack),
        TEST(test_submit_whose_end_was_heard_is_not_sent_again),
        TEST(test_wait_that_is_over),
        TEST(test_accepted_stays_accepted),
        TEST(test_unanswered_submit_is_withdrawn),
        TEST(test_submit_is_sent_again),
        TEST(test_answer_of_another_question),
        TEST(test_leaving_is_said_to_the_next_broker),
        TEST(test_submit_waits_for_the_broker),
        TEST(test_idempotency_key_leads_to_the_first_job),
        TEST(test_show_ended),
        TEST(test_show_live),
        TEST(test_ended_between_two_looks),
        TEST(test_forgotten),
        TEST(test_foreign),
        TEST(test_foreign_record),
        TEST(test_corrupt_record),
        TEST(test_redis_away),
        TEST(test_store_stalled),
        TEST(test_long_poll),
        TEST(test_wait_survives_a_new_session),
        TEST(test_leaving_cancels_when_asked),
        TEST(test_waits_end_with_the_child),
        TEST(test_cancel),
        TEST(test_forget),
        TEST(test_stats),
        TEST(test_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
