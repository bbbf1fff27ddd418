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

struct server {
    int fd, port;
    const char *answer;
    size_t answer_len;
    enum then then;
    unsigned answers_max; /* RESET without an answer from then on; 0: no limit */
    atomic_uint connections, requests;
    atomic_llong peer_closed_at;
    pthread_t thread;
    char head[4096]; /* of the last request */
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

struct serving {
    struct server *server;
    int fd;
};

static void *serve_one(void *arg)
{
    struct serving serving = *(struct serving *)arg;
    struct server *server = serving.server;
    free(arg);
    while (read_request(server, serving.fd)) {
        unsigned number = ++server->requests;
        if (server->answers_max && number > server->answers_max) {
            cut(serving.fd);
            break;
        }
        for (size_t sent = 0; sent < server->answer_len;) {
            ssize_t did = send(serving.fd, server->answer + sent, server->answer_len - sent, MSG_NOSIGNAL);
            if (did <= 0)
                break;
            sent += (size_t)did;
        }
        if (server->then == CLOSE)
            break;
        if (server->then == RESET) {
            cut(serving.fd);
            break;
        }
        char byte;
        if (server->then == HOLD && read(serving.fd, &byte, 1) <= 0)
            break;
    }
    if (server->then == HOLD)
        server->peer_closed_at = clock_mono();
    close(serving.fd);
    return NULL;
}

static void *serve(void *arg)
{
    struct server *server = arg;
    int fd;
    while ((fd = accept(server->fd, NULL, NULL)) >= 0) {
        server->connections++;
        struct serving *serving = malloc(sizeof *serving);
        *serving = (struct serving){server, fd};
        pthread_t thread;
        pthread_create(&thread, NULL, serve_one, serving);
        pthread_detach(thread);
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
}
