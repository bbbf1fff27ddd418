/* One connection: see conn.h. */
#include "tests/upstream/conn.h"

#include "tests/upstream/clock.h"
#include "tests/upstream/server_private.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define AHEAD_MAX (64 * 1024) /* bytes read ahead of the request being answered */
#define LINGER_US (1000 * 1000)

struct conn {
    struct list node; /* first: see server_conn */
    struct server *server;
    int fd; /* -1: ended, to be freed after this turn */
    int peer_port;
    struct event readable, writable, tick, wake;
    struct bytes in, out;
    struct http_reader reader;
    const struct conn_user *user; /* the answerer; NULL: between requests */
    void *user_arg;
    int64_t pace_us; /* -1: none */
    uint64_t sent;
    int64_t first_byte_us;
    bool advancing; /* conn_advance is on the stack */
    bool closing;   /* no more requests: close when drained */
    bool lingering; /* our side is shut down; reading away what still comes */
    bool deaf;      /* too much read ahead: watching only for the caller to leave */
};

static void conn_advance(struct conn *c);

static struct timeval us_to_timeval(int64_t us)
{
    return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

/* --- ending ----------------------------------------------------------------------------------- */

void conn_close(struct conn *c)
{
    if (c->fd < 0)
        return;
    event_del(&c->readable);
    event_del(&c->writable);
    evtimer_del(&c->tick);
    evtimer_del(&c->wake);
    close(c->fd);
    c->fd = -1;
    c->user = NULL;
    server_forget(c->server, &c->node);
}

void conn_reset(struct conn *c)
{
    if (c->fd >= 0)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    conn_close(c);
}

void conn_free(struct conn *c)
{
    bytes_done(&c->in);
    bytes_done(&c->out);
    free(c);
}

void conn_lose(struct conn *c)
{
    if (c->user)
        c->user->gone(c->user_arg);
    else if (bytes_left(&c->in) && !c->closing)
        c->server->stats.incomplete++;
    conn_close(c);
}

/* Our last bytes must arrive before a RST for unread input can overtake them: shut down, read the
 * rest away, and close when the caller does or after a second. */
static void linger(struct conn *c)
{
    if (c->lingering)
        return;
    c->lingering = true;
    shutdown(c->fd, SHUT_WR);
    conn_wake_after(c, LINGER_US);
}

/* --- writing ---------------------------------------------------------------------------------- */

struct bytes *conn_out(struct conn *c)
{
    return &c->out;
}

static void note_sent(struct conn *c, size_t n)
{
    if (c->first_byte_us < 0)
        c->first_byte_us = now_us();
    c->sent += n;
    bytes_drop(&c->out, n);
}

bool conn_flush(struct conn *c)
{
    if (c->fd < 0)
        return false;
    if (evtimer_pending(&c->tick, NULL) || event_pending(&c->writable, EV_WRITE, NULL))
        return true;
    while (bytes_left(&c->out)) {
        ssize_t n = send(c->fd, bytes_at(&c->out), c->pace_us < 0 ? bytes_left(&c->out) : 1, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return event_add(&c->writable, NULL) == 0;
        if (n < 0)
            return false;
        note_sent(c, (size_t)n);
        if (c->pace_us >= 0 && bytes_left(&c->out)) {
            struct timeval after = us_to_timeval(c->pace_us);
            return evtimer_add(&c->tick, &after) == 0;
        }
    }
    bytes_done(&c->out);
    return true;
}

void conn_pace(struct conn *c, int64_t us)
{
    c->pace_us = us;
}

void conn_wake_after(struct conn *c, int64_t us)
{
    struct timeval after = us_to_timeval(us);
    evtimer_add(&c->wake, &after);
}

/* Everything has left: tell the answerer, or go on. */
static void settled(struct conn *c)
{
    if (c->user)
        c->user->drained(c->user_arg);
    else if (c->closing)
        linger(c);
    else
        conn_advance(c);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    if (!conn_flush(c))
        conn_lose(c);
    else if (!bytes_left(&c->out))
        settled(c);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    if (c->lingering)
        conn_close(c);
    else if (c->user)
        c->user->woken(c->user_arg);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void on_readable(evutil_socket_t fd, short what, void *arg);

/* Stop reading, and watch only for the caller to leave; or read again.  A caller who first fills
 * the socket's buffer too, and then leaves, cannot be noticed: TCP delivers its end after its data. */
static void listen_to(struct conn *c, bool hear)
{
    if (c->deaf == !hear)
        return;
    c->deaf = !hear;
    event_del(&c->readable);
    event_assign(&c->readable, c->server->base, c->fd, (short)((hear ? EV_READ : EV_CLOSED) | EV_PERSIST), on_readable, c);
    event_add(&c->readable, NULL);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    char *scratch = c->server->scratch;
    if (what & EV_CLOSED)
        return conn_lose(c);
    ssize_t n = recv(fd, scratch, READ_SIZE, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        return conn_lose(c);
    if (c->closing)
        return;
    bytes_add(&c->in, scratch, (size_t)n);
    if (c->user && bytes_left(&c->in) > AHEAD_MAX)
        listen_to(c, false);
    conn_advance(c);
}

static void say_continue(struct conn *c)
{
    bytes_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    if (!conn_flush(c))
        conn_lose(c);
}

/* Not a request: one short answer, and no more from this connection. */
static void refuse(struct conn *c)
{
    c->server->stats.refused++;
    http_head(&c->out, c->reader.refusal);
    http_add(&c->out, "connection", "close");
    http_add_number(&c->out, "content-length", 0);
    http_head_end(&c->out);
    conn_finish(c, false);
}

static void hand_over(struct conn *c)
{
    struct server *s = c->server;
    s->handler(s->handler_arg, c, &c->reader.request, &c->in);
    bytes_drop(&c->in, c->reader.request.size);
    http_reader_reset(&c->reader);
}

/* Take the next requests, as far as they are here and can be answered at once. */
static void conn_advance(struct conn *c)
{
    if (c->advancing)
        return;
    c->advancing = true;
    bool more = false;
    while (!more && c->fd >= 0 && !c->user && !c->closing && bytes_left(&c->in) && !bytes_left(&c->out)) {
        switch (http_read(&c->reader, &c->in)) {
        case HTTP_MORE:
            more = true;
            break;
        case HTTP_CONTINUE:
            say_continue(c);
            break;
        case HTTP_REFUSED:
            refuse(c);
            break;
        case HTTP_REQUEST:
            hand_over(c);
            break;
        }
    }
    c->advancing = false;
    if (c->fd < 0)
        return;
    if (!bytes_left(&c->in))
        bytes_done(&c->in);
    if (!c->user || bytes_left(&c->in) <= AHEAD_MAX)
        listen_to(c, true);
}

/* --- lending ---------------------------------------------------------------------------------- */

void conn_take(struct conn *c, const struct conn_user *user, void *arg)
{
    c->user = user;
    c->user_arg = arg;
    c->sent = 0;
    c->first_byte_us = -1;
}

void conn_finish(struct conn *c, bool keep_alive)
{
    c->user = NULL;
    c->pace_us = -1;
    c->closing = !keep_alive;
    evtimer_del(&c->wake);
    if (!conn_flush(c))
        conn_close(c);
    else if (!bytes_left(&c->out))
        settled(c);
}

uint64_t conn_sent(const struct conn *c)
{
    return c->sent;
}

int64_t conn_first_byte_us(const struct conn *c)
{
    return c->first_byte_us;
}

int conn_peer_port(const struct conn *c)
{
    return c->peer_port;
}

struct conn *conn_new(struct server *server, int fd, int peer_port)
{
    struct conn *c = must_alloc(sizeof *c);
    *c = (struct conn){.server = server, .fd = fd, .peer_port = peer_port, .pace_us = -1, .first_byte_us = -1};
    list_init(&c->node);
    event_assign(&c->readable, server->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->writable, server->base, fd, EV_WRITE, on_writable, c);
    evtimer_assign(&c->tick, server->base, on_writable, c);
    evtimer_assign(&c->wake, server->base, on_wake, c);
    event_add(&c->readable, NULL);
    return c;
}
