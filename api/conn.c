#include "api/conn.h"

#include <errno.h>
#include <event2/buffer.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "api/inbox.h"
#include "api/server.h"
#include "common/random.h"

#define OUT_HIGH_BYTES    (256u << 10) /* with this much unwritten, no further request is looked at */
#define LARGE_BYTES       (64u << 10)  /* an answer that others would wait for */
#define DEPTH_FIRST       2u           /* requests at once on a new connection */
#define WRITE_STEP_BYTES  16384        /* progress that restarts the writer's clock */
#define LINGER_STEP_BYTES (1 << 20)
#define POOL_MAX          64
#define UNSENT_BYTES      32768 /* of a stream, in the kernel and not on its way */

/* --- exchanges --- */

static struct exchange *exchange_take(struct server *s)
{
    struct list *node = list_first(&s->exchanges);
    struct exchange *x = node ? CONTAINER_OF(node, struct exchange, in_conn) : malloc(sizeof *x);
    if (!x)
        return NULL;
    if (node) {
        list_remove(node);
        s->exchanges_free--;
    }
    x->answer = NULL;
    x->answered = x->close = x->head_only = x->chunked = x->told = false;
    x->request_id[0] = x->trace[0] = '\0';
    x->left = NULL;
    x->owner = NULL;
    x->form = NULL;
    list_init(&x->in_conn);
    return x;
}

static void exchange_drop(struct exchange *x)
{
    struct conn *c = x->conn;
    list_remove(&x->in_conn);
    c->exchanges_count--;
    if (x->answer)
        evbuffer_free(x->answer);
    if (c->server->exchanges_free == POOL_MAX) {
        free(x);
        return;
    }
    list_push_front(&c->server->exchanges, &x->in_conn);
    c->server->exchanges_free++;
}

void conn_pool_free(struct server *s)
{
    struct list *node;
    while ((node = list_first(&s->exchanges))) {
        list_remove(node);
        free(CONTAINER_OF(node, struct exchange, in_conn));
    }
}

/* --- states --- */

/* The only mover: the state's clock starts as it is entered, and not again before it was left. */
static void move(struct conn *c, enum conn_state state)
{
    static const int clock_of[] = {
        [CONN_IDLE] = CLOCK_IDLE, [CONN_HEAD] = CLOCK_HEAD, [CONN_BODY] = CLOCK_BODY,
        [CONN_BUSY] = -1,         [CONN_CLOSING] = -1,      [CONN_LINGER] = CLOCK_LINGER,
    };
    int clock = state == CONN_IDLE && c->server->draining ? CLOCK_FAREWELL : clock_of[state];
    if (c->state == state)
        return;
    assert(c->state < CONN_CLOSING || (c->state == CONN_CLOSING && state == CONN_LINGER));
    c->state = state;
    if (clock < 0)
        server_clock_stop(&c->clock);
    else
        server_clock_start(c->server, (enum server_clock)clock, &c->clock);
}

static bool reads_requests(const struct conn *c)
{
    return c->state < CONN_CLOSING && !c->broken;
}

/* Whether one more request may be looked at now. */
static bool has_room(const struct conn *c)
{
    return reads_requests(c) && c->exchanges_count < c->depth && c->out_bytes < OUT_HIGH_BYTES;
}

static bool has_input(const struct conn *c)
{
    return inbox_has_input(c->in);
}

/* Nothing more is read as a request; what is pending is still answered. */
static void stop_reading(struct conn *c)
{
    if (c->state < CONN_CLOSING)
        move(c, CONN_CLOSING);
    inbox_give_back(c->server, &c->in);
    server_touch(c->server, c);
}

void conn_break(struct conn *c)
{
    c->broken = true;
    server_touch(c->server, c);
}

static void add_output(struct conn *c, size_t bytes)
{
    c->out_bytes += bytes;
    c->server->output_bytes += bytes;
    server_touch(c->server, c);
}

/* --- requests --- */

static void name_request(struct conn *c, struct exchange *x, const struct http_head *head)
{
    struct span value;
    unsigned count = 0;
    if (head && http_find(head, "x-request-id", &value, &count) && count == 1 && trace_id_ok(value)) {
        memcpy(x->request_id, value.data, value.len);
        x->request_id[value.len] = '\0';
    } else {
        trace_id_make(random_draw(&c->server->random), x->request_id);
    }
    if (head && http_find(head, "traceparent", &value, &count) && count == 1)
        (void)trace_continue(value, random_draw(&c->server->random), x->trace);
}

/* head: NULL when it could not be read. NULL: no memory, the connection is broken. */
static struct exchange *new_exchange(struct conn *c, const struct http_head *head)
{
    struct exchange *x = exchange_take(c->server);
    if (!x) {
        conn_break(c);
        return NULL;
    }
    x->conn = c;
    list_push_back(&c->exchanges, &x->in_conn);
    c->exchanges_count++;
    name_request(c, x, head);
    x->head_only = head && head->method == HTTP_HEAD;
    x->chunked = head && head->minor;
    x->close = !head || !head->keep_alive || c->server->draining;
    return x;
}

/* Answers without a handler, then ends the connection: where the next request begins can not be known. */
static void refuse(struct conn *c, enum err error)
{
    bool head_done = c->in && c->in->head_done;
    struct exchange *x = new_exchange(c, head_done ? &c->in->head : NULL);
    c->server->counts.refused++;
    stop_reading(c);
    if (!x)
        return;
    x->close = true;
    char message[96];
    snprintf(message, sizeof message, "the body is larger than the limit of %llu bytes",
             (unsigned long long)c->server->conf->api.body_bytes);
    exchange_fail(x, &(struct fault){.error = error, .message = error == ERR_TOO_LARGE ? message : NULL});
}

static void serve(struct conn *c, struct span body)
{
    struct inbox *in = c->in;
    const struct http_head *head = &in->head;
    struct request request = {head, head->method, http_span(head, head->path), http_span(head, head->query), body};
    if (!request.path.len && !head->options_star)
        request.path = span_str("/"); /* http://host stands for http://host/ */
    struct exchange *x = new_exchange(c, head);
    if (!x)
        return;
    bool last = x->close;
    move(c, CONN_BUSY);
    c->server->counts.requests++;
    c->server->hooks.serve(c->server->hooks.arg, x, &request);
    if (last)
        stop_reading(c);
}

/* --- input --- */

/* RFC 9110 10.1.1: only while the body is really awaited, and not before the answers to earlier requests. */
static void say_continue(struct conn *c)
{
    static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct inbox *in = c->in;
    if (!in->head_done || !in->continue_due || c->exchanges_count)
        return;
    in->continue_due = false;
    if (in->len > in->body_at)
        return;
    if (!c->out)
        c->out = evbuffer_new();
    if (!c->out || evbuffer_add(c->out, line, sizeof line - 1)) {
        conn_break(c);
        return;
    }
    add_output(c, sizeof line - 1);
}

/* One request off the front of the inbox. false: it is not complete, or there will be none. */
static bool parse_one(struct conn *c)
{
    struct span body;
    bool whole;
    enum err e = inbox_parse(c->server, c->in, &whole, &body);
    if (e) {
        refuse(c, e);
        return false;
    }
    if (!whole) {
        move(c, c->in->head_done ? CONN_BODY : CONN_HEAD);
        say_continue(c);
        return false;
    }
    serve(c, body);
    if (!reads_requests(c))
        return false;
    inbox_next(c->server, c->in);
    return true;
}

/* Everything that is buffered and may be looked at; then the state that fits what is left. */
static void parse(struct conn *c)
{
    while (has_input(c) && has_room(c) && parse_one(c))
        ;
    if (!reads_requests(c))
        return;
    if (!has_input(c)) {
        inbox_give_back(c->server, &c->in);
        move(c, c->exchanges_count || c->out ? CONN_BUSY : CONN_IDLE);
    } else if (!has_room(c)) {
        move(c, CONN_BUSY); /* we let it wait: its clock does not run */
    }
}

static struct exchange *first_untold(struct conn *c)
{
    struct list *node;
    LIST_EACH (node, &c->exchanges) {
        struct exchange *x = CONTAINER_OF(node, struct exchange, in_conn);
        if (!x->told && !x->answered && x->left)
            return x;
    }
    return NULL;
}

/* The caller sends no more: whoever waits for it hears so, once. A handler may answer here, and an answer frees its exchange
 * with all the answered ones behind it; so the next is looked for from the beginning. */
static void tell_left(struct conn *c)
{
    struct exchange *x;
    while ((x = first_untold(c))) {
        x->told = true;
        x->left(x, false);
    }
}

static void peer_ended(struct conn *c)
{
    c->ending = c->ended = true;
    c->more = false;
    stop_reading(c); /* half a request is no request */
}

/* Reads once into the inbox. false: nothing to parse. */
static bool read_some(struct conn *c)
{
    if (!c->in)
        c->in = inbox_take(c->server);
    enum err e = c->in ? inbox_make_room(c->server, c->in) : ERR_OVERLOADED;
    if (e) {
        refuse(c, e);
        return false;
    }
    struct inbox *in = c->in;
    size_t room = in->size - in->len;
    ssize_t n = read(c->fd, in->data + in->len, room);
    if (n > 0) {
        in->len += (size_t)n;
        c->more = (size_t)n == room || c->ending; /* a short read has emptied the socket */
        return true;
    }
    if (n == 0)
        peer_ended(c);
    else if (errno == EAGAIN)
        c->more = false;
    else if (errno != EINTR)
        conn_break(c);
    if (c->in && !has_input(c))
        inbox_give_back(c->server, &c->in);
    return false;
}

/* After the last answer: throw away what still comes, so that the kernel does not reset the connection over it. */
static void linger(struct conn *c)
{
    ssize_t n = recv(c->fd, NULL, LINGER_STEP_BYTES, MSG_TRUNC); /* thrown away in the kernel */
    c->more = n == LINGER_STEP_BYTES || (n > 0 && c->ending) || (n < 0 && errno == EINTR);
    if (n == 0)
        c->ended = true;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_break(c);
}

/* A reset is told as something to read. So it goes unseen while nothing is read, there being no room, and when it came together
 * with the last bytes: a short read is taken for the end of what there is. */
static void look_for_reset(struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
        conn_break(c);
}

void conn_serve(struct conn *c)
{
    if (c->broken)
        return;
    if (c->state == CONN_LINGER) {
        if (c->more)
            linger(c);
    } else if (reads_requests(c)) {
        parse(c);
        if (c->more && has_room(c) && read_some(c)) {
            parse(c);
            if (c->exchanges_count || has_input(c)) /* it would be waited for */
                look_for_reset(c);
        }
    }
    if (c->ending)
        tell_left(c);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    c->more = true;
    c->ending = c->ending || (what & EV_CLOSED);
    if (c->state == CONN_CLOSING || (c->state != CONN_LINGER && !has_room(c)))
        look_for_reset(c);
    conn_serve(c);
    server_touch(c->server, c);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    c->blocked = false;
    server_touch(c->server, c);
}

/* --- output --- */

struct evbuffer *conn_answer_buffer(struct exchange *x)
{
    struct conn *c = x->conn;
    struct evbuffer **buffer = list_first(&c->exchanges) == &x->in_conn ? &c->out : &x->answer;
    if (!*buffer)
        *buffer = evbuffer_new();
    return *buffer;
}

/* Answers, and the beginning of one that is still being written, oldest first, go to the connection's output. */
static void collect(struct conn *c)
{
    struct list *node;
    while ((node = list_first(&c->exchanges))) {
        struct exchange *x = CONTAINER_OF(node, struct exchange, in_conn);
        if (x->answer && !c->out)
            c->out = TAKE(x->answer);
        else if (x->answer && evbuffer_add_buffer(c->out, x->answer))
            conn_break(c);
        if (!x->answered)
            return;
        exchange_drop(x);
    }
}

/* How many requests of one connection are served at once is learnt from its answers: it doubles up to api.pipeline while they
 * are small, and is one after a large one. Sixteen large answers asked for at once kept a child, and its connection to Redis,
 * from everybody else for half a second at a time. */
static void learn_depth(struct conn *c, size_t bytes)
{
    c->depth = bytes > LARGE_BYTES ? 1 : MIN(2 * c->depth, (unsigned)c->server->conf->api.pipeline);
}

void conn_answered(struct exchange *x, size_t bytes)
{
    struct conn *c = x->conn;
    assert(!x->answered);
    x->answered = true;
    learn_depth(c, bytes);
    add_output(c, bytes);
    collect(c);
}

/* The socket took less than there is: wait until it takes more. */
static void write_blocked(struct conn *c)
{
    c->blocked = true;
    if (list_empty(&c->write_clock.node) || c->taken_bytes >= WRITE_STEP_BYTES) {
        c->taken_bytes = 0;
        server_clock_start(c->server, CLOCK_WRITE, &c->write_clock);
    }
    if (event_add(&c->writable, NULL))
        conn_break(c);
}

/* How much the socket takes of what nothing waits before. */
static size_t send_now(struct conn *c, const struct iovec *parts, int count, size_t bytes)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        conn_break(c);
    size_t taken = n > 0 ? (size_t)n : 0;
    if (taken < bytes && !c->broken)
        write_blocked(c);
    return taken;
}

void conn_stream(struct exchange *x, const struct iovec *parts, int count, bool now)
{
    struct conn *c = x->conn;
    size_t bytes = 0, taken = 0;
    for (int i = 0; i < count; i++)
        bytes += parts[i].iov_len;
    if (now && !c->broken && list_first(&c->exchanges) == &x->in_conn && !c->out)
        taken = send_now(c, parts, count, bytes);
    if (c->broken || taken == bytes)
        return;
    struct evbuffer *out = conn_answer_buffer(x);
    for (int i = 0; i < count; i++) {
        size_t skip = MIN(taken, parts[i].iov_len);
        if (!out || evbuffer_add(out, (const char *)parts[i].iov_base + skip, parts[i].iov_len - skip)) {
            conn_break(c);
            return;
        }
        taken -= skip;
        add_output(c, parts[i].iov_len - skip);
    }
}

void conn_hold(struct exchange *x)
{
    unsigned patience_ms = (unsigned)x->conn->server->conf->api.write_ms;
    int unsent = UNSENT_BYTES, fd = x->conn->fd;
    /* a connection that is not TCP has neither, and needs neither */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

void conn_last(struct exchange *x)
{
    x->close = true;
    stop_reading(x->conn);
}

static void write_some(struct conn *c)
{
    int n = evbuffer_write(c->out, c->fd);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        conn_break(c);
        return;
    }
    if (n > 0) {
        c->out_bytes -= (size_t)n;
        c->server->output_bytes -= (size_t)n;
        c->taken_bytes += (size_t)n;
    }
    if (evbuffer_get_length(c->out)) {
        write_blocked(c);
        return;
    }
    evbuffer_free(TAKE(c->out));
    server_clock_stop(&c->write_clock);
}

/* Everything is answered and written: end, or wait for the next request. */
static void settle(struct conn *c)
{
    if (c->exchanges_count || c->out)
        return;
    if (c->state == CONN_BUSY && !has_input(c)) {
        move(c, CONN_IDLE);
    } else if (c->state == CONN_CLOSING) {
        if (c->ended || shutdown(c->fd, SHUT_WR)) {
            c->broken = true;
            return;
        }
        move(c, CONN_LINGER);
        c->more = true;
    }
}

void conn_flush(struct conn *c)
{
    if (!c->broken && c->out && !c->blocked)
        write_some(c);
    if (!c->broken)
        settle(c);
    if (c->broken) {
        conn_free(c);
        return;
    }
    /* what could not be looked at in this turn */
    bool waits = c->state == CONN_LINGER ? c->more : has_room(c) && (c->more || (has_input(c) && c->state == CONN_BUSY));
    if (waits) {
        server_touch(c->server, c);
        loop_again(c->server->loop);
    }
}

/* --- beginning and end --- */

struct conn *conn_new(struct server *s, int fd)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return NULL;
    }
    c->server = s;
    c->fd = fd;
    c->depth = MIN(DEPTH_FIRST, (unsigned)s->conf->api.pipeline);
    c->state = CONN_BUSY;
    list_init(&c->in_server);
    list_init(&c->in_turn);
    list_init(&c->clock.node);
    list_init(&c->write_clock.node);
    list_init(&c->exchanges);
    list_push_back(&s->conns, &c->in_server);
    s->conns_count++;
    struct event_base *base = loop_base(s->loop);
    if (event_assign(&c->readable, base, fd, EV_READ | EV_CLOSED | EV_ET | EV_PERSIST, on_readable, c) ||
        event_assign(&c->writable, base, fd, EV_WRITE | EV_ET, on_writable, c) || event_add(&c->readable, NULL)) {
        conn_free(c);
        return NULL;
    }
    move(c, CONN_IDLE);
    return c;
}

void conn_free(struct conn *c)
{
    struct server *s = c->server;
    struct list *node;
    while ((node = list_first(&c->exchanges))) {
        struct exchange *x = CONTAINER_OF(node, struct exchange, in_conn);
        if (!x->answered && x->left)
            x->left(x, true);
        exchange_drop(x);
    }
    inbox_give_back(s, &c->in);
    s->output_bytes -= c->out_bytes;
    if (c->out)
        evbuffer_free(c->out);
    if (event_initialized(&c->readable))
        event_del(&c->readable);
    if (event_initialized(&c->writable))
        event_del(&c->writable);
    close(c->fd);
    server_clock_stop(&c->clock);
    server_clock_stop(&c->write_clock);
    list_remove(&c->in_turn);
    list_remove(&c->in_server);
    s->conns_count--;
    free(c);
    server_left(s);
}

/* A request may be in the socket already: one look before an idle connection is given up. */
static void last_look(struct conn *c)
{
    c->more = true;
    conn_serve(c);
    server_touch(c->server, c);
}

void conn_expired(struct conn *c)
{
    if (c->state == CONN_IDLE) {
        last_look(c);
        if (c->state != CONN_IDLE)
            return;
    }
    c->server->counts.timeouts++;
    if (c->state == CONN_HEAD || c->state == CONN_BODY)
        refuse(c, ERR_TIMEOUT);
    else
        conn_break(c);
}

void conn_write_expired(struct conn *c)
{
    c->server->counts.cut++;
    conn_break(c);
}

void conn_drain(struct conn *c)
{
    struct list *newest = list_last(&c->exchanges);
    if (c->state == CONN_IDLE) {
        server_clock_start(c->server, CLOCK_FAREWELL, &c->clock);
    } else if (c->state == CONN_BUSY && newest) {
        CONTAINER_OF(newest, struct exchange, in_conn)->close = true;
        stop_reading(c);
    }
}
