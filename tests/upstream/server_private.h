/* What server.c and conn.c know of each other. */
#pragma once

#include "common/list.h"
#include "tests/upstream/server.h"

#define READ_SIZE (64 * 1024)

struct server {
    struct event_base *base;
    struct event *acceptable, *resume;
    int fd, port;
    server_handler *handler;
    void *handler_arg;
    struct list conns; /* open; owned */
    struct list ended; /* closed in this turn, to be freed after it; owned */
    struct server_stats stats;
    char scratch[READ_SIZE]; /* every read lands here first, so that idle connections hold no buffer */
};

/* The connection's descriptor is closed: move it to `ended`. */
void server_forget(struct server *s, struct list *node);

/* The struct conn whose first member is this node. */
static inline struct conn *server_conn(struct list *node)
{
    return (struct conn *)(void *)node;
}
