/* Connections over real loopback sockets, server and clients in one loop: order, limits, clocks, leaving, draining.
 * /now is answered at once, /big at once with 256 KiB, /held when the test says so; each answer names its request's body. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/server.h"
#include "common/clock.h"

#define WAIT_MS  5000
#define HELD_MAX 64
#define BIG      (256u << 10)

struct client {
    struct world *world;
    int fd;
    struct event readable;
    char *got;
    size_t len, size;
    bool ended, reset;
    bool stopped; /* reads nothing */
};

struct world {
    struct conf conf;
    struct loop *loop;
    struct server *server;
    unsigned port;
    struct timer *watchdog;
    struct exchange *held[HELD_MAX];
    char held_body[HELD_MAX][64];
    unsigned held_count, served, left_open, left_gone;
    bool drained;
    bool answers_leavers; /* a held request is answered when its caller leaves, within the call */
    bool (*until)(struct world *w);
    const char *doing;
    struct client *client; /* the one `until` looks at */
    const char *wanted;
    unsigned count;
};

/* --- the handler --- */

static void answer(struct exchange *x, const char *text)
{
    exchange_reply(x, &(struct reply){.status = 200, .body = span_str(text)});
}

static void on_left(struct exchange *x, bool gone)
{
    struct world *w = x->owner;
    w->left_open += !gone;
    w->left_gone += gone;
    if (!gone && !w->answers_leavers)
        return;
    for (unsigned i = 0; i < w->held_count; i++)
        if (w->held[i] == x)
            w->held[i] = NULL;
    if (!gone)
        answer(x, "<left>");
}

static void serve(void *arg, struct exchange *x, const struct request *r)
{
    struct world *w = arg;
    char text[64];
    snprintf(text, sizeof text, "<%.*s>", SPAN_ARG(r->body));
    w->served++;
    if (span_is(r->path, "/held")) {
        assert_true(w->held_count < HELD_MAX);
        x->left = on_left;
        x->owner = w;
        strcpy(w->held_body[w->held_count], text);
        w->held[w->held_count++] = x;
    } else if (span_is(r->path, "/big")) {
        struct json_out out = {0};
        char *bytes = calloc(1, BIG + 1);
        memset(bytes, 'b', BIG);
        json_lit(&out, bytes);
        free(bytes);
        exchange_reply_json(x, 200, &out);
    } else if (span_is(r->path, "/sum")) {
        uint64_t sum = 0;
        for (size_t i = 0; i < r->body.len; i++)
            sum = sum * 31 + r->body.data[i];
        snprintf(text, sizeof text, "<%zu:%llx>", r->body.len, (unsigned long long)sum);
        answer(x, text);
    } else {
        answer(x, text);
    }
}

static void release(struct world *w, unsigned i)
{
    assert_non_null(w->held[i]);
    answer(w->held[i], w->held_body[i]);
    w->held[i] = NULL;
}

static void drained(void *arg)
{
    struct world *w = arg;
    w->drained = true;
}

/* --- the world --- */

static void turn(void *arg)
{
    struct world *w = arg;
    server_serve(w->server);
    server_flush(w->server);
    if (w->until(w))
        loop_stop(w->loop);
}

static void too_long(void *arg)
{
    struct world *w = arg;
    fail_msg("waited too long for: %s; got '%s'", w->doing, w->client && w->client->got ? w->client->got : "");
}

static void run_until(struct world *w, const char *doing, bool (*until)(struct world *w))
{
    w->until = until;
    w->doing = doing;
    timer_set(w->watchdog, clock_mono() + WAIT_MS);
    loop_run(w->loop);
    timer_set(w->watchdog, MSEC_NEVER);
}

static bool at_once(struct world *w)
{
    return true;
}

static void setup_server(struct world *w)
{
    int fd;
    assert_int_equal(server_listen("127.0.0.1", 0, &fd, &w->port), ERR_OK);
    assert_int_equal(server_new(w->loop, fd, &w->conf, (struct server_hooks){serve, drained, w}, &w->server), ERR_OK);
    server_open(w->server);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->conf.api.connections = 100;
    w->conf.api.head_bytes = 4096;
    w->conf.api.headers = 16;
    w->conf.api.body_bytes = 100000;
    w->conf.api.head_ms = w->conf.api.body_ms = w->conf.api.idle_ms = w->conf.api.write_ms = 60000;
    w->conf.api.pipeline = 4;
    w->conf.api.stop_ms = 400;
    w->until = at_once;
    w->loop = loop_new(turn, w);
    w->watchdog = timer_new(w->loop, too_long, w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    server_free(&w->server);
    timer_free(&w->watchdog);
    loop_free(&w->loop);
    free(w);
    return 0;
}

/* --- clients --- */

static void on_client(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;
    if (c->size - c->len < 65536)
        c->got = realloc(c->got, (c->size += 65536) + 1);
    ssize_t n = read(fd, c->got + c->len, c->size - c->len);
    if (n > 0)
        c->len += (size_t)n;
    c->got[c->len] = '\0';
    c->ended = n == 0;
    c->reset = n < 0 && errno != EAGAIN;
    if (c->ended || c->reset)
        event_del(&c->readable);
}

static struct client *dial_small(struct world *w, int receive_buffer)
{
    struct client *c = calloc(1, sizeof *c);
    c->world = w;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    event_assign(&c->readable, loop_base(w->loop), c->fd, EV_READ | EV_PERSIST, on_client, c);
    event_add(&c->readable, NULL);
    w->client = c;
    return c;
}

static struct client *dial(struct world *w)
{
    return dial_small(w, 0);
}

static void hang_up(struct client *c)
{
    if (!c->ended && !c->reset)
        event_del(&c->readable);
    close(c->fd);
    c->world->client = NULL;
    free(c->got);
    free(c);
}

static void say_bytes(struct client *c, const char *bytes, size_t len)
{
    assert_int_equal(send(c->fd, bytes, len, MSG_NOSIGNAL), len);
}

static void say(struct client *c, const char *text)
{
    say_bytes(c, text, strlen(text));
}

static unsigned occurrences(const char *text, const char *part)
{
    unsigned n = 0;
    for (const char *at = text; at && (at = strstr(at, part)); at += strlen(part))
        n++;
    return n;
}

static bool client_has(struct world *w)
{
    return occurrences(w->client->got, w->wanted) >= w->count;
}

static bool client_long(struct world *w)
{
    return w->client->len >= (size_t)w->count * BIG;
}

static bool client_ended(struct world *w)
{
    return w->client->ended || w->client->reset;
}

static bool many_held(struct world *w)
{
    return w->held_count >= w->count;
}

static bool nobody(struct world *w)
{
    return w->server->conns_count == 0;
}

static bool many_connected(struct world *w)
{
    return w->server->conns_count >= w->count;
}

static bool many_left(struct world *w)
{
    return w->left_open >= w->count;
}

static bool many_gone(struct world *w)
{
    return w->left_gone >= w->count;
}

static void expect(struct client *c, const char *wanted, unsigned count)
{
    c->world->client = c;
    c->world->wanted = wanted;
    c->world->count = count;
    run_until(c->world, wanted, client_has);
}

static void expect_end(struct client *c)
{
    c->world->client = c;
    run_until(c->world, "the end", client_ended);
    assert_false(c->reset);
}

/* A connection whose answers have been small so far: as many requests at once as the settings allow. */
static struct client *dial_proven(struct world *w)
{
    struct client *c = dial(w);
    say(c, "GET /now HTTP/1.1\r\nHost: a\r\n\r\n");
    expect(c, "200 OK", 1);
    return c;
}

static void expect_held(struct world *w, unsigned count)
{
    w->count = count;
    run_until(w, "held requests", many_held);
}

/* Lets everything that is under way arrive: a round trip on another connection. */
static void settle(struct world *w)
{
    struct client *other = dial(w);
    for (unsigned i = 1; i <= 3; i++) {
        say(other, "GET /now HTTP/1.1\r\nHost: a\r\n\r\n");
        expect(other, "200 OK", i);
    }
    hang_up(other);
}

#define REQUEST(method, path, more, body) method " " path " HTTP/1.1\r\nHost: a\r\n" more "\r\n" body
#define HELD(body)                        REQUEST("POST", "/held", "Content-Length: 1\r\n", body)

/* --- tests --- */

static void test_keep_alive(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, REQUEST("POST", "/now", "Content-Length: 3\r\nX-Request-Id: mine\r\n", "abc"));
    expect(c, "<abc>", 1);
    assert_non_null(strstr(c->got, "HTTP/1.1 200 OK\r\nDate: "));
    assert_non_null(strstr(c->got, "\r\nX-Request-Id: mine\r\n"));
    assert_non_null(strstr(c->got, "\r\nContent-Type: application/json\r\n"));
    say(c, REQUEST("GET", "/now", "X-Request-Id: not/sane\r\n", ""));
    expect(c, "<>", 1);
    assert_null(strstr(c->got, "sane"));
    assert_non_null(strstr(c->got, "\r\nX-Request-Id: req-"));
    assert_null(strstr(c->got, "Connection:"));
    assert_int_equal(w->server->inboxes_free, 1);
    hang_up(c);
    run_until(w, "nobody", nobody);
}

static void test_trace(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, REQUEST("GET", "/now", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n", ""));
    expect(c, "<>", 1);
    assert_non_null(strstr(c->got, "\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-"));
    assert_null(strstr(c->got, "b7ad6b7169203331"));
    hang_up(c);
}

static void test_answers_keep_the_order_of_requests(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1") REQUEST("POST", "/now", "Content-Length: 1\r\n", "2") HELD("3"));
    expect_held(w, 2);
    release(w, 1);
    settle(w);
    assert_int_equal(c->len, 0);
    release(w, 0);
    expect(c, "<3>", 1);
    assert_true(strstr(c->got, "<1>") < strstr(c->got, "<2>"));
    assert_true(strstr(c->got, "<2>") < strstr(c->got, "<3>"));
    hang_up(c);
}

/* How many at once is learnt: two at first, twice as many after each small answer, one after a large one. */
static void test_large_answers_are_made_one_at_a_time(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1") HELD("2") HELD("3") HELD("4") HELD("5") HELD("6"));
    expect_held(w, 2);
    settle(w);
    assert_int_equal(w->held_count, 2);
    release(w, 0);
    expect_held(w, 5);
    for (unsigned i = 1; i < 5; i++)
        release(w, i);
    expect_held(w, 6);
    release(w, 5);
    expect(c, "<6>", 1);
    say(c, REQUEST("GET", "/big", "", "") HELD("7") HELD("8"));
    expect_held(w, 7);
    settle(w);
    assert_int_equal(w->held_count, 7);
    release(w, 6);
    expect_held(w, 8);
    release(w, 7);
    expect(c, "<8>", 1);
    hang_up(c);
}

static void test_pipeline_is_bounded(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial_proven(w);
    say(c, HELD("1") HELD("2") HELD("3") HELD("4") HELD("5") HELD("6"));
    expect_held(w, 4);
    settle(w);
    assert_int_equal(w->held_count, 4);
    release(w, 1); /* not the first: nothing can be written, so nothing more is served */
    settle(w);
    assert_int_equal(w->held_count, 4);
    release(w, 0);
    expect_held(w, 6);
    for (unsigned i = 2; i < 6; i++)
        release(w, i);
    expect(c, "<6>", 1);
    hang_up(c);
}

static void test_head_and_old_version(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, REQUEST("HEAD", "/big", "", "") REQUEST("GET", "/now", "", ""));
    expect(c, "<>", 1);
    assert_non_null(strstr(c->got, "Content-Length: 262144\r\n\r\nHTTP/1.1 200"));
    hang_up(c);
    c = dial(w);
    say(c, "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" REQUEST("GET", "/now", "", ""));
    expect_end(c);
    assert_int_equal(occurrences(c->got, "200 OK"), 1);
    assert_non_null(strstr(c->got, "Connection: close\r\n"));
    hang_up(c);
}

static void test_expect_continue(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1") "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    expect_held(w, 1);
    settle(w);
    assert_int_equal(c->len, 0); /* not before the first answer */
    release(w, 0);
    expect(c, "HTTP/1.1 100 Continue\r\n\r\n", 1);
    assert_true(strstr(c->got, "<1>") < strstr(c->got, "100 Continue"));
    say(c, "ok");
    expect(c, "<ok>", 1);
    /* with the body already here nobody waits for it */
    say(c, "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi");
    expect(c, "<hi>", 1);
    assert_int_equal(occurrences(c->got, "100 Continue"), 1);
    hang_up(c);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *bytes, *status, *code;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ", "\"code\":\"bad_request\""},
        {"GET / HTTP/3.0\r\n", "HTTP/1.1 505 ", "\"code\":\"http_version\""},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n", "HTTP/1.1 413 ", "\"code\":\"too_large\""},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 413 ", "too_large"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n186a1\r\n", "HTTP/1.1 413 ", "too_large"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "HTTP/1.1 400 ", "bad_request"},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "HTTP/1.1 417 ", "expectation_failed"},
        {"GET / "
         "HTTP/1.1\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n",
         "HTTP/1.1 431 ", "header_too_large"},
    };
    struct world *w = *state;
    setup_server(w);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct client *c = dial(w);
        say(c, cases[i].bytes);
        expect_end(c);
        assert_true(strncmp(c->got, cases[i].status, strlen(cases[i].status)) == 0);
        assert_non_null(strstr(c->got, cases[i].code));
        assert_non_null(strstr(c->got, "Connection: close\r\n"));
        assert_non_null(strstr(c->got, "x-should-retry: false\r\n"));
        hang_up(c);
    }
    run_until(w, "nobody", nobody);
    assert_int_equal(w->served, 0);
}

/* A caller that sends a refused body to its end still gets to read why, not a reset. */
static void test_refused_body_is_swallowed(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    char *waste = calloc(1, 65536);
    say(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    for (int i = 0; i < 8; i++) {
        say_bytes(c, waste, 65536);
        run_until(w, "a turn", at_once);
    }
    free(waste);
    expect_end(c);
    assert_non_null(strstr(c->got, "413"));
    hang_up(c);
    run_until(w, "nobody", nobody);
}

/* Requests before a bad one are answered, in order, then the bad one. */
static void test_refusal_waits_its_turn(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1") "BAD\r\n\r\n" HELD("2"));
    expect_held(w, 1);
    settle(w);
    assert_int_equal(c->len, 0);
    release(w, 0);
    expect_end(c);
    assert_true(strstr(c->got, "<1>") < strstr(c->got, "400 Bad Request"));
    assert_int_equal(w->held_count, 1);
    hang_up(c);
}

/* A stream of requests of every framing, cut at random places, gives the same answers. */
static void test_any_cut(void **state)
{
    struct world *w = *state;
    setup_server(w);
    size_t len = 0, size = 400000;
    char *stream = malloc(size), *expected = calloc(1, 4096);
    uint64_t seed = 88172645463325252u;
    unsigned requests = 0;
    for (; len < 250000; requests++) {
        char body[60000], line[64];
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        size_t n = requests % 5 == 4 ? seed % sizeof body : seed % 200;
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i++) {
            body[i] = (char)('a' + (seed >> (i % 50)) % 26);
            sum = sum * 31 + (uint8_t)body[i];
        }
        snprintf(line, sizeof line, "<%zu:%llx>", n, (unsigned long long)sum);
        strcat(expected, line);
        if (requests % 2) {
            len += (size_t)sprintf(stream + len, "POST /sum HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", n);
            memcpy(stream + len, body, n);
            len += n;
            continue;
        }
        len += (size_t)sprintf(stream + len, "POST /sum HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (size_t at = 0, part; at < n; at += part) {
            part = MIN(n - at, 1 + (seed >> 20) % 5000);
            len += (size_t)sprintf(stream + len, "%zx;x\r\n", part);
            memcpy(stream + len, body + at, part);
            len += part;
            len += (size_t)sprintf(stream + len, "\r\n");
        }
        len += (size_t)sprintf(stream + len, "0\r\n%s\r\n", requests % 4 ? "" : "T: x\r\n");
    }
    struct client *c = dial(w);
    for (size_t at = 0, part; at < len; at += part) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        part = MIN(len - at, 1 + seed % (seed % 3 ? 40 : 9000));
        say_bytes(c, stream + at, part);
        run_until(w, "a turn", at_once);
    }
    expect(c, "200 OK", requests);
    expect(c, ">", requests);
    char *answers = calloc(1, 4096); /* the bodies alone */
    for (char *at = c->got; (at = strchr(at, '<')); at++)
        strncat(answers, at, (size_t)(strchr(at, '>') - at) + 1);
    assert_string_equal(answers, expected);
    assert_true(w->server->input_bytes <= 8 * 4096);
    hang_up(c);
    free(answers);
    free(expected);
    free(stream);
}

static void test_clocks(void **state)
{
    struct world *w = *state;
    w->conf.api.head_ms = 60;
    w->conf.api.body_ms = 70;
    w->conf.api.idle_ms = 80;
    setup_server(w);
    struct client *idle = dial(w), *head = dial(w), *body = dial(w);
    say(head, "GET / HTTP/1.1\r\nHo");
    say(body, "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    expect_end(head);
    assert_non_null(strstr(head->got, "408 Request Timeout"));
    assert_null(strstr(head->got, "x-should-retry"));
    expect_end(body);
    assert_non_null(strstr(body->got, "408 Request Timeout"));
    expect_end(idle);
    assert_int_equal(idle->len, 0);
    hang_up(idle);
    hang_up(head);
    hang_up(body);
    run_until(w, "nobody", nobody);
}

struct dripper {
    struct client *client;
    struct timer *timer;
    size_t at;
};

static void drip(void *arg)
{
    struct dripper *d = arg;
    static const char bytes[] =
        "GET /now HTTP/1.1\r\nHost: a\r\nX: 0123456789012345678901234567890123456789012345678901234567890123456789";
    if (d->client->ended || d->at == sizeof bytes - 1)
        return;
    (void)!send(d->client->fd, bytes + d->at++, 1, MSG_NOSIGNAL);
    timer_set(d->timer, loop_now(d->client->world->loop) + 10);
}

/* The clock is the head's, not a byte's: whoever drips is cut as early as who stops. */
static void test_dripping_gains_nothing(void **state)
{
    struct world *w = *state;
    w->conf.api.head_ms = 150;
    setup_server(w);
    struct client *c = dial(w);
    struct dripper d = {.client = c, .timer = timer_new(w->loop, drip, &d)};
    msec began = clock_mono();
    timer_set(d.timer, 0);
    expect_end(c);
    assert_non_null(strstr(c->got, "408"));
    assert_in_range(clock_mono() - began, 100, 600);
    timer_free(&d.timer);
    hang_up(c);
}

/* Its last bytes and the reset have both come when the loop looks. */
static void test_a_reset_with_the_last_bytes_is_noticed(void **state)
{
    struct world *w = *state;
    setup_server(w);
    const struct linger reset = {.l_onoff = 1};
    for (unsigned whole = 0; whole < 2; whole++) {
        uint64_t accepted = w->server->counts.accepted;
        struct client *c = dial(w);
        while (w->server->counts.accepted == accepted)
            assert_int_equal(event_base_loop(loop_base(w->loop), EVLOOP_ONCE), 0);
        say(c, whole ? HELD("1") : "GET /now HTTP/1.1\r\nHos");
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        hang_up(c);
        run_until(w, "nobody", nobody);
    }
}

static void test_leaving_is_noticed(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1"));
    expect_held(w, 1);
    struct linger reset = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    hang_up(c);
    w->count = 1;
    run_until(w, "gone", many_gone);
    run_until(w, "nobody", nobody);

    /* also while nothing is read, because the pipeline is full … */
    c = dial_proven(w);
    say(c, HELD("1") HELD("2") HELD("3") HELD("4") HELD("5"));
    expect_held(w, 5);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    hang_up(c);
    w->count = 5;
    run_until(w, "all gone", many_gone);
    run_until(w, "nobody", nobody);

    /* … and when it closes in the ordinary way, read or not */
    c = dial_proven(w);
    say(c, HELD("1") HELD("2") HELD("3") HELD("4") HELD("5"));
    expect_held(w, 9);
    hang_up(c);
    w->count = 4;
    run_until(w, "all told", many_left);
    for (unsigned i = 5; i < 9; i++)
        release(w, i);
    run_until(w, "nobody", nobody);

    /* … and after the last request of a connection */
    c = dial(w);
    unsigned told = w->left_open;
    say(c, REQUEST("POST", "/held", "Content-Length: 1\r\nConnection: close\r\n", "1"));
    expect_held(w, w->held_count + 1);
    hang_up(c);
    w->count = told + 1;
    run_until(w, "told", many_left);
    release(w, w->held_count - 1);
    run_until(w, "nobody", nobody);
}

static void test_half_closed_gets_its_answers(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial(w);
    say(c, HELD("1") HELD("2"));
    shutdown(c->fd, SHUT_WR);
    w->count = 2;
    run_until(w, "told", many_left);
    release(w, 1);
    release(w, 0);
    expect_end(c);
    assert_true(strstr(c->got, "<1>") < strstr(c->got, "<2>"));
    hang_up(c);
    run_until(w, "nobody", nobody);
    /* half a request is dropped without an answer */
    c = dial(w);
    say(c, "GET / HT");
    shutdown(c->fd, SHUT_WR);
    expect_end(c);
    assert_int_equal(c->len, 0);
    hang_up(c);
}

/* The answer to the first takes the second, answered before, and the third with it. */
static void test_leavers_answered_at_once(void **state)
{
    struct world *w = *state;
    setup_server(w);
    w->answers_leavers = true;
    struct client *c = dial(w);
    say(c, HELD("1") REQUEST("GET", "/now", "", "") HELD("3"));
    expect_held(w, 2);
    shutdown(c->fd, SHUT_WR);
    expect_end(c);
    assert_int_equal(w->left_open, 2);
    const char *first = strstr(c->got, "<left>"), *second = strstr(c->got, "<>");
    assert_true(first && first < second && strstr(second, "<left>"));
    hang_up(c);
    run_until(w, "nobody", nobody);
}

static void test_slow_reader(void **state)
{
    struct world *w = *state;
    w->conf.api.pipeline = 1000;
    w->conf.api.write_ms = 100;
    setup_server(w);
    struct client *c = dial_small(w, 4096);
    event_del(&c->readable);
    for (int i = 0; i < 100; i++)
        say(c, REQUEST("GET", "/big", "", ""));
    w->count = 1;
    run_until(w, "one", many_connected);
    run_until(w, "nobody", nobody); /* cut after write_ms */
    assert_int_equal(w->server->counts.cut, 1);
    assert_int_equal(w->server->output_bytes, 0);
    assert_true(w->served < 40); /* what could not be written was not asked for either */
    event_add(&c->readable, NULL);
    hang_up(c);
}

static void test_large_answers_arrive_whole(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *c = dial_small(w, 16384);
    for (int i = 0; i < 20; i++)
        say(c, REQUEST("GET", "/big", "", ""));
    say(c, REQUEST("GET", "/now", "", ""));
    w->count = 20;
    run_until(w, "20 large answers", client_long);
    expect(c, "<>", 1);
    size_t letters = 0;
    for (size_t i = 0; i < c->len; i++)
        letters += c->got[i] == 'b';
    assert_in_range(letters, 20 * BIG, 20 * BIG + 21 * 64); /* the heads have a few */
    assert_int_equal(w->server->output_bytes, 0);
    hang_up(c);
}

static void test_drain(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *idle = dial(w), *busy = dial(w), *half = dial(w);
    say(busy, HELD("1") HELD("2"));
    say(half, "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    expect_held(w, 2);
    settle(w);
    w->count = 3;
    run_until(w, "three", many_connected);
    server_drain(w->server);
    expect_end(idle);
    release(w, 0);
    release(w, 1);
    expect_end(busy);
    assert_int_equal(occurrences(busy->got, "Connection: close"), 1);
    assert_true(strstr(busy->got, "<1>") < strstr(busy->got, "Connection: close"));
    assert_false(w->drained);
    say(half, "y");
    expect_end(half);
    assert_non_null(strstr(half->got, "Connection: close"));
    assert_non_null(strstr(half->got, "<xy>"));
    hang_up(idle);
    hang_up(busy);
    hang_up(half);
    run_until(w, "nobody", nobody);
    assert_true(w->drained);
}

/* A caller that does not know yet is still served, once, and told. */
static void test_drain_serves_whoever_comes(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *late = dial(w), *idle = dial(w);
    w->count = 2;
    run_until(w, "two", many_connected);
    server_drain(w->server);
    run_until(w, "a turn", at_once);
    say(late, REQUEST("GET", "/now", "", "") REQUEST("GET", "/now", "", ""));
    expect_end(late);
    assert_int_equal(occurrences(late->got, "200 OK"), 1);
    assert_non_null(strstr(late->got, "Connection: close"));
    expect_end(idle);
    assert_int_equal(idle->len, 0);
    hang_up(late);
    hang_up(idle);
    run_until(w, "nobody", nobody);
    assert_true(w->drained);
}

static void test_connections_are_bounded(void **state)
{
    struct world *w = *state;
    w->conf.api.connections = 2;
    setup_server(w);
    struct client *a = dial(w), *b = dial(w);
    w->count = 2;
    run_until(w, "two", many_connected);
    struct client *c = dial(w);
    say(c, REQUEST("GET", "/now", "", ""));
    say(a, REQUEST("GET", "/now", "", ""));
    expect(a, "<>", 1);
    assert_int_equal(w->server->conns_count, 2);
    assert_int_equal(c->len, 0);
    hang_up(a);
    expect(c, "<>", 1); /* the one that waited in the queue */
    hang_up(b);
    hang_up(c);
}

static void test_no_descriptor_left(void **state)
{
    struct world *w = *state;
    setup_server(w);
    struct client *a = dial(w), *b = dial(w);
    struct rlimit before, none;
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = (rlim_t)b->fd + 1; /* both are in the queue; there is room for no more descriptors */
    setrlimit(RLIMIT_NOFILE, &none);
    expect_end(a);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_non_null(strstr(a->got, "503 Service Unavailable"));
    say(b, REQUEST("GET", "/now", "", ""));
    expect(b, "<>", 1); /* after the pause */
    assert_int_equal(w->server->counts.no_descriptor, 1);
    hang_up(a);
    hang_up(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_keep_alive),
        TEST(test_trace),
        TEST(test_answers_keep_the_order_of_requests),
        TEST(test_pipeline_is_bounded),
        TEST(test_large_answers_are_made_one_at_a_time),
        TEST(test_head_and_old_version),
        TEST(test_expect_continue),
        TEST(test_refusals),
        TEST(test_refused_body_is_swallowed),
        TEST(test_refusal_waits_its_turn),
        TEST(test_any_cut),
        TEST(test_clocks),
        TEST(test_dripping_gains_nothing),
        TEST(test_leaving_is_noticed),
        TEST(test_a_reset_with_the_last_bytes_is_noticed),
        TEST(test_half_closed_gets_its_answers),
        TEST(test_leavers_answered_at_once),
        TEST(test_slow_reader),
        TEST(test_large_answers_arrive_whole),
        TEST(test_drain),
        TEST(test_drain_serves_whoever_comes),
        TEST(test_connections_are_bounded),
        TEST(test_no_descriptor_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
