/* The listener and its connections. */
#pragma once

#include "tests/upstream/http.h"

#include <event2/event.h>

struct conn;
struct server;

/* A complete request.  `in` holds its bytes, lent until this returns; the handler takes the
 * connection, or appends a reply and finishes it. */
typedef void server_handler(void *arg, struct conn *c, const struct http_request *q, const struct bytes *in);

/* address: "127.0.0.1:0" and the like.  NULL with a message on stderr when it cannot listen. */
struct server *server_new(struct event_base *base, const char *address, server_handler *handler, void *arg);

/* Ends every connection; answerers are told that their caller is gone. */
void server_free(struct server **s);

int server_port(const struct server *s);

/* Once per turn of the loop: free what ended in it. */
void server_turn(struct server *s);

struct server_stats {
    uint64_t accepted, connections, peak_connections;
    uint64_t refused;    /* bytes that were no request: answered 4xx and closed */
    uint64_t incomplete; /* callers who left in the middle of a request */
};
const struct server_stats *server_stats(const struct server *s);
