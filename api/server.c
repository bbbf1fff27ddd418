#include "api/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/inbox.h"
#include "common/clock.h"
#include "common/patience.h"
#include "common/role.h"

#define BACKLOG           4096
#define OTHER_DESCRIPTORS 64 /* what a child needs beside its connections */

/* --- listening --- */

static void listen_again(struct server *s)
{
    bool wanted = s->open && s->listener >= 0 && !s->draining && s->conns_count < s->conns_max;
    if (wanted == s->listening)
        return;
    if (wanted ? event_add(&s->acceptable, NULL) : event_del(&s->acceptable))
        return; /* tried again with the next connection that comes or goes */
    s->listening = wanted;
}

static void on_resume(void *arg)
{
    listen_again(arg);
}

/* No descriptor is left. Listening on would spin; so the one caller at the head of the queue is told, with the descriptor kept
 * for that, and the rest is left to the other children and to better times. */
static void out_of_descriptors(struct server *s)
{
    static const char reply[] =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    s->counts.no_descriptor++;
    if (s->reserve >= 0) {
        close(s->reserve);
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            (void)!write(fd, reply, sizeof reply - 1);
            close(fd);
        }
        s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    event_del(&s->acceptable);
    s->listening = false;
    timer_set(s->resume, loop_now(s->loop) + SERVER_PAUSE_MS);
}

static void on_acceptable(evutil_socket_t listener, short what, void *arg)
{
    struct server *s = arg;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            out_of_descriptors(s);
        return; /* another child was faster, or the caller has left */
    }
    s->counts.accepted++;
    if (!conn_new(s, fd))
        s->counts.no_descriptor++;
    listen_again(s);
}

static enum err listen_on(const struct addrinfo *address, int *ret_fd, unsigned *ret_port)
{
    int on = 1, fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_SYSTEM;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } bound = {0};
    socklen_t len = sizeof bound;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, address->ai_addr, address->ai_addrlen) ||
        listen(fd, BACKLOG) || getsockname(fd, &bound.any, &len)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return ERR_SYSTEM;
    }
    *ret_port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    *ret_fd = fd;
    return ERR_OK;
}

enum err server_listen(const char *host, unsigned port, int *ret_fd, unsigned *ret_port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[16];
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &hints, &found)) {
        errno = EADDRNOTAVAIL;
        return ERR_SYSTEM;
    }
    enum err e = listen_on(found, ret_fd, ret_port);
    int saved = errno;
    freeaddrinfo(found);
    errno = saved;
    return e;
}

/* --- clocks --- */

void server_clock_start(struct server *s, enum server_clock kind, struct conn_clock *clock)
{
    list_remove(&clock->node);
    clock->due_at = loop_now(s->loop) + s->clock_ms[kind];
    list_push_back(&s->clocks[kind], &clock->node);
    if (clock->due_at < s->alarm_at) {
        s->alarm_at = clock->due_at;
        timer_set(s->alarm, s->alarm_at);
    }
}

static void expire(struct server *s, enum server_clock kind, msec now)
{
    struct list *node;
    while ((node = list_first(&s->clocks[kind]))) {
        struct conn_clock *clock = CONTAINER_OF(node, struct conn_clock, node);
        if (clock->due_at > now) {
            s->alarm_at = MIN(s->alarm_at, clock->due_at);
            return;
        }
        list_remove(node);
        if (kind == CLOCK_WRITE)
            conn_write_expired(CONTAINER_OF(clock, struct conn, write_clock));
        else
            conn_expired(CONTAINER_OF(clock, struct conn, clock));
    }
}

/* The alarm is left where it is when a clock stops, so it may ring for nothing: cheaper than moving it with every request. */
static void on_alarm(void *arg)
{
    struct server *s = arg;
    msec now = loop_now(s->loop);
    s->alarm_at = MSEC_NEVER;
    for (int kind = 0; kind < CLOCKS; kind++)
        expire(s, (enum server_clock)kind, now);
    timer_set(s->alarm, s->alarm_at);
}

/* --- what connections ask of the server --- */

void server_touch(struct server *s, struct conn *c)
{
    if (list_empty(&c->in_turn))
        list_push_back(&s->turn, &c->in_turn);
}

bool server_input_room(struct server *s, size_t bytes)
{
    return bytes <= SERVER_INPUT_BYTES - MIN(s->input_bytes, SERVER_INPUT_BYTES);
}

void server_left(struct server *s)
{
    if (s->conns_count < s->conns_max - s->conns_max / 16)
        listen_again(s);
    if (s->draining && s->conns_count == 0)
        s->hooks.drained(s->hooks.arg);
}

const char *server_date(struct server *s)
{
    msec now = loop_now(s->loop);
    if (now >= s->date_due) {
        msec wall = clock_wall();
        http_date(wall / 1000, s->date);
        s->date_due = now + 1000 - wall % 1000;
    }
    return s->date;
}

void server_whole(struct server *s, bool whole)
{
    if (whole)
        s->broken_since = 0;
    else if (!s->broken_since)
        s->broken_since = loop_now(s->loop);
}

msec server_patience(const struct server *s)
{
    return patience(s->broken_since ? loop_now(s->loop) - s->broken_since : 0);
}

/* --- turn --- */

void server_serve(struct server *s)
{
    struct list *node;
    LIST_EACH (node, &s->turn)
        conn_serve(CONTAINER_OF(node, struct conn, in_turn));
}

/* Memory is short: whoever has taken nothing for longest goes first. */
static void cut_stuck_readers(struct server *s)
{
    struct list *node, *after;
    size_t freed = 0;
    LIST_EACH_SAFE (node, after, &s->clocks[CLOCK_WRITE]) {
        if (s->output_bytes - freed <= SERVER_OUTPUT_BYTES)
            return;
        struct conn *c = CONTAINER_OF(node, struct conn, write_clock.node);
        freed += c->out_bytes;
        conn_write_expired(c);
    }
}

void server_flush(struct server *s)
{
    struct list now, *node;
    if (s->output_bytes > SERVER_OUTPUT_BYTES)
        cut_stuck_readers(s);
    list_init(&now);
    list_append(&now, &s->turn);
    while ((node = list_first(&now))) {
        list_remove(node);
        conn_flush(CONTAINER_OF(node, struct conn, in_turn));
    }
}

/* --- beginning and end --- */

/* As many connections as asked for, if the process may have so many descriptors. */
static unsigned connections_allowed(unsigned wanted)
{
    uint64_t limit = role_descriptors();
    if (!limit)
        return wanted;
    uint64_t room = limit > 2 * OTHER_DESCRIPTORS ? limit - OTHER_DESCRIPTORS : OTHER_DESCRIPTORS;
    return (unsigned)MIN((uint64_t)wanted, room);
}

static enum err open_parts(struct server *s)
{
    int on = 1;
    s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    s->resume = timer_new(s->loop, on_resume, s);
    s->alarm = timer_new(s->loop, on_alarm, s);
    if (!s->resume || !s->alarm)
        return ERR_NOMEM;
    if (s->reserve < 0 || getrandom(&s->random, sizeof s->random, 0) != sizeof s->random)
        return ERR_SYSTEM;
    /* accepted sockets inherit it; a listener that is not TCP has none */
    (void)setsockopt(s->listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (event_assign(&s->acceptable, loop_base(s->loop), s->listener, EV_READ | EV_PERSIST, on_acceptable, s))
        return ERR_SYSTEM;
    return ERR_OK;
}

void server_open(struct server *s)
{
    s->open = true;
    listen_again(s);
}

enum err server_new(struct loop *loop, int listener, const struct conf *conf, struct server_hooks hooks,
                    struct server **ret_server)
{
    AUTO(server_free) struct server *s = calloc(1, sizeof *s);
    if (!s) {
        close(listener);
        return ERR_NOMEM;
    }
    *s = (struct server){.loop = loop,
                         .conf = conf,
                         .hooks = hooks,
                         .listener = listener,
                         .reserve = -1,
                         .alarm_at = MSEC_NEVER,
                         .conns_max = connections_allowed((unsigned)conf->api.connections)};
    const msec clock_ms[CLOCKS] = {
        [CLOCK_IDLE] = (msec)conf->api.idle_ms,
        [CLOCK_HEAD] = (msec)conf->api.head_ms,
        [CLOCK_BODY] = (msec)conf->api.body_ms,
        [CLOCK_LINGER] = SERVER_LINGER_MS,
        [CLOCK_FAREWELL] = MIN(SERVER_FAREWELL_MS, (msec)conf->api.stop_ms / 2),
        [CLOCK_WRITE] = (msec)conf->api.write_ms,
    };
    memcpy(s->clock_ms, clock_ms, sizeof clock_ms);
    for (int kind = 0; kind < CLOCKS; kind++)
        list_init(&s->clocks[kind]);
    list_init(&s->conns);
    list_init(&s->turn);
    list_init(&s->inboxes);
    list_init(&s->exchanges);
    enum err e = open_parts(s);
    if (e)
        return e;
    *ret_server = TAKE(s);
    return ERR_OK;
}

static void stop_listening(struct server *s)
{
    if (s->listener < 0)
        return;
    if (s->listening)
        event_del(&s->acceptable);
    s->listening = false;
    close(s->listener);
    s->listener = -1;
}

void server_free(struct server **server)
{
    struct server *s = TAKE(*server);
    struct list *node;
    if (!s)
        return;
    s->draining = false; /* nobody asks for news any more */
    stop_listening(s);
    while ((node = list_first(&s->conns)))
        conn_free(CONTAINER_OF(node, struct conn, in_server));
    inbox_pool_free(s);
    conn_pool_free(s);
    timer_free(&s->resume);
    timer_free(&s->alarm);
    if (s->reserve >= 0)
        close(s->reserve);
    free(s);
}

void server_drain(struct server *s)
{
    struct list *node;
    if (s->draining)
        return;
    s->draining = true;
    stop_listening(s);
    LIST_EACH (node, &s->conns)
        conn_drain(CONTAINER_OF(node, struct conn, in_server));
    loop_again(s->loop);
    if (s->conns_count == 0)
        s->hooks.drained(s->hooks.arg);
}
