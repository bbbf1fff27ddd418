/* One connection: bytes in, bytes out, exactly when and how the answerer wants them.
 *
 * A connection reads one request at a time and lends itself to whoever answers it (conn_take).
 * The answerer appends to conn_out, flushes, is told when everything has left, and gives the
 * connection back (conn_finish) or ends it.  It stays readable throughout, so a caller who leaves
 * is noticed at once, whatever the answerer is waiting for.
 *
 * libevent's plain events and not its bufferevents: see Decisions in README.md. */
#pragma once

#include "tests/upstream/http.h"

struct conn;
struct server;

/* What an answerer is told.  Each may finish or end the connection. */
struct conn_user {
    void (*drained)(void *arg); /* all of conn_out is with the kernel */
    void (*woken)(void *arg);   /* the time of conn_wake_after has come */
    void (*gone)(void *arg);    /* the caller left; the connection ends when this returns */
};

/* From accept: takes the descriptor. */
struct conn *conn_new(struct server *server, int fd, int peer_port);

/* Frees the memory of a connection that has ended; the server calls it between turns. */
void conn_free(struct conn *c);

/* Become the answerer of the request just handed over. */
void conn_take(struct conn *c, const struct conn_user *user, void *arg);

/* To append to; conn_flush sends it. */
struct bytes *conn_out(struct conn *c);

/* Send what the socket takes.  false: the caller is gone; the answerer then ends as `gone` does and calls conn_close. */
MUST_USE bool conn_flush(struct conn *c);

/* From now on, until the request is answered, one byte per write and this many us between them. */
void conn_pace(struct conn *c, int64_t us);

void conn_wake_after(struct conn *c, int64_t us);

/* The request is answered: go on to the next, or close when everything has left. */
void conn_finish(struct conn *c, bool keep_alive);

/* End now, with what is unsent forgotten. */
void conn_close(struct conn *c);
void conn_reset(struct conn *c); /* with a RST */

/* Tell the answerer that the caller is gone, and end. */
void conn_lose(struct conn *c);

/* Since conn_take: bytes that left, and when the first did (monotonic us; -1: none yet). */
uint64_t conn_sent(const struct conn *c);
int64_t conn_first_byte_us(const struct conn *c);

int conn_peer_port(const struct conn *c);
