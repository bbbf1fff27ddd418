/* An HTTP server for tests of the worker: one thread per connection, every one plays the same script. */
#pragma once

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

enum then { KEEP, CLOSE, RESET, HOLD };

struct server;

/* One connection and its thread. */
struct serving {
    struct serving *next;
    struct server *server;
    pthread_t thread;
    pthread_mutex_t mutex; /* over fd, which its thread closes and close_server shuts */
    int fd;
};

struct server {
    int fd, port;
    const char *answer;
    size_t answer_len;
    enum then then;
    unsigned answers_max; /* RESET without an answer from then on; 0: no limit */
    atomic_uint connections, requests;
    atomic_llong peer_closed_at;
    pthread_t thread;
    struct serving *servings; /* of `thread` until it is joined */
    char head[4096];          /* of the last request */
    char body[4096];
};

static void cut(int fd)
{
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* false: the peer has closed. */
static bool read_request(struct server *server, int fd)
{
    char text[8192];
    size_t len = 0, body = 0;
    char *end = NULL;
    while (!end || len < (size_t)(end - text) + body) {
        ssize_t got = read(fd, text + len, sizeof text - 1 - len);
        if (got <= 0)
            return false;
        len += (size_t)got;
        text[len] = '\0';
        end = strstr(text, "\r\n\r\n");
        if (!end)
            continue;
        end += 4;
        const char *length = strcasestr(text, "content-length:");
        body = length ? (size_t)atoi(length + 15) : 0;
    }
    snprintf(server->head, sizeof server->head, "%.*s", (int)MIN(end - text, (ptrdiff_t)4095), text);
    snprintf(server->body, sizeof server->body, "%s", end);
    return true;
}

static void *serve_one(void *arg)
{
    struct serving *serving = arg;
    struct server *server = serving->server;
    int fd = serving->fd;
    while (read_request(server, fd)) {
        unsigned number = ++server->requests;
        if (server->answers_max && number > server->answers_max) {
            cut(fd);
            break;
        }
        for (size_t sent = 0; sent < server->answer_len;) {
            ssize_t did = send(fd, server->answer + sent, server->answer_len - sent, MSG_NOSIGNAL);
            if (did <= 0)
                break;
            sent += (size_t)did;
        }
        if (server->then == CLOSE)
            break;
        if (server->then == RESET) {
            cut(fd);
            break;
        }
        char byte;
        if (server->then == HOLD && read(fd, &byte, 1) <= 0)
            break;
    }
    if (server->then == HOLD)
        server->peer_closed_at = clock_mono();
    pthread_mutex_lock(&serving->mutex);
    close(fd);
    serving->fd = -1;
    pthread_mutex_unlock(&serving->mutex);
    return NULL;
}

static void *serve(void *arg)
{
    struct server *server = arg;
    int fd;
    while ((fd = accept(server->fd, NULL, NULL)) >= 0) {
        server->connections++;
        struct serving *serving = malloc(sizeof *serving);
        *serving = (struct serving){.next = server->servings, .server = server, .mutex = PTHREAD_MUTEX_INITIALIZER, .fd = fd};
        server->servings = serving;
        pthread_create(&serving->thread, NULL, serve_one, serving);
    }
    return NULL;
}

/* Has a port, takes no connection yet. */
static void listen_server(struct server *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    server->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(server->fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(server->fd, 16), 0);
    getsockname(server->fd, (struct sockaddr *)&address, &len);
    server->port = ntohs(address.sin_port);
}

static void accept_server(struct server *server)
{
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void close_server(struct server *server)
{
    shutdown(server->fd, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->fd);
    for (struct serving *serving; (serving = server->servings); free(serving)) {
        server->servings = serving->next;
        pthread_mutex_lock(&serving->mutex);
        if (serving->fd >= 0)
            shutdown(serving->fd, SHUT_RDWR);
        pthread_mutex_unlock(&serving->mutex);
        pthread_join(serving->thread, NULL);
    }
}
