/* The listener and its connections: see server.h. */
#include "tests/upstream/server_private.h"

#include "tests/upstream/conn.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS_PER_WAKE 256
#define BACKLOG          4096

/* It lies at one place in both families. */
static int port_in(const struct sockaddr_storage *at)
{
    struct sockaddr_in in;
    memcpy(&in, at, sizeof in);
    return ntohs(in.sin_port);
}

static void accept_one(struct server *s, int fd, const struct sockaddr_storage *peer)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    s->stats.accepted++;
    if (++s->stats.connections > s->stats.peak_connections)
        s->stats.peak_connections = s->stats.connections;
    list_push_back(&s->conns, (struct list *)(void *)conn_new(s, fd, port_in(peer)));
}

/* Out of descriptors: leave callers in the backlog for a moment instead of spinning on them. */
static void pause_accepting(struct server *s)
{
    event_del(s->acceptable);
    evtimer_add(s->resume, &(struct timeval){.tv_usec = 50 * 1000});
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    for (int i = 0; i < ACCEPTS_PER_WAKE; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int client = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client >= 0)
            accept_one(s, client, &peer);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            return pause_accepting(s);
        else if (errno == EAGAIN)
            return;
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    event_add(((struct server *)arg)->acceptable, NULL);
}

/* "127.0.0.1:8080", "[::1]:0"; libevent's own parser refuses port 0.  NULL when it is none. */
static struct addrinfo *parse_address(const char *text)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[64];
    const char *colon = strrchr(text, ':');
    bool bracketed = *text == '[' && colon && colon[-1] == ']';
    if (!colon || (size_t)(colon - text) >= sizeof host)
        return NULL;
    snprintf(host, sizeof host, "%.*s", (int)(colon - text) - 2 * bracketed, text + bracketed);
    return getaddrinfo(host, colon + 1, &hints, &found) == 0 ? found : NULL;
}

static bool bind_to(int fd, const struct addrinfo *at)
{
    return fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) == 0 &&
           bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
}

/* The listening descriptor, or -1 with a message. */
static int listen_at(const char *address)
{
    struct addrinfo *at = parse_address(address);
    if (!at) {
        fprintf(stderr, "quern-upstream: not an address: %s\n", address);
        return -1;
    }
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!bind_to(fd, at)) {
        fprintf(stderr, "quern-upstream: %s: %s\n", address, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(at);
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_storage at = {0};
    socklen_t len = sizeof at;
    getsockname(fd, (struct sockaddr *)&at, &len);
    return port_in(&at);
}

struct server *server_new(struct event_base *base, const char *address, server_handler *handler, void *arg)
{
    int fd = listen_at(address);
    if (fd < 0)
        return NULL;
    struct server *s = must_alloc(sizeof *s);
    *s = (struct server){.base = base, .fd = fd, .port = port_of(fd), .handler = handler, .handler_arg = arg};
    list_init(&s->conns);
    list_init(&s->ended);
    s->acceptable = event_new(base, fd, EV_READ | EV_PERSIST, on_acceptable, s);
    s->resume = evtimer_new(base, on_resume, s);
    event_add(s->acceptable, NULL);
    return s;
}

void server_free(struct server **p)
{
    struct server *s = *p;
    if (!s)
        return;
    while (!list_empty(&s->conns))
        conn_lose(server_conn(list_first(&s->conns)));
    server_turn(s);
    event_free(s->acceptable);
    event_free(s->resume);
    close(s->fd);
    free(s);
    *p = NULL;
}

int server_port(const struct server *s)
{
    return s->port;
}

void server_forget(struct server *s, struct list *node)
{
    s->stats.connections--;
    list_remove(node);
    list_push_back(&s->ended, node);
}

void server_turn(struct server *s)
{
    while (!list_empty(&s->ended)) {
        struct list *node = list_first(&s->ended);
        list_remove(node);
        conn_free(server_conn(node));
    }
}

const struct server_stats *server_stats(const struct server *s)
{
    return &s->stats;
}
